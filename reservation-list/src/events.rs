//! Outcomes from the log, projected a batch at a time.

use prometheus::{IntCounterVec, Opts, Registry};
use service_kit::events::{Delivery, EventHandler, Fault};
use sqlx::PgConnection;

use crate::projection::{Reservation, Status, Writes, fold};
use crate::store;

/// How the list changed.
#[derive(Clone)]
pub struct ListMetrics {
    changes: IntCounterVec,
}

impl ListMetrics {
    /// # Errors
    /// A name that is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let changes = IntCounterVec::new(
            Opts::new("list_changes_total", "Rows of the list inserted or changed, by their status then"),
            &["status"],
        )?;
        for status in Status::ALL {
            // A rate needs a zero to begin with.
            changes.with_label_values(&[status.as_str()]);
        }
        registry.register(Box::new(changes.clone()))?;
        Ok(Self { changes })
    }

    fn count(&self, changes: &Changes) {
        self.changes.with_label_values(&[Status::Confirmed.as_str()]).inc_by(changes.confirmed as u64);
        self.changes.with_label_values(&[Status::Cancelled.as_str()]).inc_by(changes.cancelled as u64);
    }
}

/// Rows that a batch changed.
#[derive(Default)]
pub struct Changes {
    confirmed: usize,
    cancelled: usize,
}

impl From<&Writes> for Changes {
    fn from(writes: &Writes) -> Self {
        let confirmed = writes.new.iter().filter(|row| row.status == Status::Confirmed).count();
        Self { confirmed, cancelled: writes.new.len() - confirmed + writes.cancelled.len() }
    }
}

pub struct Handler {
    pub metrics: ListMetrics,
}

impl EventHandler for Handler {
    type Effects = Changes;

    async fn apply(
        &self,
        connection: &mut PgConnection,
        deliveries: &[&Delivery],
    ) -> Result<Self::Effects, Fault> {
        let inputs: Vec<Reservation> =
            deliveries.iter().filter_map(|delivery| Reservation::of(&delivery.event)).collect();
        if inputs.is_empty() {
            return Ok(Changes::default());
        }
        let state = store::load(connection, &inputs).await?;
        let writes = fold(state, inputs);
        store::save(connection, &writes).await?;
        Ok(Changes::from(&writes))
    }

    fn committed(&self, changes: Self::Effects) {
        self.metrics.count(&changes);
    }
}
