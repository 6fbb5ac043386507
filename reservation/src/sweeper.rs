//! Cancels reservations that are undecided past their deadline, through the same unit of work as every other change.

use std::time::Duration;

use service_kit::messaging::database::{self, Transaction};
use service_kit::messaging::failpoint::failpoint;
use service_kit::messaging::{Fault, Step, Worker};
use shared_events::Origin;
use tokio_util::sync::CancellationToken;

use crate::reservation::{Command, Input};
use crate::unit_of_work::UnitOfWork;
use crate::{failpoints, store};

/// How often the sweeper runs.
const PERIOD: Duration = Duration::from_millis(500);

/// The most reservations cancelled in one transaction.
const BATCH_MAX: i64 = 500;

/// Sweeps until told to stop.
///
/// # Errors
/// If a fatal fault occurs.
pub async fn run(unit_of_work: UnitOfWork, stop: CancellationToken) -> anyhow::Result<()> {
    Worker::new("sweeping deadlines", PERIOD)
        .run(stop, || database::with_time_limit(step(&unit_of_work)))
        .await
}

/// Cancels one batch of reservations past their deadline.
///
/// # Errors
/// Nothing was committed, unless the response to the commit was lost.
pub async fn step(unit_of_work: &UnitOfWork) -> Result<Step, Fault> {
    let mut transaction = Transaction::begin(&unit_of_work.pool).await?;
    let expired = store::load_past_deadline(&mut transaction, BATCH_MAX).await?;
    if expired.is_empty() {
        transaction.commit().await?;
        return Ok(Step::Idle);
    }
    let inputs: Vec<_> = expired
        .iter()
        .map(|reservation| Input { id: reservation.id, command: Command::Expire, origin: Origin::default() })
        .collect();
    let state = expired.into_iter().map(|reservation| (reservation.id, reservation)).collect();
    let writes = unit_of_work.fold_and_save(&mut transaction, state, &inputs).await?;
    failpoint(failpoints::COMMIT_SWEEP, transaction.commit()).await?;
    unit_of_work.after_commit(&writes);
    Ok(Step::Done)
}
