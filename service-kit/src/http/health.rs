//! Whether the process is ready for requests: its database can be reached, and it isn't draining.
//!
//! Liveness never checks a dependency: an outage of the broker must not restart every service. Nor does readiness check
//! more than the service's own connection pool.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;

/// How long the probe may take: less than the second that Kubernetes waits.
const PROBE_LIMIT: Duration = Duration::from_millis(800);

type Probe = dyn Fn() -> BoxFuture<'static, bool> + Send + Sync;

/// Readiness, shared by the server and its routes.
#[derive(Clone)]
pub struct Health {
    draining: Arc<AtomicBool>,
    probe: Arc<Probe>,
}

impl Health {
    /// Ready until the process drains.
    #[must_use]
    pub fn new() -> Self {
        Self::with_probe(|| Box::pin(async { true }))
    }

    /// Ready while `probe` returns true in time and the process doesn't drain.
    #[must_use]
    pub fn with_probe(probe: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static) -> Self {
        Self { draining: Arc::default(), probe: Arc::new(probe) }
    }

    /// Starts the drain: the process never becomes ready again.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the process drains.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// # Errors
    ///
    /// The reason, if the process is not ready.
    pub async fn ready(&self) -> Result<(), &'static str> {
        if self.draining() {
            return Err("draining");
        }
        match tokio::time::timeout(PROBE_LIMIT, (self.probe)()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the database is away"),
            Err(_) => Err("the database does not answer"),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readiness_follows_the_probe() {
        assert_eq!(Health::new().ready().await, Ok(()));
        let unreachable = Health::with_probe(|| Box::pin(async { false }));
        assert_eq!(unreachable.ready().await, Err("the database is away"));
        let hanging = Health::with_probe(|| Box::pin(std::future::pending()));
        assert_eq!(hanging.ready().await, Err("the database does not answer"));
    }

    #[tokio::test]
    async fn draining_is_permanent_and_shared_by_all_clones() {
        let health = Health::new();
        health.clone().drain();
        assert_eq!(health.ready().await, Err("draining"));
    }
}
