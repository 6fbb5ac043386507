//! A first look, for any environment: both servers answer, and the golden run holds on them.

use std::process::ExitCode;

use theater_tests::{runner, tests};

mod golden_run;

fn main() -> ExitCode {
    runner::run(tests![golden_run::plays_and_lies_in_the_topics], 1)
}
