//! Metrics of notifications and e-mails.

use prometheus::{Gauge, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::notification::Status;
use crate::store::email::{Backlog, Outcome};

/// Counts notifications.
#[derive(Clone)]
pub struct NotificationMetrics {
    notifications: IntCounterVec,
}

impl NotificationMetrics {
    /// # Errors
    /// If a metric's name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let notifications = IntCounterVec::new(
            Opts::new("notifications_total", "Notifications recorded, by the outcome that they tell"),
            &["outcome"],
        )?;
        for status in Status::ALL {
            // A counter starts at 0: without it Prometheus misses the first increase.
            notifications.with_label_values(&[status.as_str()]);
        }
        registry.register(Box::new(notifications.clone()))?;
        Ok(Self { notifications })
    }

    pub fn count(&self, recorded: &[Status]) {
        for status in Status::ALL {
            let count = recorded.iter().filter(|recorded| **recorded == status).count();
            self.notifications.with_label_values(&[status.as_str()]).inc_by(count as u64);
        }
    }
}

/// Counts attempts at e-mails, and those that are not sent.
#[derive(Clone)]
pub struct EmailMetrics {
    attempts: IntCounterVec,
    backlog: IntGaugeVec,
    oldest_pending_seconds: Gauge,
}

impl EmailMetrics {
    /// # Errors
    /// If a metric's name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            attempts: IntCounterVec::new(
                Opts::new("email_attempts_total", "Attempts at sending an e-mail, by what came of them"),
                &["outcome"],
            )?,
            backlog: IntGaugeVec::new(
                Opts::new("email_backlog", "E-mails that are not sent: pending, or failed"),
                &["state"],
            )?,
            oldest_pending_seconds: Gauge::new(
                "email_oldest_pending_seconds",
                "Age of the oldest e-mail that is pending",
            )?,
        };
        for outcome in ["sent", "again", "failed"] {
            metrics.attempts.with_label_values(&[outcome]);
        }
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.backlog.clone()))?;
        registry.register(Box::new(metrics.oldest_pending_seconds.clone()))?;
        Ok(metrics)
    }

    pub fn count(&self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Sent => "sent",
            Outcome::Retry { .. } => "again",
            Outcome::Failed { .. } => "failed",
        };
        self.attempts.with_label_values(&[outcome]).inc();
    }

    pub fn set_backlog(&self, backlog: &Backlog) {
        self.backlog.with_label_values(&["pending"]).set(backlog.pending);
        self.backlog.with_label_values(&["failed"]).set(backlog.failed);
        self.oldest_pending_seconds.set(backlog.oldest_pending_secs);
    }
}
