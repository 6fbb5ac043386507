//! Mutation testing: deliberately faulty versions of the services, one at a time, and the tests that must fail on each.
//! A rule whose mutant survives is not protected by any test.
//!
//! # Layout
//!
//! - [`decisions`], [`runtime`], [`adapters`]: the mutants; [`all()`] lists them.
//! - [`checkout`]: a copy of the sources, to be mutated; [`test_runner`]: builds the copy and runs its tests.
//! - [`report`]: the outcome of each mutant.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

pub mod adapters;
pub mod checkout;
pub mod decisions;
pub mod report;
pub mod runtime;
pub mod test_runner;

use report::{Outcome, Report};
use test_runner::{TestResult, TestRunner};

/// A faulty version of the services.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub name: &'static str,
    /// What is wrong with it.
    pub defect: &'static str,
    pub edits: &'static [Edit],
    /// The tests that must fail, the fastest first.
    pub killers: &'static [Killer],
}

/// Text that a file contains exactly once, and the mutant's replacement.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    pub file: &'static str,
    pub original: &'static str,
    pub mutated: &'static str,
}

/// Tests: the binary that contains them, and a part of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Killer {
    pub tier: Tier,
    pub filter: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The unit tests of a crate.
    Unit(&'static str),
    /// A test binary that needs no server.
    Standalone(&'static str),
    /// A test binary that needs Kafka and PostgreSQL.
    WithServers(&'static str),
}

const fn unit(package: &'static str) -> Killer {
    Killer { tier: Tier::Unit(package), filter: "" }
}

const SIMULATION: Killer =
    Killer { tier: Tier::Standalone("simulation"), filter: "every_schedule_ends_well" };

const fn integration(filter: &'static str) -> Killer {
    Killer { tier: Tier::WithServers("integration"), filter }
}

impl Mutant {
    /// The new contents of the files that it changes.
    ///
    /// # Errors
    /// If a file can't be read, or doesn't contain the original text of an edit exactly once.
    pub fn apply(
        &self,
        read: impl Fn(&str) -> std::io::Result<String>,
    ) -> anyhow::Result<BTreeMap<&'static str, String>> {
        let mut files = BTreeMap::new();
        for Edit { file, original, mutated } in self.edits {
            let text = match files.remove(file) {
                Some(text) => text,
                None => read(file).with_context(|| (*file).to_owned())?,
            };
            let times = text.matches(original).count();
            ensure!(times == 1, "{file} says {times} times: {original}");
            ensure!(original != mutated, "{file} is to say the same: {original}");
            files.insert(*file, text.replacen(original, mutated, 1));
        }
        Ok(files)
    }
}

/// All mutants. Those of one file follow one another, so that an incremental build compiles little.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    [decisions::MUTANTS, adapters::MUTANTS, runtime::MUTANTS].into_iter().flatten()
}

#[derive(Debug, Args)]
pub struct Options {
    /// The mutants to run; all if none is named
    names: Vec<String>,
    /// Keeps the copy and its build in this folder for the next run; else they are in a temporary folder
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Lists the mutants and exits
    #[arg(long)]
    list: bool,
    /// Prints the result as a table for the documentation
    #[arg(long)]
    markdown: bool,
}

