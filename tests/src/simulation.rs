//! A deterministic simulation of the saga with injected faults. The production `fold`s of all services run on maps instead
//! of tables and on a list instead of Kafka, so that thousands of schedules take a second. Services are killed between
//! any two steps, answers to commits are lost, partitions have two owners for a moment, relays go on sending without
//! their lock, records are redelivered after newer ones, clocks differ by minutes.
//!
//! A schedule is the list of its choices (after [TigerBeetle's simulator][vopr] and [Hypothesis][shrinking]). A seed
//! generates it, the same list replays it, and a shorter list that still fails is a simpler history of the failure.
//!
//! [vopr]: https://docs.tigerbeetle.com/concepts/safety/
//! [shrinking]: https://hypothesis.works/articles/compositional-shrinking/
//!
//! # Layout
//!
//! - [`choices`]: the source of all choices; [`shrink`]: shortens a list of them.
//! - [`runner`]: runs many schedules on all cores.
//! - [`simulated_theater`]: one theater and its steps; [`workload`]: the calls of customers and vendors.
//! - [`database`]: one service's database; [`tables`]: its tables as maps, around the production folds; [`log`]: topics,
//!   outboxes and relays.
//! - [`checks`]: the invariant checks; [`violation`]: what they find; [`coverage`]: counts what happened, so that no fault disappears unnoticed.
//! - [`history`]: descriptions of steps and records.

pub mod checks;
pub mod choices;
pub mod coverage;
pub mod database;
pub mod history;
pub mod log;
pub mod runner;
pub mod shrink;
pub mod simulated_theater;
pub mod tables;
pub mod violation;
pub mod workload;

use std::fmt;

use choices::Choices;
use coverage::Coverage;
use simulated_theater::SimulatedTheater;
use violation::Violation;

/// The minimum of chosen steps of a schedule. Some steps find nothing to do.
const CHOSEN_STEPS_MIN: usize = 160;

/// The minimum of steps of a schedule that do something.
pub const STEPS_MIN: usize = 50;

/// The result of a schedule.
pub struct ScheduleResult {
    /// Chosen steps that did something.
    pub steps: usize,
    pub result: Result<(), Violation>,
    pub choices: Vec<u32>,
    pub history: Vec<String>,
    pub coverage: Coverage,
}

/// Runs one schedule until its theater is at rest.
pub fn run_schedule(choices: Choices, with_history: bool) -> ScheduleResult {
    let mut theater = SimulatedTheater::new(choices, with_history);
    let mut result = Ok(());
    let mut chosen = 0;
    while result.is_ok()
        && !theater.choices().is_exhausted()
        && (chosen < CHOSEN_STEPS_MIN || theater.steps < STEPS_MIN)
    {
        result = theater.step();
        chosen += 1;
    }
    let result = result.and_then(|()| theater.drain());
    let (choices, history) = (theater.choices().made().to_vec(), theater.take_history());
    ScheduleResult { steps: theater.steps, result, choices, history, coverage: theater.coverage }
}

/// A seed whose schedule fails, and its shrunk history.
pub struct Failure {
    pub seed: u64,
    pub violation: Violation,
    pub history: Vec<String>,
    /// The number of choices before and after shrinking.
    pub lengths: (usize, usize),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, shrunk) = self.lengths;
        writeln!(f, "seed {}: {}", self.seed, self.violation.message())?;
        writeln!(f, "shrunk from {found} choices to {shrunk}:")?;
        for (number, line) in self.history.iter().enumerate() {
            writeln!(f, "{:>4}  {line}", number + 1)?;
        }
        writeln!(f, "again: cargo run -p theater-tests -- simulate --seeds 1 --first {}", self.seed)
    }
}

/// Runs a seed's schedule.
///
/// # Errors
/// The failure, shrunk.
pub fn simulate(seed: u64) -> Result<ScheduleResult, Box<Failure>> {
    let found = run_schedule(Choices::from_seed(seed), false);
    if found.result.is_ok() {
        return Ok(found);
    }
    let shrunk = shrink::shrink(&found.choices);
    let shown = run_schedule(Choices::replay(shrunk.clone()), true);
    let violation = shown.result.err().unwrap_or_else(|| Violation::new("it does not fail twice".to_owned()));
    let lengths = (found.choices.len(), shrunk.len());
    Err(Box::new(Failure { seed, violation, history: shown.history, lengths }))
}
