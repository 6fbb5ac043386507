//! Builds the copy and runs its tests, on one Kafka and one PostgreSQL for all mutants.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use theater_infra::kafka_native::can_create_topics;
use theater_infra::supervise::{Program, TempDir};

use super::checkout::Checkout;
use super::{Killer, Tier};
use crate::Environment;

/// A test that takes longer counts as hung.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(180);

/// How long tests wait for a condition, which may never hold on a mutant.
const PATIENCE_SECS: &str = "20";

pub struct TestRunner {
    pub checkout: Checkout,
    target: PathBuf,
    scratch: TempDir,
    environment: Option<Environment>,
    runs: usize,
}

/// Test binaries, by the folder of their package and their name there.
pub type Built = BTreeMap<(PathBuf, String), PathBuf>;

/// How a run of tests ended.
#[derive(Debug)]
pub enum TestResult {
    Passed,
    /// The names of the tests that failed.
    Failed(Vec<String>),
    Hung,
}

impl TestRunner {
    /// Copies the sources to `folder`, or to a temporary one that is removed at the end.
    ///
    /// # Errors
    /// If the folder can't be created or filled.
    pub fn new(folder: Option<&Path>) -> anyhow::Result<Self> {
        let scratch = TempDir::new(&std::env::temp_dir(), "theater-mutants")?;
        let folder = match folder {
            Some(folder) => std::path::absolute(folder)?,
            None => scratch.path().to_owned(),
        };
        let checkout = Checkout::copy(folder.join("checkout"))?;
        Ok(Self { checkout, target: folder.join("target"), scratch, environment: None, runs: 0 })
    }

    /// Stops Kafka and PostgreSQL.
    pub fn close(self) {
        drop(self.environment);
    }

    /// Builds the tests of a tier; returns the compiler's message if they don't compile.
    ///
    /// # Errors
    /// If cargo can't be run.
    pub async fn build(&self, tier: Tier) -> anyhow::Result<Result<Built, String>> {
        let mut cargo = tokio::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        // The whole workspace, so that the features of the dependencies are the same for every tier.
        cargo.args(["test", "--workspace", "--locked", "--quiet", "--no-run"]);
        cargo.arg("--message-format=json-render-diagnostics");
        match tier {
            Tier::Unit(_) => cargo.arg("--lib"),
            Tier::Standalone(name) | Tier::WithServers(name) => cargo.args(["--test", name]),
        };
        cargo.current_dir(&self.checkout.root).env("CARGO_TARGET_DIR", &self.target).kill_on_drop(true);
        // Without debug information each build is some seconds faster.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "none");
        let output = cargo.output().await.context("cargo")?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let built = stdout.lines().filter_map(|line| test_binary(&serde_json::from_str(line).ok()?));
        Ok(Ok(built.collect()))
    }

    /// Runs tests that were built.
    ///
    /// # Errors
    /// If there are no such tests, or Kafka or PostgreSQL can't be reached.
    pub async fn run(&mut self, killer: Killer, built: &Built) -> anyhow::Result<TestResult> {
        let root = &self.checkout.root;
        let (package, name) = match killer.tier {
            // A package's folder has its name.
            Tier::Unit(package) => (Some(root.join(package)), package.replace('-', "_")),
            Tier::Standalone(name) | Tier::WithServers(name) => (None, name.to_owned()),
        };
        let found = built.iter().find(|((folder, test), _)| {
            *test == name && package.as_ref().is_none_or(|package| package == folder)
        });
        let ((folder, _), binary) = found.with_context(|| format!("{killer} was not built"))?;
        let mut command = Command::new(binary);
        command.arg(killer.filter).current_dir(folder).env("RUST_BACKTRACE", "0");
        if let Tier::WithServers(_) = killer.tier {
            let (kafka, database) = self.servers().await?;
            command.env("KAFKA_BOOTSTRAP_SERVERS", kafka).env("DATABASE_URL", database);
            command.env("THEATER_TEST_PATIENCE_SECS", PATIENCE_SECS);
        }
        self.runs += 1;
        let log = self.scratch.path().join(format!("run-{}.log", self.runs));
        let child = Program::new(command, &log).spawn()?;
        let Ok(status) = tokio::time::timeout(TEST_TIMEOUT, child.exited()).await else {
            child.kill().await;
            return Ok(TestResult::Hung);
        };
        let output = std::fs::read(&log)?;
        parse_result(status.success(), &String::from_utf8_lossy(&output)).with_context(|| killer.to_string())
    }

    /// The addresses of Kafka and PostgreSQL. Both must answer: a test that fails because one is down would seem to kill
    /// the mutant.
    async fn servers(&mut self) -> anyhow::Result<(String, String)> {
        let environment = match &self.environment {
            Some(environment) => environment,
            None => self.environment.insert(Environment::start().await?),
        };
        let (kafka, database) = (environment.bootstrap(), environment.admin_url());
        can_create_topics(&kafka).await.map_err(anyhow::Error::msg).context("Kafka")?;
        PgConnection::connect(&database).await.context("PostgreSQL")?.close().await?;
        Ok((kafka, database))
    }
}

/// The test binary in a message of cargo's.
fn test_binary(message: &Value) -> Option<((PathBuf, String), PathBuf)> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let name = message["target"]["name"].as_str()?.to_owned();
    Some(((manifest.parent()?.to_owned(), name), message["executable"].as_str()?.into()))
}

/// Parses the output of libtest or libtest-mimic.
fn parse_result(success: bool, output: &str) -> anyhow::Result<TestResult> {
    let result = |line: &str, result: &str| {
        let test = line.strip_prefix("test ")?.strip_suffix(result)?.trim_end().strip_suffix("...")?;
        Some(test.trim_end().to_owned())
    };
    let failed: Vec<String> = output.lines().filter_map(|line| result(line, "FAILED")).collect();
    let passed = output.lines().any(|line| result(line, "ok").is_some());
    match (success, failed.is_empty()) {
        (true, true) => {
            ensure!(passed, "there is no such test");
            Ok(TestResult::Passed)
        }
        (false, false) => Ok(TestResult::Failed(failed)),
        (true, false) | (false, true) => bail!("the tests ended without saying how:\n{output}"),
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(package) => write!(f, "{package}, unit"),
            Self::Standalone(name) | Self::WithServers(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Killer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.tier, self.filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_both_harnesses_are_parsed() {
        let libtest =
            "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED\n\nfailures:\n\n---- a::c stdout ----";
        let mimic = "test a::b     ... ok\ntest a::c ... FAILED";
        for output in [libtest, mimic] {
            let TestResult::Failed(tests) = parse_result(false, output).unwrap() else { panic!("{output}") };
            assert_eq!(tests, ["a::c"]);
        }
        assert!(matches!(parse_result(true, "test a::b ... ok").unwrap(), TestResult::Passed));
        // No test at all; a crash; a status that contradicts the output.
        for (success, output) in
            [(true, "running 0 tests"), (false, "test a ... ok"), (true, "test a ... FAILED")]
        {
            parse_result(success, output).unwrap_err();
        }
    }
}
