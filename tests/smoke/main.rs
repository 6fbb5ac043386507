//! The shortest test of the whole theater: the golden run of the contract, in any environment.
//!
//! Needs Kafka and PostgreSQL, which it starts itself (see `tests/README.md`), and Kafka's console consumer.
//! `cargo test -p theater-tests --test smoke` runs it.

use std::process::ExitCode;

use theater_tests::{runner, tests};

mod golden_run;

fn main() -> ExitCode {
    runner::run(tests![golden_run::is_played_and_read_by_the_console_consumer], 1)
}
