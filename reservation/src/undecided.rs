//! How much is undecided, and for how long: what an operator is to see of sagas under way and of sagas that are stuck.

use std::time::Duration;

use service_kit::events::database::{self, Reading};
use service_kit::events::{Fault, Step, Worker};
use tokio_util::sync::CancellationToken;

use crate::{Road, store};

/// How often it looks. Each replica does, and sees the same.
const PERIOD: Duration = Duration::from_secs(5);

/// Looks until told to stop.
///
/// # Errors
/// A fatal fault.
pub async fn watch(road: Road, stop: CancellationToken) -> anyhow::Result<()> {
    Worker::new("counting what is undecided", PERIOD).run(stop, || database::bounded(step(&road))).await
}

async fn step(road: &Road) -> Result<Step, Fault> {
    let mut reading = Reading::begin(&road.pool).await?;
    let undecided = store::undecided(&mut reading).await?;
    reading.end();
    road.metrics.show(&undecided);
    Ok(Step::Idle)
}
