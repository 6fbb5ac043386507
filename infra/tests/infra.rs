//! What surrounds the services, for real: processes, PostgreSQL, Apache Kafka, the launcher's own binary.
//!
//! A `main` of its own, because supervised children start as this very executable, and so do the
//! processes that are killed here.

mod infra {
    pub(crate) mod kafka;
    pub(crate) mod launcher;
    pub(crate) mod postgres;
    pub(crate) mod role;
    pub(crate) mod running;
    pub(crate) mod supervise;
}

use std::future::Future;

use infra::{kafka, launcher, postgres, role, running, supervise};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    theater_infra::supervise::child_entry();
    role::play_if_asked();

    let mut arguments = Arguments::from_args();
    // Two cores: more at once would only make deadlines tight.
    arguments.test_threads.get_or_insert(2);
    let tests = [supervise::tests(), postgres::tests(), kafka::tests(), running::tests(), launcher::tests()];
    let tests = tests.into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&arguments, tests);
    theater_infra::supervise::finish();
    conclusion.exit();
}

/// A test with a runtime of its own. A panic in it is its failure.
fn test<F: Future<Output = anyhow::Result<()>> + 'static>(name: &str, body: fn() -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(body()).map_err(|error| Failed::from(format!("{error:#}")))
    })
}
