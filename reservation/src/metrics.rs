//! How sagas end, how long that takes, and how many are still undecided.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

use crate::reservation::{Outcome, Status};
use crate::store::PendingStats;

#[derive(Clone)]
pub struct ReservationMetrics {
    outcomes: IntCounterVec,
    decision_seconds: Histogram,
    pending: IntGauge,
    oldest_undecided_seconds: Gauge,
    overdue_seconds: Gauge,
    /// Reservations refused by `admission`.
    pub refused: IntCounter,
    /// Movie's answers about reservations that do not exist.
    pub unknown_replies: IntCounter,
}

impl ReservationMetrics {
    /// # Errors
    /// If a metric's name is taken.
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
            pending: IntGauge::new("saga_undecided_reservations", "Reservations that are not decided yet")?,
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
            unknown_replies: IntCounter::new(
                "reservation_unknown_replies_total",
                "Replies about reservations that do not exist",
            )?,
        };
        registry.register(Box::new(metrics.outcomes.clone()))?;
        registry.register(Box::new(metrics.decision_seconds.clone()))?;
        registry.register(Box::new(metrics.pending.clone()))?;
        registry.register(Box::new(metrics.oldest_undecided_seconds.clone()))?;
        registry.register(Box::new(metrics.overdue_seconds.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.unknown_replies.clone()))?;
        Ok(metrics)
    }

    /// Counts the outcomes of a committed batch.
    pub fn count(&self, outcomes: &[Outcome]) {
        for Outcome { status, placed_at, decided_at, was_pending } in outcomes {
            let reason = status.reason().map_or("", |reason| reason.as_str());
            self.outcomes.with_label_values(&[Status::as_str(*status), reason]).inc();
            if *was_pending {
                let duration = decided_at.moment() - placed_at.moment();
                // The clocks of replicas differ, so the difference may be negative.
                self.decision_seconds.observe(duration.as_seconds_f64().max(0.0));
            }
        }
    }

    /// Sets the gauges, which are of the whole database.
    pub fn set_pending_stats(&self, stats: &PendingStats) {
        self.pending.set(stats.reservations);
        self.oldest_undecided_seconds.set(stats.oldest_secs);
        self.overdue_seconds.set(stats.overdue_secs);
    }
}
