//! Measures how many reservations are undecided, and for how long: the metrics by which an operator sees sagas under way
//! and stuck sagas.

use std::time::Duration;

use service_kit::messaging::database::{self, ReadConnection};
use service_kit::messaging::{Fault, Step, Worker};
use tokio_util::sync::CancellationToken;

use crate::store;
use crate::unit_of_work::UnitOfWork;

/// How often the query runs. Each replica runs it, and sees the same.
const PERIOD: Duration = Duration::from_secs(5);

/// Measures until told to stop.
///
/// # Errors
/// If a fatal fault occurs.
pub async fn run(unit_of_work: UnitOfWork, stop: CancellationToken) -> anyhow::Result<()> {
    Worker::new("counting undecided reservations", PERIOD)
        .run(stop, || database::with_time_limit(step(&unit_of_work)))
        .await
}

async fn step(unit_of_work: &UnitOfWork) -> Result<Step, Fault> {
    let mut connection = ReadConnection::begin(&unit_of_work.pool).await?;
    let stats = store::pending_stats(&mut connection).await?;
    connection.end();
    unit_of_work.metrics.set_pending_stats(&stats);
    Ok(Step::Idle)
}
