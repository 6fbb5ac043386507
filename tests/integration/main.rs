//! Every call and event on real Kafka and PostgreSQL.

use std::process::ExitCode;

use theater_tests::{runner, tests};

mod capacity;

fn main() -> ExitCode {
    let tests = tests![capacity::two_replicas_sell_exactly_what_there_is];
    runner::run(tests, 2)
}
