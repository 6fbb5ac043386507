//! The saga without servers: thousands of schedules, other ones with each run, and every order of one saga's events.

mod permutations;

mod model;

use theater_tests::simulation::STEPS_MIN;
use theater_tests::simulation::run::{another_seed, play_all};

const SCHEDULES: u64 = 10_000;

/// What must have happened in that many schedules, each so often at least, so that none of it goes quiet unnoticed.
const HAPPENS: [&str; 47] = [
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
const HAPPENS_MIN: u64 = 100;

#[test]
fn every_schedule_ends_well() {
    let first = std::env::var("THEATER_SEED").map_or_else(|_| another_seed(), |seed| seed.parse().unwrap());
    println!("seeds {first} to {}", first + SCHEDULES - 1);
    let began = std::time::Instant::now();
    let played = play_all(first, SCHEDULES, |_| {}).unwrap_or_else(|failure| panic!("{failure}"));
    let secs = began.elapsed().as_secs_f64();
    println!("{} schedules, {} steps, {secs:.1} s", played.schedules, played.steps);
    assert_eq!(played.schedules, SCHEDULES);
    assert!(played.steps_min >= STEPS_MIN as u64, "a schedule has {} steps", played.steps_min);
    for (what, count) in played.tally.iter() {
        println!("{count:>9}  {what}");
    }
    for what in HAPPENS {
        let count = played.tally.of(what);
        assert!(count >= HAPPENS_MIN, "{what}: {count} times");
    }
    let unlisted: Vec<_> = played.tally.iter().filter(|(what, _)| !HAPPENS.contains(what)).collect();
    assert_eq!(unlisted, [], "not in the list");
}
