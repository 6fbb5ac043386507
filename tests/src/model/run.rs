//! Exploring cases one after the other: the tier does the small ones with each run, `theater-tests model --large` all.

use std::fmt;
use std::thread;

use anyhow::anyhow;

use crate::model::{Case, Report, cases, explore};

/// Which cases.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Those too that take minutes and gigabytes
    #[arg(long)]
    pub large: bool,
}

/// A state that is wrong, and the shortest way there.
#[derive(Debug)]
pub struct Wrong {
    pub case: &'static str,
    pub property: &'static str,
    pub story: Vec<String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: it does not hold that {}:\n{}", self.case, self.property, self.story.join("\n"))
    }
}

/// Explores a case to its last state, on all cores.
///
/// # Errors
/// What is wrong, found once more on one core, whose search finds the shortest way first.
pub fn prove(case: &Case) -> Result<Report, Wrong> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let report = explore(case.clone(), cores);
    let Some((property, story)) = report.wrong else { return Ok(report) };
    let (property, story) = explore(case.clone(), 1).wrong.unwrap_or((property, story));
    Err(Wrong { case: case.name, property, story })
}

/// `theater-tests model`.
///
/// # Errors
/// The way to a state that is wrong.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let large = if options.large { cases::large() } else { Vec::new() };
    for case in cases::small().into_iter().chain(large) {
        println!("{}", prove(&case).map_err(|wrong| anyhow!("{wrong}"))?);
    }
    Ok(())
}
