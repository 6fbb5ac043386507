//! What an operator sees: one trace over a whole saga, who caused what, and every service's metrics.

mod metrics;
mod otlp;
mod traces;

pub(crate) use metrics::metrics_tell_what_happened;
pub(crate) use otlp::a_collector_sees_the_whole_saga;
pub(crate) use traces::one_trace_covers_a_saga;
