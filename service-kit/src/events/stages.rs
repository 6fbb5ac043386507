//! Running a service's parts until told to stop, and stopping them one after the other: first who takes
//! requests in, last who sends events out.

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::select_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::config::DRAIN_DELAY_MAX_SECS;
use crate::http::STOP_LIMIT_SECS;

/// A part that doesn't stop within this bound is given up; nothing committed is lost by that.
const STAGE_LIMIT: Duration = Duration::from_secs(20);

// HTTP's: until load balancers have noticed, and what it accepted has ended.
const _: () = assert!(DRAIN_DELAY_MAX_SECS as u64 + STOP_LIMIT_SECS < STAGE_LIMIT.as_secs());

struct Stage {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The parts of a service, in the order in which they stop.
#[derive(Default)]
pub struct Stages {
    stages: Vec<Stage>,
}

impl Stages {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a part; it runs until its token is cancelled.
    #[must_use]
    pub fn then<F>(mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(part(stop.clone()));
        self.stages.push(Stage { name, stop, task });
        self
    }

    /// Runs until `shutdown`, or until a part ends by itself, and then stops all of them in order.
    ///
    /// # Errors
    /// The first part's that failed.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut result = Ok(());
        {
            let tasks = self.stages.iter_mut().map(|stage| &mut stage.task);
            tokio::select! {
                () = shutdown.cancelled() => {}
                (ended, index, _) = select_all(tasks) => {
                    let stage = self.stages.remove(index);
                    result = match outcome(stage.name, ended) {
                        Ok(()) => Err(anyhow::anyhow!("{} ended by itself", stage.name)),
                        failed => failed,
                    };
                }
            }
        }
        for stage in self.stages {
            debug!(stage = stage.name, "stopping");
            stage.stop.cancel();
            let abort = stage.task.abort_handle();
            let ended = match tokio::time::timeout(STAGE_LIMIT, stage.task).await {
                Ok(ended) => outcome(stage.name, ended),
                Err(_) => {
                    abort.abort();
                    Err(anyhow::anyhow!("{} did not stop within {STAGE_LIMIT:?}", stage.name))
                }
            };
            match (&result, ended) {
                (Ok(()), ended) => result = ended,
                (Err(_), Err(also)) => error!(error = %format!("{also:#}"), "while stopping"),
                (Err(_), Ok(())) => {}
            }
        }
        result
    }
}

/// When what is under way in a part has had `limit` after the signal to stop.
pub(super) async fn overdue(stop: &CancellationToken, limit: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(limit).await;
}

fn outcome(
    name: &'static str,
    ended: Result<anyhow::Result<()>, tokio::task::JoinError>,
) -> anyhow::Result<()> {
    ended.map_err(anyhow::Error::from).and_then(|ended| ended).context(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn parts_stop_in_order() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let part = |name: &'static str| {
            let order = Arc::clone(&order);
            move |stop: CancellationToken| async move {
                stop.cancelled().await;
                order.lock().unwrap().push(name);
                Ok(())
            }
        };
        let stages = Stages::new().then("http", part("http")).then("relay", part("relay"));
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        stages.run(shutdown).await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["http", "relay"]);
    }

    #[tokio::test]
    async fn a_part_that_fails_stops_the_others() {
        let stages = Stages::new()
            .then("http", |stop| async move {
                stop.cancelled().await;
                Ok(())
            })
            .then("consumer", |_| async { anyhow::bail!("broken") });
        let error = stages.run(CancellationToken::new()).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "consumer: broken");
    }
}
