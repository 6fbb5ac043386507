//! Whether the process lives, and whether it should be sent requests.
//!
//! Liveness never looks at a dependency: a broker that is away must not restart every service. Readiness is the
//! service's own pool and the draining flag.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;

/// How long the probe may take, below the second that Kubernetes waits.
const PROBE_LIMIT: Duration = Duration::from_millis(800);

type Probe = dyn Fn() -> BoxFuture<'static, bool> + Send + Sync;

/// Shared by the server and whatever drains it.
#[derive(Clone)]
pub struct Health {
    draining: Arc<AtomicBool>,
    probe: Arc<Probe>,
}

impl Health {
    /// Ready until it drains.
    #[must_use]
    pub fn new() -> Self {
        Self::with_probe(|| Box::pin(async { true }))
    }

    /// Ready while `probe` says so and it doesn't drain. A probe that takes too long says no.
    #[must_use]
    pub fn with_probe(probe: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static) -> Self {
        Self { draining: Arc::default(), probe: Arc::new(probe) }
    }

    /// From now on not ready, for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether it drains.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// # Errors
    ///
    /// Why it is not ready.
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
    async fn ready_while_the_probe_says_so() {
        assert_eq!(Health::new().ready().await, Ok(()));
        let away = Health::with_probe(|| Box::pin(async { false }));
        assert_eq!(away.ready().await, Err("the database is away"));
        let hangs = Health::with_probe(|| Box::pin(std::future::pending()));
        assert_eq!(hangs.ready().await, Err("the database does not answer"));
    }

    #[tokio::test]
    async fn draining_is_for_good_and_for_all_clones() {
        let health = Health::new();
        health.clone().drain();
        assert_eq!(health.ready().await, Err("draining"));
    }
}
