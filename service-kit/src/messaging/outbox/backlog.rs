//! The gauges of the outbox: how many events wait, and since when.

use std::time::Duration;

use anyhow::Context;
use sqlx::{PgPool, Row};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::messaging::metrics::EventMetrics;

const PERIOD: Duration = Duration::from_secs(5);

/// Updates the outbox gauges until told to stop. If the query fails, it is repeated after the next period.
///
/// # Errors
/// If a column doesn't have the expected type, which is a bug.
pub async fn watch(pool: PgPool, metrics: EventMetrics, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let backlog = sqlx::query(
            "select count(*) as events,
                    coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 as age
             from outbox",
        )
        .fetch_one(&pool)
        .await;
        match backlog {
            Ok(row) => {
                metrics.outbox_backlog.set(row.try_get("events").context("events")?);
                metrics.outbox_age_seconds.set(row.try_get("age").context("age")?);
            }
            Err(error) => debug!(%error, "the outbox can't be counted now"),
        }
    }
}
