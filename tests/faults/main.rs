//! The services as processes under load, while processes are killed, frozen, added and removed, or die at a failpoint.
//! Afterwards every invariant must hold.
//!
//! Needs Kafka and PostgreSQL, which it starts itself (see `tests/README.md`). `cargo test -p theater-tests --test
//! faults failpoints::` runs the tests with that in their name.
//!
//! # Layout
//!
//! - [`failpoints`]: a process dies right before and right after every write, commit, send and acknowledgement.
//! - [`processes`]: `kill -9`, SIGTERM, SIGSTOP, and replicas that join and leave.
//! - [`idempotency`]: concurrent repeats of a call while the processes that answer it die.
//! - [`workload`]: the calls that go on meanwhile; [`ledger`]: which of them were accepted.
//! - [`invariants`]: what must hold afterwards, compared with the ledger.

use std::process::ExitCode;

use theater_tests::{runner, tests};

mod failpoints;
mod idempotency;
mod invariants;
mod ledger;
mod processes;
mod workload;

fn main() -> ExitCode {
    let tests = tests![
        failpoints::a_crash_before_and_after_each,
        idempotency::a_key_has_one_effect_despite_crashes,
        processes::each_killed_once,
        processes::each_terminated_under_load,
        processes::frozen_owners_of_partitions_and_shards,
        processes::replicas_join_and_leave,
    ];
    runner::run(tests, 1)
}
