//! A tier's `main`. The first test starts the environment. It is stopped at the end, whether tests failed or not.

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tracing_subscriber::EnvFilter;

use crate::{Environment, schema_conformance};

/// How long the runtime may take to shut down.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

pub type TestFuture<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// A test and its name.
pub struct Test {
    pub name: &'static str,
    pub run: for<'a> fn(&'a Environment) -> TestFuture<'a>,
}

/// Lists tests by the paths of their functions: `tests![golden_run::plays, …]`.
#[macro_export]
macro_rules! tests {
    ($($module:ident :: $test:ident),+ $(,)?) => {
        vec![$($crate::runner::Test {
            name: concat!(stringify!($module), "::", stringify!($test)),
            run: |environment| Box::pin($module::$test(environment)),
        }),+]
    };
}

/// Runs a tier with at most `threads` tests at a time.
pub fn run(tests: Vec<Test>, threads: usize) -> ExitCode {
    theater_infra::supervise::child_entry();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(threads));

    let runtime = match Runtime::new() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let environment = Arc::new(OnceCell::new());
    let trials = tests.into_iter().map(|test| trial(test, &runtime, &environment)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let conformance =
        schema_conformance::conclude(!conclusion.has_failed(), conclusion.num_filtered_out == 0);
    // Drops the containers and processes. A static would never be dropped.
    runtime.block_on(async move { drop(environment) });
    theater_infra::supervise::stop_reaper();
    // Tasks of a failed test may still wait for the stopped Kafka.
    if let Some(runtime) = Arc::into_inner(runtime) {
        runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    }
    if let Err(error) = conformance {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trial(test: Test, runtime: &Arc<Runtime>, environment: &Arc<OnceCell<Environment>>) -> Trial {
    let (runtime, environment) = (Arc::clone(runtime), Arc::clone(environment));
    Trial::test(test.name, move || {
        let began = std::time::Instant::now();
        let result = runtime.block_on(async {
            let environment = environment.get_or_try_init(Environment::start).await?;
            (test.run)(environment).await
        });
        eprintln!("{}: {:.1} s", test.name, began.elapsed().as_secs_f64());
        result.map_err(|error| format!("{error:#}").into())
    })
}
