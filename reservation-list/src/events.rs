//! Projects outcomes from the log, a batch at a time.

use prometheus::{IntCounterVec, Opts, Registry};
use service_kit::messaging::waiters::StatusWaiters;
use service_kit::messaging::{Delivery, EventHandler, Fault};
use shared_events::ReservationId;
use sqlx::PgConnection;

use crate::projection::{Reservation, Status, fold};
use crate::store;

/// Counts changes of the list.
#[derive(Clone)]
pub struct ListMetrics {
    changes: IntCounterVec,
}

impl ListMetrics {
    /// # Errors
    /// If the metric's name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let changes = IntCounterVec::new(
            Opts::new("list_changes_total", "Rows of the list inserted or changed, by their status then"),
            &["status"],
        )?;
        for status in Status::ALL {
            // A counter starts at 0: without it Prometheus misses the first increase.
            changes.with_label_values(&[status.as_str()]);
        }
        registry.register(Box::new(changes.clone()))?;
        Ok(Self { changes })
    }

    fn count(&self, changes: &[(ReservationId, Status)]) {
        for (_, status) in changes {
            self.changes.with_label_values(&[status.as_str()]).inc();
        }
    }
}

pub struct Handler {
    pub metrics: ListMetrics,
    pub waiters: StatusWaiters<Status>,
}

impl EventHandler for Handler {
    /// The rows that a batch inserted or changed, with their new status.
    type Effects = Vec<(ReservationId, Status)>;

    async fn apply(
        &self,
        connection: &mut PgConnection,
        deliveries: &[&Delivery],
    ) -> Result<Self::Effects, Fault> {
        let inputs: Vec<Reservation> =
            deliveries.iter().filter_map(|delivery| Reservation::from_event(&delivery.event)).collect();
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let state = store::load(connection, &inputs).await?;
        let writes = fold(state, inputs);
        store::save(connection, &writes).await?;
        Ok(writes.changes().collect())
    }

    fn committed(&self, changes: Self::Effects) {
        self.metrics.count(&changes);
        for (id, status) in changes {
            self.waiters.notify(id, status);
        }
    }
}
