//! Deliberately wrong versions of the services, one at a time, and the test that notices each: what no test notices,
//! no test protects.
//!
//! # Layout
//!
//! - [`decisions`], [`runtime`], [`edges`]: the mutants; [`all()`] of them.
//! - [`checkout`]: a copy of the sources to be mutated; [`workshop`]: building it and running tests on it.
//! - [`report`]: what came of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

pub mod checkout;
pub mod decisions;
pub mod edges;
pub mod report;
pub mod runtime;
pub mod workshop;

use report::{Fate, Report};
use workshop::{Ending, Workshop};

/// A wrong version.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub name: &'static str,
    pub wrong: &'static str,
    pub edits: &'static [Edit],
    /// The tests that ought to notice it, the fastest first.
    pub killers: &'static [Killer],
}

/// What a file says, exactly once, and what the mutant says instead.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    pub file: &'static str,
    pub right: &'static str,
    pub wrong: &'static str,
}

/// Tests by the binary that holds them and a part of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Killer {
    pub tier: Tier,
    pub filter: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The unit tests of a crate.
    Unit(&'static str),
    /// A test binary of its own, which needs no server.
    Alone(&'static str),
    /// One that needs Kafka and PostgreSQL.
    Servers(&'static str),
}

const fn unit(of: &'static str) -> Killer {
    Killer { tier: Tier::Unit(of), filter: "" }
}

const SIMULATION: Killer = Killer { tier: Tier::Alone("simulation"), filter: "every_schedule_ends_well" };

const fn integration(filter: &'static str) -> Killer {
    Killer { tier: Tier::Servers("integration"), filter }
}

impl Mutant {
    /// The files that it changes, as they are then.
    ///
    /// # Errors
    /// A file that can't be read, or doesn't say exactly once what an edit expects.
    pub fn apply(
        &self,
        read: impl Fn(&str) -> std::io::Result<String>,
    ) -> anyhow::Result<BTreeMap<&'static str, String>> {
        let mut files = BTreeMap::new();
        for Edit { file, right, wrong } in self.edits {
            let text = match files.remove(file) {
                Some(text) => text,
                None => read(file).with_context(|| (*file).to_owned())?,
            };
            let times = text.matches(right).count();
            ensure!(times == 1, "{file} says {times} times: {right}");
            ensure!(right != wrong, "{file} is to say the same: {right}");
            files.insert(*file, text.replacen(right, wrong, 1));
        }
        Ok(files)
    }
}

/// All of them, those of one file beside each other: the next one is built on what is left of the last.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    [decisions::MUTANTS, edges::MUTANTS, runtime::MUTANTS].into_iter().flatten()
}

#[derive(Debug, Args)]
pub struct Options {
    /// The mutants to try; all if none is named
    names: Vec<String>,
    /// Where the copy and what is built of it are kept for the next run; else in a temporary folder
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Names the mutants and ends
    #[arg(long)]
    list: bool,
    /// Shows the result as a table for the documentation
    #[arg(long)]
    markdown: bool,
}

/// Tries them one after another.
///
/// # Errors
/// One that no test noticed, one that can't be tried, a test that fails without any.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let mutants = chosen(&options.names)?;
    if options.list {
        mutants.iter().for_each(|mutant| println!("{:36} {}", mutant.name, mutant.wrong));
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(async {
        let mut workshop = Workshop::open(options.target.as_deref())?;
        let report = try_all(&mut workshop, &mutants).await;
        workshop.close();
        report
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    theater_infra::supervise::stop_reaper();
    let report = report?;
    if options.markdown {
        print!("{}", report.markdown());
    }
    println!("{report}");
    report.verdict()
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Mutant>> {
    let known = |name: &String| all().any(|mutant| mutant.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        bail!("there is no mutant {unknown}; --list names them");
    }
    let wanted = |mutant: &&Mutant| names.is_empty() || names.iter().any(|name| mutant.name == name);
    Ok(all().filter(wanted).collect())
}

async fn try_all(workshop: &mut Workshop, mutants: &[&'static Mutant]) -> anyhow::Result<Report> {
    unmutated(workshop, mutants).await?;
    let mut report = Report::default();
    for mutant in mutants {
        let fate = try_one(workshop, mutant).await.with_context(|| mutant.name)?;
        println!("{:36} {fate}", mutant.name);
        report.add(mutant, fate);
    }
    Ok(report)
}

/// Every test that is to notice something passes as long as there is nothing: else a broken one would kill all.
async fn unmutated(workshop: &mut Workshop, mutants: &[&Mutant]) -> anyhow::Result<()> {
    let mut killers: Vec<_> = mutants.iter().flat_map(|mutant| mutant.killers).copied().collect();
    killers.sort_unstable();
    killers.dedup();
    println!("{} tests without a mutant", killers.len());
    for killer in killers {
        let built = workshop.build(killer.tier).await?.map_err(anyhow::Error::msg)?;
        match workshop.run(killer, &built).await? {
            Ending::Passed => {}
            Ending::Failed(tests) => bail!("without a mutant: {} failed", tests.join(", ")),
            Ending::Hung => {
                bail!("without a mutant: {killer} has not ended in {} s", workshop::LIMIT.as_secs())
            }
        }
    }
    Ok(())
}

async fn try_one(workshop: &mut Workshop, mutant: &'static Mutant) -> anyhow::Result<Fate> {
    match workshop.checkout.mutate(mutant) {
        Ok(()) => {}
        Err(error) => return Ok(Fate::DoesNotApply(format!("{error:#}"))),
    }
    let fate = killed_by(workshop, mutant.killers).await;
    workshop.checkout.restore()?;
    fate
}

async fn killed_by(workshop: &mut Workshop, killers: &[Killer]) -> anyhow::Result<Fate> {
    let (mut build, mut test) = (Duration::ZERO, Duration::ZERO);
    for killer in killers {
        let began = std::time::Instant::now();
        let built = match workshop.build(killer.tier).await? {
            Ok(built) => built,
            Err(message) => return Ok(Fate::DoesNotCompile(message)),
        };
        build += began.elapsed();
        let began = std::time::Instant::now();
        let ending = workshop.run(*killer, &built).await?;
        test += began.elapsed();
        let by = match ending {
            Ending::Passed => continue,
            Ending::Failed(tests) => tests.join(", "),
            Ending::Hung => return Ok(Fate::Hung(killer.to_string())),
        };
        return Ok(Fate::Killed { by, tier: killer.tier, test, build });
    }
    Ok(Fate::Survived)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// One that no longer does would prove nothing.
    #[test]
    fn every_mutant_applies_to_the_sources() {
        let mut names = HashSet::new();
        for mutant in all() {
            let changed = mutant.apply(|file| std::fs::read_to_string(checkout::source().join(file)));
            let changed = changed.unwrap_or_else(|error| panic!("{}: {error:#}", mutant.name));
            assert!(!changed.is_empty() && !mutant.killers.is_empty(), "{} does nothing", mutant.name);
            assert!(names.insert(mutant.name), "two are called {}", mutant.name);
        }
        assert!(names.len() >= 20, "{} mutants", names.len());
    }
}
