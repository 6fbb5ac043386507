//! Callers that wait until a reservation reaches a status. A waiter holds no transaction and no thread. A commit in
//! this process wakes its waiters at once. Changes that another replica commits are found by one query for all
//! waiters, every 20 ms while there are any.

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

/// How often the query runs while there are waiters.
const PERIOD: Duration = Duration::from_millis(20);

/// The pause after a query is at least this many times as long as the query took, so the load on the database is
/// bounded whatever the number of waiters.
const PAUSE_FACTOR: u32 = 4;

/// A database that takes longer counts as unavailable.
const QUERY_LIMIT: Duration = Duration::from_secs(2);

/// The longest pause while the database is unavailable.
const UNAVAILABLE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Waiters that one process has at most.
pub const WAITERS_MAX: usize = 4_096;

/// A status that only moves forward.
pub trait Progress: Copy + Send + Sync + 'static {
    /// 0 undecided, 1 confirmed, 2 cancelled; the same in every service.
    fn rank(self) -> u8;
}

/// The callers that wait for a status `S` of a reservation.
#[derive(Clone)]
pub struct StatusWaiters<S: Progress> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    registered: Mutex<Registered<S>>,
    waiters_max: usize,
    subscribed: Notify,
    gauge: IntGauge,
}

struct Registered<S> {
    by_reservation: HashMap<ReservationId, Awaited<S>>,
    waiters: usize,
}

/// A reservation that has waiters.
struct Awaited<S> {
    /// The furthest status seen since the first waiter subscribed.
    status: watch::Sender<Option<S>>,
    waiters: usize,
}

/// One caller that waits. It unsubscribes when dropped.
pub struct Waiter<S: Progress> {
    id: ReservationId,
    status: watch::Receiver<Option<S>>,
    shared: Arc<Shared<S>>,
}

impl<S: Progress> StatusWaiters<S> {
    /// No waiters yet; at most [`WAITERS_MAX`].
    ///
    /// # Errors
    /// If the metric's name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Self::with_capacity(WAITERS_MAX, registry)
    }

    fn with_capacity(waiters_max: usize, registry: &Registry) -> prometheus::Result<Self> {
        let gauge = IntGauge::new("waiting_room_waiters", "Callers that wait for a reservation to change")?;
        registry.register(Box::new(gauge.clone()))?;
        let registered = Mutex::new(Registered { by_reservation: HashMap::new(), waiters: 0 });
        Ok(Self { shared: Arc::new(Shared { registered, waiters_max, subscribed: Notify::new(), gauge }) })
    }

    /// Adds a waiter; `None` when there are too many. A caller that reads the status after this misses no change.
    #[must_use]
    pub fn subscribe(&self, id: ReservationId) -> Option<Waiter<S>> {
        let mut registered = self.shared.registered();
        if registered.waiters >= self.shared.waiters_max {
            return None;
        }
        registered.waiters += 1;
        self.shared.gauge.inc();
        self.shared.subscribed.notify_one();
        let awaited = registered
            .by_reservation
            .entry(id)
            .or_insert_with(|| Awaited { status: watch::Sender::new(None), waiters: 0 });
        awaited.waiters += 1;
        Some(Waiter { id, status: awaited.status.subscribe(), shared: Arc::clone(&self.shared) })
    }

    /// Wakes the waiters of a reservation whose status was committed.
    pub fn notify(&self, id: ReservationId, status: S) {
        if let Some(awaited) = self.shared.registered().by_reservation.get(&id) {
            // A query that started before the last commit may return after it: an older status is ignored.
            awaited.status.send_if_modified(|known| {
                let is_newer = known.is_none_or(|known| known.rank() < status.rank());
                if is_newer {
                    *known = Some(status);
                }
                is_newer
            });
        }
    }

    /// Polls for what other replicas commit, while there are waiters, until told to stop. `query` returns the present
    /// status of those reservations that have one.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run<Q, F>(self, query: Q, stop: CancellationToken) -> anyhow::Result<()>
    where
        Q: Fn(Vec<ReservationId>) -> F + Send,
        F: Future<Output = Result<Vec<(ReservationId, S)>, Fault>> + Send,
    {
        stop.run_until_cancelled(self.poll(query)).await.unwrap_or(Ok(()))
    }

    async fn poll<Q, F>(&self, query: Q) -> anyhow::Result<()>
    where
        Q: Fn(Vec<ReservationId>) -> F,
        F: Future<Output = Result<Vec<(ReservationId, S)>, Fault>>,
    {
        let mut pause = PERIOD;
        let mut unavailable = false;
        loop {
            sleep(pause).await;
            let ids: Vec<_> = self.shared.registered().by_reservation.keys().copied().collect();
            if ids.is_empty() {
                self.shared.subscribed.notified().await;
                pause = PERIOD;
                continue;
            }
            let began = Instant::now();
            let answer = match timeout(QUERY_LIMIT, query(ids)).await {
                Ok(answer) => answer,
                Err(_) => Err(Fault::Timeout(format!("no answer within {QUERY_LIMIT:?}"))),
            };
            match answer {
                Ok(statuses) => {
                    statuses.into_iter().for_each(|(id, status)| self.notify(id, status));
                    pause = PERIOD.max(began.elapsed() * PAUSE_FACTOR).min(UNAVAILABLE_PAUSE_MAX);
                    if std::mem::take(&mut unavailable) {
                        info!("waiters are again notified of what other replicas decide");
                    }
                }
                Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                    // Not by the crate backon: it can't continue from the pause after the last successful query.
                    pause = UNAVAILABLE_PAUSE_MAX.min(pause * 2);
                    if !std::mem::replace(&mut unavailable, true) {
                        warn!(reason, "waiters can't be notified of what other replicas decide");
                    }
                }
                Err(fault) => anyhow::bail!("querying the statuses that callers wait for: {fault}"),
            }
        }
    }
}

impl<S> Shared<S> {
    fn registered(&self) -> MutexGuard<'_, Registered<S>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Progress> Waiter<S> {
    /// Waits for a status of at least this rank. The future may be dropped and called again: no status is lost.
    pub async fn wait_for(&mut self, rank: u8) -> S {
        let reached = self.status.wait_for(|status| status.is_some_and(|status| status.rank() >= rank)).await;
        if let Ok(status) = reached
            && let Some(status) = *status
        {
            return status;
        }
        // The sender lives as long as this waiter.
        std::future::pending().await
    }
}

impl<S: Progress> Drop for Waiter<S> {
    fn drop(&mut self) {
        let mut registered = self.shared.registered();
        registered.waiters -= 1;
        self.shared.gauge.dec();
        if let Some(awaited) = registered.by_reservation.get_mut(&self.id) {
            awaited.waiters -= 1;
            if awaited.waiters == 0 {
                registered.by_reservation.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
