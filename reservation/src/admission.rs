//! Refuses new reservations at once while they could not be decided in time: while the oldest undecided reservation has
//! used up a third of its deadline, or the database doesn't answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use service_kit::http::problem::Problem;
use sqlx::{Connection, PgConnection};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store;
use crate::unit_of_work::UnitOfWork;

/// How often the monitor's query runs: one query for all callers.
const PERIOD: Duration = Duration::from_millis(100);

/// A database that takes longer counts as unavailable.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

const OPEN: u8 = 0;
const BEHIND: u8 = 1;
const UNAVAILABLE: u8 = 2;

/// Whether reservations are accepted at present.
#[derive(Clone)]
pub struct Admission {
    state: Arc<AtomicU8>,
    unit_of_work: UnitOfWork,
}

/// Keeps the state of an [`Admission`] up to date.
pub struct AdmissionMonitor {
    state: Arc<AtomicU8>,
    unit_of_work: UnitOfWork,
}

pub fn new(unit_of_work: UnitOfWork) -> (Admission, AdmissionMonitor) {
    let state = Arc::new(AtomicU8::new(OPEN));
    (
        Admission { state: Arc::clone(&state), unit_of_work: unit_of_work.clone() },
        AdmissionMonitor { state, unit_of_work },
    )
}

impl Admission {
    /// # Errors
    /// 503 with the reason, if reservations are refused.
    pub fn check(&self) -> Result<(), Problem> {
        let reason = match self.state.load(Ordering::Relaxed) {
            OPEN => return Ok(()),
            BEHIND => "decisions are behind: a new reservation could not be decided in time",
            _ => "the database can't be reached now",
        };
        self.unit_of_work.metrics.refused.inc();
        Err(Problem::unavailable(reason))
    }
}

impl AdmissionMonitor {
    /// Queries the database until told to stop. It uses a connection of its own: waiting for a connection of the pool says
    /// nothing about the database.
    ///
    /// # Errors
    /// Never fails: if the query fails the database counts as unavailable.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let state = match timeout(QUERY_TIMEOUT, self.query(&mut connection)).await {
                Ok(Ok(remaining_secs)) => state_for(remaining_secs, self.unit_of_work.deadline_secs),
                Ok(Err(_)) | Err(_) => {
                    connection = None;
                    UNAVAILABLE
                }
            };
            let before = self.state.swap(state, Ordering::Relaxed);
            match (before, state) {
                (before, state) if before == state => {}
                (_, OPEN) => info!("reservations are accepted again"),
                (_, BEHIND) => warn!("decisions are behind: reservations are refused"),
                (_, _) => warn!("the database is unavailable: reservations are refused"),
            }
        }
    }

    async fn query(&self, connection: &mut Option<PgConnection>) -> Result<Option<f64>, sqlx::Error> {
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let options = self.unit_of_work.pool.connect_options();
                connection.insert(PgConnection::connect_with(&options).await?)
            }
        };
        store::first_deadline_secs(connection).await
    }
}

/// The state for the time that remains until the first deadline.
fn state_for(remaining_secs: Option<f64>, deadline_secs: u32) -> u8 {
    let required_secs = f64::from(deadline_secs) * 2.0 / 3.0;
    match remaining_secs {
        Some(remaining_secs) if remaining_secs < required_secs => BEHIND,
        Some(_) | None => OPEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_deadline_is_the_limit() {
        assert_eq!(state_for(None, 30), OPEN);
        assert_eq!(state_for(Some(30.0), 30), OPEN);
        assert_eq!(state_for(Some(20.1), 30), OPEN);
        assert_eq!(state_for(Some(19.9), 30), BEHIND);
        assert_eq!(state_for(Some(-1.0), 30), BEHIND);
    }
}
