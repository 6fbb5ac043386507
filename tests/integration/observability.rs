//! Observability: the metrics of every service, one trace for each saga, and the spans that a collector receives.

mod metrics;
mod otlp;
mod traces;

pub(crate) use metrics::metrics_count_what_happened;
pub(crate) use otlp::a_collector_receives_the_whole_saga;
pub(crate) use traces::one_trace_covers_a_saga;
