//! Explores cases one after another: the small ones in the simulation tier, all by `theater-tests model --large`.

use std::fmt;
use std::thread;

use anyhow::anyhow;

use crate::model::{Case, Report, cases, explore};

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Also explores the cases that take minutes and gigabytes
    #[arg(long)]
    pub large: bool,
}

/// A path to a state that violates a property.
#[derive(Debug)]
pub struct Counterexample {
    pub case: &'static str,
    pub property: &'static str,
    pub trace: Vec<String>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: it does not hold that {}:\n{}", self.case, self.property, self.trace.join("\n"))
    }
}

/// Explores every state of a case on all cores.
///
/// # Errors
/// A counterexample. It is searched for once more on one core, whose search finds the shortest path first.
pub fn check_case(case: &Case) -> Result<Report, Counterexample> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let report = explore(case.clone(), cores);
    let Some((property, trace)) = report.counterexample else { return Ok(report) };
    let (property, trace) = explore(case.clone(), 1).counterexample.unwrap_or((property, trace));
    Err(Counterexample { case: case.name, property, trace })
}

/// `theater-tests model`.
///
/// # Errors
/// The first counterexample.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let large = if options.large { cases::large() } else { Vec::new() };
    for case in cases::small().into_iter().chain(large) {
        println!("{}", check_case(&case).map_err(|counterexample| anyhow!("{counterexample}"))?);
    }
    Ok(())
}
