//! How much is undecided, and for how long: what an operator is to see of sagas under way and of sagas that are stuck.

use std::time::Duration;

use service_kit::messaging::database::{self, ReadConnection};
use service_kit::messaging::{Fault, Step, Worker};
use tokio_util::sync::CancellationToken;

use crate::store;
use crate::unit_of_work::UnitOfWork;

/// How often it looks. Each replica does, and sees the same.
const PERIOD: Duration = Duration::from_secs(5);

/// Looks until told to stop.
///
/// # Errors
/// A fatal fault.
pub async fn watch(unit_of_work: UnitOfWork, stop: CancellationToken) -> anyhow::Result<()> {
    Worker::new("counting what is undecided", PERIOD)
        .run(stop, || database::with_time_limit(step(&unit_of_work)))
        .await
}

async fn step(unit_of_work: &UnitOfWork) -> Result<Step, Fault> {
    let mut reading = ReadConnection::begin(&unit_of_work.pool).await?;
    let undecided = store::undecided(&mut reading).await?;
    reading.end();
    unit_of_work.metrics.show(&undecided);
    Ok(Step::Idle)
}
