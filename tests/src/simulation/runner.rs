//! Runs many schedules on all cores: a fixed number in the simulation tier, any number by `theater-tests simulate`.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;

use crate::simulation::coverage::Coverage;
use crate::simulation::{Failure, simulate};

/// Schedules between two progress reports.
const PROGRESS_INTERVAL: u64 = 1_000;

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// How many schedules
    #[arg(long, default_value_t = 10_000)]
    pub seeds: u64,
    /// The seed of the first schedule; the others follow it. Another one in each run unless given
    #[arg(long)]
    pub first: Option<u64>,
}

/// The sum of the schedules that were run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub schedules: u64,
    pub steps: u64,
    /// The steps of the schedule with the fewest.
    pub steps_min: u64,
    pub coverage: Coverage,
}

impl Summary {
    fn merge(self, other: Self) -> Self {
        let steps_min = match (self.schedules, other.schedules) {
            (_, 0) => self.steps_min,
            (0, _) => other.steps_min,
            _ => self.steps_min.min(other.steps_min),
        };
        let (schedules, steps) = (self.schedules + other.schedules, self.steps + other.steps);
        Self { schedules, steps, steps_min, coverage: self.coverage.merge(&other.coverage) }
    }
}

/// A seed from the clock.
pub fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed. Two seeds leave space for a million schedules between them.
    u64::from(now.subsec_nanos()) << 20
}

/// Runs `count` schedules from seed `first` on, and reports their number to `progress` from time to time.
///
/// # Errors
/// The first failure. No schedule starts after it.
pub fn run_schedules(first: u64, count: u64, progress: impl Fn(u64) + Sync) -> Result<Summary, Box<Failure>> {
    let (started, finished, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None);
    let work = || {
        let mut summary = Summary::default();
        while !stop.load(Ordering::Relaxed) {
            let number = started.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            match simulate(first.wrapping_add(number)) {
                Ok(schedule) => {
                    let (steps, coverage) = (schedule.steps as u64, schedule.coverage);
                    summary = summary.merge(Summary { schedules: 1, steps, steps_min: steps, coverage });
                }
                Err(found) => {
                    stop.store(true, Ordering::Relaxed);
                    failure.lock().expect("no thread panics with the lock").get_or_insert(found);
                }
            }
            let number = finished.fetch_add(1, Ordering::Relaxed) + 1;
            if number.is_multiple_of(PROGRESS_INTERVAL) {
                progress(number);
            }
        }
        summary
    };
    let summary = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let summaries = workers.into_iter().map(|worker| worker.join().expect("a worker doesn't panic"));
        summaries.fold(Summary::default(), Summary::merge)
    });
    failure.into_inner().expect("no thread panics with the lock").map_or(Ok(summary), Err)
}

/// `theater-tests simulate`.
///
/// # Errors
/// The failure, as a readable history.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let (first, count) = (options.first.unwrap_or_else(new_seed), options.seeds);
    println!("seeds {first} to {}", first.wrapping_add(count.saturating_sub(1)));
    let (began, show_progress) = (Instant::now(), stderr().is_terminal());
    let summary = run_schedules(first, count, |number| {
        if show_progress {
            eprint!("\r{number} of {count}");
        }
    });
    if show_progress {
        eprintln!();
    }
    let summary = summary.map_err(|failure| anyhow!("{failure}"))?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{} schedules, {} steps, {seconds:.1} s: all ended well", summary.schedules, summary.steps);
    Ok(())
}
