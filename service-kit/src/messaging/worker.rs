//! Periodic work: begins at the start, once in each period, and when it is woken. Each time it repeats its step until
//! no work is left.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::fault::Fault;
use super::task_group::stop_limit_passed;

/// How long a step may continue when the process stops: other tasks stop after this one.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It did something. There may be more to do.
    Done,
    /// There was nothing to do.
    Idle,
}

/// Runs periodic work.
pub struct Worker {
    /// Names the work in the log and in errors.
    pub name: &'static str,
    pub period: Duration,
    pub wake: Arc<Notify>,
}

impl Worker {
    /// A worker that is never woken between its periods, unless the caller keeps its `wake`.
    pub fn new(name: &'static str, period: Duration) -> Self {
        Self { name, period, wake: Arc::default() }
    }

    /// Works until told to stop. After a transient fault, which is logged, the work begins again in the next period
    /// or when it is woken.
    ///
    /// # Errors
    /// If any other fault occurs.
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
                let result = tokio::select! {
                    result = step() => result,
                    () = stop_limit_passed(&stop, STOP_LIMIT) => {
                        warn!(work = self.name, "a step was abandoned: the process stops");
                        return Ok(());
                    }
                };
                match result {
                    Ok(Step::Done) => {}
                    Ok(Step::Idle) => break,
                    Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                        warn!(work = self.name, reason, "the work is retried later");
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

    /// Runs a worker whose steps return these results, and stops it with the last one. Returns its result and
    /// duration.
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
    async fn it_repeats_its_step_until_no_work_is_left_and_begins_again_after_its_period() {
        let (ended, after) = run(vec![Ok(Step::Done), Ok(Step::Done), Ok(Step::Idle), Ok(Step::Done)]).await;
        ended.unwrap();
        assert_eq!(after, PERIOD);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_transient_fault_it_waits_for_the_next_period() {
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
    async fn waking_it_begins_at_once() {
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
    async fn a_step_that_never_ends_is_abandoned_when_the_process_stops() {
        let stop = CancellationToken::new();
        let began = tokio::time::Instant::now();
        let step = || {
            stop.cancel();
            std::future::pending()
        };
        Worker::new("sending", PERIOD).run(stop.clone(), step).await.unwrap();
        assert_eq!(began.elapsed(), STOP_LIMIT);
    }
}
