//! What can't be decided in time must not be accepted: while the oldest undecided reservation has used up
//! a third of its deadline, or the database doesn't answer, new ones are refused at once.

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

/// How often it looks: one query for all callers.
const PERIOD: Duration = Duration::from_millis(100);

/// A database that takes longer counts as away.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

const OPEN: u8 = 0;
const BEHIND: u8 = 1;
const AWAY: u8 = 2;

/// Whether reservations are accepted just now.
#[derive(Clone)]
pub struct Admission {
    state: Arc<AtomicU8>,
    unit_of_work: UnitOfWork,
}

pub struct Sampler {
    state: Arc<AtomicU8>,
    unit_of_work: UnitOfWork,
}

pub fn new(unit_of_work: UnitOfWork) -> (Admission, Sampler) {
    let state = Arc::new(AtomicU8::new(OPEN));
    (
        Admission { state: Arc::clone(&state), unit_of_work: unit_of_work.clone() },
        Sampler { state, unit_of_work },
    )
}

impl Admission {
    /// # Errors
    /// 503, and why.
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

impl Sampler {
    /// Looks until told to stop, on a connection of its own: a queue for the pool's says nothing about the
    /// database.
    ///
    /// # Errors
    /// None: what can't be seen counts as away.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let state = match timeout(LOOK_TIMEOUT, self.look(&mut connection)).await {
                Ok(Ok(remaining)) => judge(remaining, self.unit_of_work.deadline_secs),
                Ok(Err(_)) | Err(_) => {
                    connection = None;
                    AWAY
                }
            };
            let before = self.state.swap(state, Ordering::Relaxed);
            match (before, state) {
                (before, state) if before == state => {}
                (_, OPEN) => info!("reservations are accepted again"),
                (_, BEHIND) => warn!("decisions are behind: reservations are refused"),
                (_, _) => warn!("the database is away: reservations are refused"),
            }
        }
    }

    async fn look(&self, connection: &mut Option<PgConnection>) -> Result<Option<f64>, sqlx::Error> {
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

fn judge(remaining_secs: Option<f64>, deadline_secs: u32) -> u8 {
    let enough = f64::from(deadline_secs) * 2.0 / 3.0;
    match remaining_secs {
        Some(remaining) if remaining < enough => BEHIND,
        Some(_) | None => OPEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_deadline_is_the_limit() {
        assert_eq!(judge(None, 30), OPEN);
        assert_eq!(judge(Some(30.0), 30), OPEN);
        assert_eq!(judge(Some(20.1), 30), OPEN);
        assert_eq!(judge(Some(19.9), 30), BEHIND);
        assert_eq!(judge(Some(-1.0), 30), BEHIND);
    }
}
