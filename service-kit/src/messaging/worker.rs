//! Work that comes round: looked for at the start and once in a period, or as soon as somebody says so, and then step
//! by step until nothing is left of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::fault::Fault;
use super::task_group::stop_limit_passed;

/// How long a step that is under way has when the process stops: other parts are to stop after it.
const DRAIN: Duration = Duration::from_secs(5);

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something; there may be more.
    Done,
    Idle,
}

/// When to look, and under which name to complain.
pub struct Worker {
    pub name: &'static str,
    pub period: Duration,
    pub wake: Arc<Notify>,
}

impl Worker {
    /// One whom nobody wakes.
    pub fn new(name: &'static str, period: Duration) -> Self {
        Self { name, period, wake: Arc::default() }
    }

    /// Works until told to stop. A passing fault is logged, and the work looked for again after the period, or when
    /// somebody wakes the worker.
    ///
    /// # Errors
    /// Any other fault.
    pub async fn run<S>(self, stop: CancellationToken, step: impl Fn() -> S) -> anyhow::Result<()>
    where
        S: Future<Output = Result<Step, Fault>>,
    {
        let mut tick = interval(self.period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
                () = self.wake.notified() => {}
            }
            while !stop.is_cancelled() {
                let did = tokio::select! {
                    did = step() => did,
                    () = stop_limit_passed(&stop, DRAIN) => {
                        warn!(work = self.name, "given up in the middle of a step: the process stops");
                        return Ok(());
                    }
                };
                match did {
                    Ok(Step::Done) => {}
                    Ok(Step::Idle) => break,
                    Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                        warn!(work = self.name, reason, "tried again later");
                        break;
                    }
                    Err(fault) => anyhow::bail!("{}: {fault}", self.name),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    /// Runs a worker on the results in turn, and stops it with the last one. Answers how it ended, and after how long.
    async fn run(results: Vec<Result<Step, Fault>>) -> (anyhow::Result<()>, Duration) {
        let stop = CancellationToken::new();
        let began = tokio::time::Instant::now();
        let results = std::sync::Mutex::new(results.into_iter());
        let step = || {
            let mut results = results.lock().unwrap();
            let result = results.next().unwrap();
            if results.len() == 0 {
                stop.cancel();
            }
            std::future::ready(result)
        };
        let ended = Worker::new("sweeping", PERIOD).run(stop.clone(), step).await;
        (ended, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_until_nothing_is_left_and_looks_again_after_its_period() {
        let (ended, after) = run(vec![Ok(Step::Done), Ok(Step::Done), Ok(Step::Idle), Ok(Step::Done)]).await;
        ended.unwrap();
        assert_eq!(after, PERIOD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_fault_waits_for_the_period() {
        for fault in [Fault::Transient("away".into()), Fault::Timeout("slow".into())] {
            let (ended, after) = run(vec![Err(fault), Ok(Step::Idle)]).await;
            ended.unwrap();
            assert_eq!(after, PERIOD);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_other_fault_ends_it() {
        for fault in [Fault::Poison("23505".into()), Fault::Fenced, Fault::Fatal("42P01".into())] {
            let (ended, _) = run(vec![Err(fault), Ok(Step::Idle)]).await;
            assert!(ended.unwrap_err().to_string().starts_with("sweeping: "));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_wakes_it_does_not_wait() {
        let (stop, steps) = (CancellationToken::new(), AtomicUsize::new(0));
        let worker = Worker::new("sending", PERIOD);
        let wake = Arc::clone(&worker.wake);
        let began = tokio::time::Instant::now();
        let step = || {
            match steps.fetch_add(1, Ordering::Relaxed) {
                0 => wake.notify_one(),
                _ => stop.cancel(),
            }
            std::future::ready(Ok(Step::Idle))
        };
        worker.run(stop.clone(), step).await.unwrap();
        assert_eq!((steps.load(Ordering::Relaxed), began.elapsed()), (2, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_never_ends_is_given_up_when_the_process_stops() {
        let stop = CancellationToken::new();
        let began = tokio::time::Instant::now();
        let step = || {
            stop.cancel();
            std::future::pending()
        };
        Worker::new("sending", PERIOD).run(stop.clone(), step).await.unwrap();
        assert_eq!(began.elapsed(), DRAIN);
    }
}
