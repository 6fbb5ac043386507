//! The fleet as processes under load, while its members are killed, frozen, added and removed; then every
//! invariant.

use std::process::ExitCode;

use theater_tests::{runner, tests};

mod books;
mod crowd;
mod failpoints;
mod keys;
mod killed;
mod market;

fn main() -> ExitCode {
    let tests = tests![
        failpoints::a_crash_before_and_after_each,
        keys::a_key_has_one_effect_whoever_dies,
        killed::every_service_once_by_kill_9,
        killed::frozen_owners_of_partitions_and_shards,
        killed::replicas_come_and_go,
        killed::terminated_under_load,
    ];
    runner::run(tests, 1)
}
