//! The saga without servers: thousands of schedules, other ones with each run, and every order of one saga's events.

mod permutations;

use theater_tests::simulation::STEPS_MIN;
use theater_tests::simulation::run::{another_seed, play_all};

const SCHEDULES: u64 = 10_000;

#[test]
fn every_schedule_ends_well() {
    let first = std::env::var("THEATER_SEED").map_or_else(|_| another_seed(), |seed| seed.parse().unwrap());
    println!("seeds {first} to {}", first + SCHEDULES - 1);
    match play_all(first, SCHEDULES, |_| {}) {
        Ok(played) => {
            println!("{} schedules, {} steps", played.schedules, played.steps);
            assert_eq!(played.schedules, SCHEDULES);
            assert!(played.steps_min >= STEPS_MIN as u64, "a schedule has {} steps", played.steps_min);
        }
        Err(failure) => panic!("{failure}"),
    }
}
