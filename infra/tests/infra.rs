//! The infrastructure itself: child processes, PostgreSQL, Apache Kafka, the launcher's binary.
//!
//! It has its own `main`, because supervised children and the helper processes that are killed here start as this very
//! executable.

mod infra {
    pub(crate) mod helper_process;
    pub(crate) mod kafka;
    pub(crate) mod launcher;
    pub(crate) mod launcher_process;
    pub(crate) mod postgres;
    pub(crate) mod runtime_file;
    pub(crate) mod supervise;
}

use std::future::Future;

use infra::{helper_process, kafka, launcher, postgres, runtime_file, supervise};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    theater_infra::supervise::child_entry();
    helper_process::run_if_requested();

    let mut arguments = Arguments::from_args();
    // For two cores: with more threads some tests would miss their deadlines.
    arguments.test_threads.get_or_insert(2);
    let tests =
        [supervise::tests(), postgres::tests(), kafka::tests(), runtime_file::tests(), launcher::tests()];
    let tests = tests.into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&arguments, tests);
    theater_infra::supervise::stop_reaper();
    conclusion.exit();
}

/// A test with its own runtime.
fn test<F: Future<Output = anyhow::Result<()>> + 'static>(name: &str, body: fn() -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(body()).map_err(|error| Failed::from(format!("{error:#}")))
    })
}
