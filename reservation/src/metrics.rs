//! How sagas end, and how long that takes.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

use crate::reservation::{Decided, Status};
use crate::store::Undecided;

#[derive(Clone)]
pub struct ReservationMetrics {
    outcomes: IntCounterVec,
    decision_seconds: Histogram,
    undecided: IntGauge,
    oldest_undecided_seconds: Gauge,
    overdue_seconds: Gauge,
    pub refused: IntCounter,
    pub unknown: IntCounter,
}

impl ReservationMetrics {
    /// # Errors
    /// A name that is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            outcomes: IntCounterVec::new(
                Opts::new("saga_outcomes_total", "Reservations by how they were decided"),
                &["status", "reason"],
            )?,
            decision_seconds: Histogram::with_opts(
                HistogramOpts::new("saga_decision_duration_seconds", "From placing to being decided")
                    .buckets(exponential_buckets(0.002, 2.0, 15)?),
            )?,
            undecided: IntGauge::new("saga_undecided_reservations", "Reservations that are not decided yet")?,
            oldest_undecided_seconds: Gauge::new(
                "saga_oldest_undecided_seconds",
                "Age of the oldest reservation that is not decided yet",
            )?,
            overdue_seconds: Gauge::new(
                "saga_overdue_seconds",
                "How long ago the first deadline of what is still undecided was; 0 if it is to come",
            )?,
            refused: IntCounter::new(
                "reservation_refused_total",
                "Reservations refused with 503 because they could not be decided in time",
            )?,
            unknown: IntCounter::new(
                "reservation_unknown_replies_total",
                "Replies about reservations that do not exist",
            )?,
        };
        registry.register(Box::new(metrics.outcomes.clone()))?;
        registry.register(Box::new(metrics.decision_seconds.clone()))?;
        registry.register(Box::new(metrics.undecided.clone()))?;
        registry.register(Box::new(metrics.oldest_undecided_seconds.clone()))?;
        registry.register(Box::new(metrics.overdue_seconds.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.unknown.clone()))?;
        Ok(metrics)
    }

    /// Counts what a committed batch decided.
    pub fn count(&self, decided: &[Decided]) {
        for Decided { status, placed_at, at, first } in decided {
            let reason = status.reason().map_or("", |reason| reason.as_str());
            self.outcomes.with_label_values(&[Status::as_str(*status), reason]).inc();
            if *first {
                let took = at.moment() - placed_at.moment();
                // Clocks of replicas differ: none was decided before it was placed.
                self.decision_seconds.observe(took.as_seconds_f64().max(0.0));
            }
        }
    }

    /// Shows what is undecided, in the whole database.
    pub fn show(&self, undecided: &Undecided) {
        self.undecided.set(undecided.reservations);
        self.oldest_undecided_seconds.set(undecided.oldest_secs);
        self.overdue_seconds.set(undecided.overdue_secs);
    }
}
