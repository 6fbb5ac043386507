//! Runs a service's tasks until told to stop, and then stops them one after the other: HTTP first, the relays last.

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::select_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::config::DRAIN_DELAY_MAX_SECS;
use crate::http::STOP_LIMIT_SECS;

/// A task that doesn't stop within this limit is aborted. That loses nothing that was committed.
const TASK_STOP_LIMIT: Duration = Duration::from_secs(20);

// The HTTP server first waits until load balancers have noticed, and then for the requests that it has accepted.
const _: () = assert!(DRAIN_DELAY_MAX_SECS as u64 + STOP_LIMIT_SECS < TASK_STOP_LIMIT.as_secs());

struct Task {
    name: &'static str,
    stop: CancellationToken,
    handle: JoinHandle<anyhow::Result<()>>,
}

/// The tasks of a service, in the order in which they stop.
#[derive(Default)]
pub struct TaskGroup {
    tasks: Vec<Task>,
}

impl TaskGroup {
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task, which runs until its token is cancelled.
    #[must_use]
    pub fn spawn<F>(mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let handle = tokio::spawn(task(stop.clone()));
        self.tasks.push(Task { name, stop, handle });
        self
    }

    /// Runs until `shutdown`, or until a task ends by itself, and then stops all tasks in order.
    ///
    /// # Errors
    /// The first error of a task. Further ones are logged.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut result = Ok(());
        {
            let handles = self.tasks.iter_mut().map(|task| &mut task.handle);
            tokio::select! {
                () = shutdown.cancelled() => {}
                (ended, index, _) = select_all(handles) => {
                    let task = self.tasks.remove(index);
                    result = match task_result(task.name, ended) {
                        Ok(()) => Err(anyhow::anyhow!("{} ended by itself", task.name)),
                        failed => failed,
                    };
                }
            }
        }
        for task in self.tasks {
            match (&result, stop(task).await) {
                (Ok(()), ended) => result = ended,
                (Err(_), Err(also)) => error!(error = %format!("{also:#}"), "while stopping"),
                (Err(_), Ok(())) => {}
            }
        }
        result
    }
}

async fn stop(task: Task) -> anyhow::Result<()> {
    debug!(stage = task.name, "stopping");
    task.stop.cancel();
    let abort = task.handle.abort_handle();
    match tokio::time::timeout(TASK_STOP_LIMIT, task.handle).await {
        Ok(ended) => task_result(task.name, ended),
        Err(_) => {
            abort.abort();
            Err(anyhow::anyhow!("{} did not stop within {TASK_STOP_LIMIT:?}", task.name))
        }
    }
}

/// Completes `limit` after the signal to stop.
pub(super) async fn stop_limit_passed(stop: &CancellationToken, limit: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(limit).await;
}

fn task_result(
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
    async fn tasks_stop_in_order() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let task = |name: &'static str| {
            let order = Arc::clone(&order);
            move |stop: CancellationToken| async move {
                stop.cancelled().await;
                order.lock().unwrap().push(name);
                Ok(())
            }
        };
        let tasks = TaskGroup::new().spawn("http", task("http")).spawn("relay", task("relay"));
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        tasks.run(shutdown).await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["http", "relay"]);
    }

    #[tokio::test]
    async fn a_task_that_fails_stops_the_others() {
        let tasks = TaskGroup::new()
            .spawn("http", |stop| async move {
                stop.cancelled().await;
                Ok(())
            })
            .spawn("consumer", |_| async { anyhow::bail!("broken") });
        let error = tasks.run(CancellationToken::new()).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "consumer: broken");
    }
}
