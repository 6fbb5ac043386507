//! What an operator sees: one trace over a whole saga, who caused what, and every service's metrics.

mod metrics;
mod traces;

pub(crate) use metrics::metrics_tell_what_happened;
pub(crate) use traces::one_trace_covers_a_saga;
