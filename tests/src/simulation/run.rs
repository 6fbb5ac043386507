//! Many schedules, on all cores: the tier plays some with each run, `theater-tests simulate` as many as one likes.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;

use crate::simulation::tally::Tally;
use crate::simulation::{Failure, simulate};

/// Schedules between two words about how far it has come.
const PROGRESS: u64 = 1_000;

/// Which schedules.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// How many schedules
    #[arg(long, default_value_t = 10_000)]
    pub seeds: u64,
    /// The first one's seed; the others follow it. Another one with each run unless given
    #[arg(long)]
    pub first: Option<u64>,
}

/// What was played.
#[derive(Clone, Debug, Default)]
pub struct Played {
    pub schedules: u64,
    pub steps: u64,
    /// Steps of the schedule that has least.
    pub steps_min: u64,
    pub tally: Tally,
}

impl Played {
    fn and(self, other: Self) -> Self {
        let steps_min = match (self.schedules, other.schedules) {
            (_, 0) => self.steps_min,
            (0, _) => other.steps_min,
            _ => self.steps_min.min(other.steps_min),
        };
        let (schedules, steps) = (self.schedules + other.schedules, self.steps + other.steps);
        Self { schedules, steps, steps_min, tally: self.tally.and(&other.tally) }
    }
}

/// A first seed that was hardly ever played before.
pub fn another_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed, far enough apart for millions.
    u64::from(now.subsec_nanos()) << 20
}

/// Plays `count` schedules from seed `first` on, and says to `progress` now and then how many it has.
///
/// # Errors
/// A failure; no schedule is begun after it.
pub fn play_all(first: u64, count: u64, progress: impl Fn(u64) + Sync) -> Result<Played, Box<Failure>> {
    let (begun, ended, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let found = Mutex::new(None);
    let work = || {
        let mut played = Played::default();
        while !stop.load(Ordering::Relaxed) {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            match simulate(first.wrapping_add(number)) {
                Ok(run) => {
                    let (steps, tally) = (run.steps as u64, run.tally);
                    played = played.and(Played { schedules: 1, steps, steps_min: steps, tally });
                }
                Err(failure) => {
                    stop.store(true, Ordering::Relaxed);
                    found.lock().expect("nobody panics with it").get_or_insert(failure);
                }
            }
            let number = ended.fetch_add(1, Ordering::Relaxed) + 1;
            if number.is_multiple_of(PROGRESS) {
                progress(number);
            }
        }
        played
    };
    let played = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().expect("a worker doesn't panic"));
        ended.fold(Played::default(), Played::and)
    });
    found.into_inner().expect("nobody panics with it").map_or(Ok(played), Err)
}

/// `theater-tests simulate`.
///
/// # Errors
/// The failure, as a history to be read.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let (first, count) = (options.first.unwrap_or_else(another_seed), options.seeds);
    println!("seeds {first} to {}", first.wrapping_add(count.saturating_sub(1)));
    let (began, shown) = (Instant::now(), stderr().is_terminal());
    let played = play_all(first, count, |number| {
        if shown {
            eprint!("\r{number} of {count}");
        }
    });
    if shown {
        eprintln!();
    }
    let played = played.map_err(|failure| anyhow!("{failure}"))?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{} schedules, {} steps, {seconds:.1} s: all ended well", played.schedules, played.steps);
    Ok(())
}
