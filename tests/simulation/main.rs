//! Thousands of schedules, other ones with each run.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use theater_tests::simulation::{self, STEPS_MIN};

const SCHEDULES: u64 = 10_000;

#[test]
fn every_schedule_ends_well() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = std::env::var("THEATER_SEED")
        .map_or(u64::from(now.subsec_nanos()) << 20, |seed| seed.parse().unwrap());
    println!("seeds {first} to {}", first + SCHEDULES - 1);
    let (next, short, steps) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let play = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= SCHEDULES {
                    return;
                }
                match simulation::simulate(first + number) {
                    Ok(done) => {
                        steps.fetch_add(done, Ordering::Relaxed);
                        short.fetch_add(usize::from(done < STEPS_MIN), Ordering::Relaxed);
                    }
                    Err(failure) => panic!("{failure}"),
                }
            }
        };
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(play);
        }
    });
    println!("{SCHEDULES} schedules, {} steps", steps.into_inner());
    assert_eq!(short.into_inner(), 0, "schedules of less than {STEPS_MIN} steps");
}
