//! Outcomes from the log, recorded a batch at a time.

use prometheus::{IntCounterVec, Opts, Registry};
use service_kit::events::{Delivery, EventHandler, Fault};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::notification::{Notification, Status, fold};
use crate::store;

/// What customers were told.
#[derive(Clone)]
pub struct NotificationMetrics {
    notifications: IntCounterVec,
}

impl NotificationMetrics {
    /// # Errors
    /// A name that is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let notifications = IntCounterVec::new(
            Opts::new("notifications_total", "Notifications recorded, by the outcome that they tell"),
            &["outcome"],
        )?;
        for status in Status::ALL {
            // A rate needs a zero to begin with.
            notifications.with_label_values(&[status.as_str()]);
        }
        registry.register(Box::new(notifications.clone()))?;
        Ok(Self { notifications })
    }

    fn count(&self, recorded: &[Status]) {
        for status in Status::ALL {
            let count = recorded.iter().filter(|recorded| **recorded == status).count();
            self.notifications.with_label_values(&[status.as_str()]).inc_by(count as u64);
        }
    }
}

pub struct Handler {
    pub metrics: NotificationMetrics,
}

impl EventHandler for Handler {
    type Effects = Vec<Status>;

    async fn apply(
        &self,
        connection: &mut PgConnection,
        deliveries: &[&Delivery],
    ) -> Result<Self::Effects, Fault> {
        let inputs: Vec<Notification> = deliveries
            .iter()
            .filter_map(|delivery| Notification::of(&delivery.event, Uuid::now_v7()))
            .collect();
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let state = store::load(connection, &inputs).await?;
        let writes = fold(state, inputs);
        Ok(store::save(connection, &writes).await?)
    }

    fn committed(&self, recorded: Self::Effects) {
        self.metrics.count(&recorded);
    }
}