/// Runs the selected mutants one after another.
///
/// # Errors
/// If a mutant survives or can't be run, or if a test fails without a mutant.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let mutants = select_mutants(&options.names)?;
    if options.list {
        mutants.iter().for_each(|mutant| println!("{:36} {}", mutant.name, mutant.defect));
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(async {
        let mut test_runner = TestRunner::new(options.target.as_deref())?;
        let report = run_all(&mut test_runner, &mutants).await;
        test_runner.close();
        report
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    theater_infra::supervise::stop_reaper();
    let report = report?;
    if options.markdown {
        print!("{}", report.markdown());
    }
    println!("{report}");
    report.ensure_all_killed()
}

fn select_mutants(names: &[String]) -> anyhow::Result<Vec<&'static Mutant>> {
    let exists = |name: &String| all().any(|mutant| mutant.name == name);
    if let Some(unknown) = names.iter().find(|name| !exists(name)) {
        bail!("there is no mutant {unknown}; --list names them");
    }
    let wanted = |mutant: &&Mutant| names.is_empty() || names.iter().any(|name| mutant.name == name);
    Ok(all().filter(wanted).collect())
}

async fn run_all(test_runner: &mut TestRunner, mutants: &[&'static Mutant]) -> anyhow::Result<Report> {
    check_unmutated(test_runner, mutants).await?;
    let mut report = Report::default();
    for mutant in mutants {
        let outcome = run_mutant(test_runner, mutant).await.with_context(|| mutant.name)?;
        println!("{:36} {outcome}", mutant.name);
        report.add(mutant, outcome);
    }
    Ok(report)
}

/// Every killer must pass without a mutant: else a broken test would kill every mutant.
async fn check_unmutated(test_runner: &mut TestRunner, mutants: &[&Mutant]) -> anyhow::Result<()> {
    let mut killers: Vec<_> = mutants.iter().flat_map(|mutant| mutant.killers).copied().collect();
    killers.sort_unstable();
    killers.dedup();
    println!("{} tests without a mutant", killers.len());
    for killer in killers {
        let built = test_runner.build(killer.tier).await?.map_err(anyhow::Error::msg)?;
        match test_runner.run(killer, &built).await? {
            TestResult::Passed => {}
            TestResult::Failed(tests) => bail!("without a mutant: {} failed", tests.join(", ")),
            TestResult::Hung => {
                bail!("without a mutant: {killer} has not ended in {} s", test_runner::TEST_TIMEOUT.as_secs())
            }
        }
    }
    Ok(())
}

async fn run_mutant(test_runner: &mut TestRunner, mutant: &'static Mutant) -> anyhow::Result<Outcome> {
    match test_runner.checkout.mutate(mutant) {
        Ok(()) => {}
        Err(error) => return Ok(Outcome::DoesNotApply(format!("{error:#}"))),
    }
    let outcome = run_killers(test_runner, mutant.killers).await;
    test_runner.checkout.restore()?;
    outcome
}

async fn run_killers(test_runner: &mut TestRunner, killers: &[Killer]) -> anyhow::Result<Outcome> {
    let (mut build_time, mut test_time) = (Duration::ZERO, Duration::ZERO);
    for killer in killers {
        let began = std::time::Instant::now();
        let built = match test_runner.build(killer.tier).await? {
            Ok(built) => built,
            Err(message) => return Ok(Outcome::DoesNotCompile(message)),
        };
        build_time += began.elapsed();
        let began = std::time::Instant::now();
        let result = test_runner.run(*killer, &built).await?;
        test_time += began.elapsed();
        let failed_tests = match result {
            TestResult::Passed => continue,
            TestResult::Failed(tests) => tests.join(", "),
            TestResult::Hung => return Ok(Outcome::Hung(killer.to_string())),
        };
        return Ok(Outcome::Killed { failed_tests, tier: killer.tier, test_time, build_time });
    }
    Ok(Outcome::Survived)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A mutant whose text is no longer in the sources tests nothing.
    #[test]
    fn every_mutant_applies_to_the_sources() {
        let mut names = HashSet::new();
        for mutant in all() {
            let changed = mutant.apply(|file| std::fs::read_to_string(checkout::source_root().join(file)));
            let changed = changed.unwrap_or_else(|error| panic!("{}: {error:#}", mutant.name));
            assert!(!changed.is_empty() && !mutant.killers.is_empty(), "{} does nothing", mutant.name);
            assert!(names.insert(mutant.name), "two are called {}", mutant.name);
        }
        assert!(names.len() >= 20, "{} mutants", names.len());
    }
}
