//! The saga under every misfortune that a seed can think of. The production `fold`s of all services run on maps
//! instead of tables and on a list instead of Kafka, so that thousands of schedules take a second: services are killed
//! between any two steps, commits lose their answers, partitions have two owners for a moment, relays go on sending
//! without their lock, records come again after newer ones, clocks are minutes apart.
//!
//! A schedule is the list of the choices that were made in it (after [TigerBeetle's simulator][vopr] and
//! [Hypothesis][shrinking]): a seed makes it, the same list makes it again, and a shorter list that fails alike is a
//! simpler history of the same fault.
//!
//! [vopr]: https://docs.tigerbeetle.com/concepts/safety/
//! [shrinking]: https://hypothesis.works/articles/compositional-shrinking/
//!
//! # Layout
//!
//! - [`choices`]: where decisions come from; [`shrink`]: making a list of them shorter.
//! - [`run`]: many schedules on all cores.
//! - [`world`]: one theater and its steps; [`calls`]: what is asked of it.
//! - [`tables`]: databases as maps, around the production folds; [`bus`]: the log, outboxes and relays.
//! - [`checks`]: what must hold; [`tally`]: what happened, so that nothing goes quiet.
//! - [`history`]: how all that is called.

pub mod bus;
pub mod calls;
pub mod checks;
pub mod choices;
pub mod history;
pub mod run;
pub mod shrink;
pub mod tables;
pub mod tally;
pub mod world;

use std::fmt;

use checks::Violation;
use choices::Choices;
use tally::Tally;
use world::World;

/// Steps that a schedule chooses at least; some find nothing to do.
const CHOSEN_MIN: usize = 160;

/// Steps of a schedule that do something, at least.
pub const STEPS_MIN: usize = 50;

/// How a schedule ended.
pub struct Run {
    /// Steps that did something, before it was let come to rest.
    pub steps: usize,
    pub ended: Result<(), Violation>,
    pub choices: Vec<u32>,
    pub history: Vec<String>,
    pub tally: Tally,
}

/// Plays one schedule to its end.
pub fn play(choices: Choices, with_history: bool) -> Run {
    let mut world = World::new(choices, with_history);
    let mut ended = Ok(());
    let mut chosen = 0;
    while ended.is_ok() && !world.choices().over() && (chosen < CHOSEN_MIN || world.steps < STEPS_MIN) {
        ended = world.step();
        chosen += 1;
    }
    let ended = ended.and_then(|()| world.come_to_rest());
    let (choices, history) = (world.choices().made().to_vec(), world.history());
    Run { steps: world.steps, ended, choices, history, tally: world.tally }
}

/// A seed whose schedule ended badly, as short as it could be made.
pub struct Failure {
    pub seed: u64,
    pub violation: Violation,
    pub history: Vec<String>,
    /// Choices in the schedule as it was found, and in the one that is shown.
    pub lengths: (usize, usize),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, shrunk) = self.lengths;
        writeln!(f, "seed {}: {}", self.seed, self.violation.what())?;
        writeln!(f, "shrunk from {found} choices to {shrunk}:")?;
        for (number, line) in self.history.iter().enumerate() {
            writeln!(f, "{:>4}  {line}", number + 1)?;
        }
        writeln!(f, "again: cargo run -p theater-tests -- simulate --seeds 1 --first {}", self.seed)
    }
}

/// Plays a seed's schedule.
///
/// # Errors
/// The failure, shrunk.
pub fn simulate(seed: u64) -> Result<Run, Box<Failure>> {
    let run = play(Choices::of_seed(seed), false);
    if run.ended.is_ok() {
        return Ok(run);
    }
    let shrunk = shrink::shrink(&run.choices);
    let shown = play(Choices::again(shrunk.clone()), true);
    let violation = shown.ended.err().unwrap_or_else(|| Violation::new("it does not fail twice".to_owned()));
    let lengths = (run.choices.len(), shrunk.len());
    Err(Box::new(Failure { seed, violation, history: shown.history, lengths }))
}
