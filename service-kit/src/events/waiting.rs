//! The waiting room: callers that wait until a reservation has come so far. They hold no transaction and no
//! thread. Who commits the change in this process wakes them at once; what another replica commits is seen by
//! one query for all of them, every 20 ms while somebody waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntGauge, Registry};
use shared_events::ReservationId;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::fault::Fault;

/// How often the query runs while somebody waits.
const PERIOD: Duration = Duration::from_millis(20);

/// The pause after a query is at least so many times what the query took, whatever the number of those who wait.
const PAUSES: u32 = 4;

/// A database that takes longer counts as away.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The pause while the database is away, at most.
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who may wait in one process at the same time.
pub const WAITERS_MAX: usize = 4_096;

/// A status that only moves forward.
pub trait Progress: Copy + Send + Sync + 'static {
    /// How far that is: 0 undecided, 1 confirmed, 2 cancelled, in every service.
    fn rank(self) -> u8;
}

/// Where callers wait for a reservation's status `S`.
#[derive(Clone)]
pub struct Room<S: Progress> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    seats: Mutex<Seats<S>>,
    waiters_max: usize,
    entered: Notify,
    gauge: IntGauge,
}

struct Seats<S> {
    of: HashMap<ReservationId, Awaited<S>>,
    taken: usize,
}

/// A reservation for which somebody waits.
struct Awaited<S> {
    /// The furthest status seen since then.
    status: watch::Sender<Option<S>>,
    waiters: usize,
}

/// One caller's place in the room; given back when dropped.
pub struct Seat<S: Progress> {
    id: ReservationId,
    status: watch::Receiver<Option<S>>,
    shared: Arc<Shared<S>>,
}

impl<S: Progress> Room<S> {
    /// An empty one, for [`WAITERS_MAX`] callers.
    ///
    /// # Errors
    /// A metric's name that is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Self::with_capacity(WAITERS_MAX, registry)
    }

    fn with_capacity(waiters_max: usize, registry: &Registry) -> prometheus::Result<Self> {
        let gauge = IntGauge::new("waiting_room_waiters", "Callers that wait for a reservation to change")?;
        registry.register(Box::new(gauge.clone()))?;
        let seats = Mutex::new(Seats { of: HashMap::new(), taken: 0 });
        Ok(Self { shared: Arc::new(Shared { seats, waiters_max, entered: Notify::new(), gauge }) })
    }

    /// Takes a seat; `None` when the room is full. Whoever reads the status after this misses no change.
    #[must_use]
    pub fn enter(&self, id: ReservationId) -> Option<Seat<S>> {
        let mut seats = self.shared.seats();
        if seats.taken >= self.shared.waiters_max {
            return None;
        }
        seats.taken += 1;
        self.shared.gauge.inc();
        self.shared.entered.notify_one();
        let awaited =
            seats.of.entry(id).or_insert_with(|| Awaited { status: watch::Sender::new(None), waiters: 0 });
        awaited.waiters += 1;
        Some(Seat { id, status: awaited.status.subscribe(), shared: Arc::clone(&self.shared) })
    }

    /// Wakes those who wait for a status that was committed.
    pub fn tell(&self, id: ReservationId, status: S) {
        if let Some(awaited) = self.shared.seats().of.get(&id) {
            // What was read before the last commit may come after it.
            awaited.status.send_if_modified(|known| {
                let news = known.is_none_or(|known| known.rank() < status.rank());
                if news {
                    *known = Some(status);
                }
                news
            });
        }
    }

    /// Looks for what other replicas commit, while somebody waits, until told to stop. `look` answers the present
    /// status of those reservations that have one.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run<L, F>(self, look: L, stop: CancellationToken) -> anyhow::Result<()>
    where
        L: Fn(Vec<ReservationId>) -> F + Send,
        F: Future<Output = Result<Vec<(ReservationId, S)>, Fault>> + Send,
    {
        stop.run_until_cancelled(self.watch(look)).await.unwrap_or(Ok(()))
    }

    async fn watch<L, F>(&self, look: L) -> anyhow::Result<()>
    where
        L: Fn(Vec<ReservationId>) -> F,
        F: Future<Output = Result<Vec<(ReservationId, S)>, Fault>>,
    {
        let mut pause = PERIOD;
        let mut away = false;
        loop {
            sleep(pause).await;
            let ids: Vec<_> = self.shared.seats().of.keys().copied().collect();
            if ids.is_empty() {
                self.shared.entered.notified().await;
                pause = PERIOD;
                continue;
            }
            let began = Instant::now();
            let seen = match timeout(LOOK_LIMIT, look(ids)).await {
                Ok(seen) => seen,
                Err(_) => Err(Fault::Slow(format!("no answer within {LOOK_LIMIT:?}"))),
            };
            match seen {
                Ok(seen) => {
                    seen.into_iter().for_each(|(id, status)| self.tell(id, status));
                    pause = PERIOD.max(began.elapsed() * PAUSES).min(AWAY_PAUSE_MAX);
                    if std::mem::take(&mut away) {
                        info!("the waiting room sees again what others decide");
                    }
                }
                Err(Fault::Passing(reason) | Fault::Slow(reason)) => {
                    pause = AWAY_PAUSE_MAX.min(pause * 2);
                    if !std::mem::replace(&mut away, true) {
                        warn!(reason, "the waiting room can't see what others decide");
                    }
                }
                Err(fault) => anyhow::bail!("looking for those who wait: {fault}"),
            }
        }
    }
}

impl<S> Shared<S> {
    fn seats(&self) -> MutexGuard<'_, Seats<S>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Progress> Seat<S> {
    /// Waits for a status of at least this rank. Nothing is lost when it is dropped before it is over.
    pub async fn reaches(&mut self, rank: u8) -> S {
        let seen = self.status.wait_for(|status| status.is_some_and(|status| status.rank() >= rank)).await;
        if let Ok(status) = seen
            && let Some(status) = *status
        {
            return status;
        }
        // The sender lives as long as this seat.
        std::future::pending().await
    }
}

impl<S: Progress> Drop for Seat<S> {
    fn drop(&mut self) {
        let mut seats = self.shared.seats();
        seats.taken -= 1;
        self.shared.gauge.dec();
        if let Some(awaited) = seats.of.get_mut(&self.id) {
            awaited.waiters -= 1;
            if awaited.waiters == 0 {
                seats.of.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
