//! Records outcomes from the log, a batch at a time.

use std::sync::Arc;

use service_kit::messaging::{Delivery, EventHandler, Fault};
use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::metrics::NotificationMetrics;
use crate::notification::{Notification, Status, fold};
use crate::store;

pub struct Handler {
    pub metrics: NotificationMetrics,
    /// Wakes the sender of e-mails; `None` without a mail server.
    pub wake_sender: Option<Arc<Notify>>,
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
            .filter_map(|delivery| Notification::from_event(&delivery.event, Uuid::now_v7()))
            .collect();
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let state = store::load(connection, &inputs).await?;
        let writes = fold(state, inputs);
        Ok(store::save(connection, &writes, self.wake_sender.is_some()).await?)
    }

    fn committed(&self, recorded: Self::Effects) {
        self.metrics.count(&recorded);
        if let Some(sender) = &self.wake_sender
            && !recorded.is_empty()
        {
            sender.notify_one();
        }
    }
}
