//! The simulation tier, which needs no servers:
//!
//! - this file: thousands of random schedules, other ones in each run;
//! - [`model`]: every state of small theaters;
//! - [`permutations`]: every order of one saga's events.

mod model;
mod permutations;

use theater_tests::simulation::STEPS_MIN;
use theater_tests::simulation::runner::{new_seed, run_schedules};

const SCHEDULES: u64 = 10_000;

/// What must occur in that many schedules, so that no fault disappears from the simulation unnoticed.
const EXPECTED_COVERAGE: [&str; 47] = [
    "AllocationRejected",
    "MoviePublished",
    "MovieUpdated",
    "ReservationConfirmed",
    "ReservationPlaced",
    "TicketsAdded",
    "TicketsAllocated",
    "TicketsReleased",
    "a commit's answer is lost",
    "a dead letter",
    "a dead letter comes to be sent again",
    "a foreign record",
    "a former owner is fenced",
    "a key: accepted",
    "a key: answered again",
    "a key: taken by another body",
    "a partition is given to another",
    "a record comes again",
    "a record comes again after a newer one",
    "a relay loses its lock",
    "a row inserted by another meanwhile",
    "an answer about no reservation",
    "an answer too late",
    "an event of an unknown type",
    "an owner is fenced",
    "call: again",
    "call: cancel",
    "call: deliver",
    "call: edit",
    "call: place",
    "call: place under a key",
    "call: publish",
    "cancelled by the customer",
    "cancelled by the deadline",
    "cancelled: no such movie",
    "cancelled: out of stock",
    "commits a seq lower than one that was read",
    "killed",
    "killed between reading and deleting",
    "killed in a transaction",
    "poison within a batch",
    "read by a former owner",
    "rolled back",
    "sent without the lock",
    "the database refuses a batch",
    "time passes",
    "waits for another's locks",
];
/// The minimum of occurrences of each.
const OCCURRENCES_MIN: u64 = 100;

#[test]
fn every_schedule_ends_well() {
    let first = std::env::var("THEATER_SEED").map_or_else(|_| new_seed(), |seed| seed.parse().unwrap());
    println!("seeds {first} to {}", first + SCHEDULES - 1);
    let began = std::time::Instant::now();
    let summary = run_schedules(first, SCHEDULES, |_| {}).unwrap_or_else(|failure| panic!("{failure}"));
    let secs = began.elapsed().as_secs_f64();
    println!("{} schedules, {} steps, {secs:.1} s", summary.schedules, summary.steps);
    assert_eq!(summary.schedules, SCHEDULES);
    assert!(summary.steps_min >= STEPS_MIN as u64, "a schedule has {} steps", summary.steps_min);
    for (name, count) in summary.coverage.iter() {
        println!("{count:>9}  {name}");
    }
    for name in EXPECTED_COVERAGE {
        let count = summary.coverage.count_of(name);
        assert!(count >= OCCURRENCES_MIN, "{name}: {count} times");
    }
    let unlisted: Vec<_> =
        summary.coverage.iter().filter(|(name, _)| !EXPECTED_COVERAGE.contains(name)).collect();
    assert_eq!(unlisted, [], "not in the list");
}
