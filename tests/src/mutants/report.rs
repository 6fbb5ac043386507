//! The outcomes of a run, as text and as a table.

use std::fmt;
use std::time::Duration;

use anyhow::bail;

use super::{Mutant, Tier};

#[derive(Debug)]
pub enum Outcome {
    Killed {
        failed_tests: String,
        tier: Tier,
        test_time: Duration,
        build_time: Duration,
    },
    Survived,
    /// A test did not end in time. The mutant need not be the reason.
    Hung(String),
    DoesNotCompile(String),
    DoesNotApply(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed { failed_tests, tier, test_time, build_time } => {
                let (test, build) = (test_time.as_secs_f64(), build_time.as_secs_f64());
                write!(f, "killed by {failed_tests} ({tier}) in {test:.1} s (build {build:.1} s)")
            }
            Self::Survived => f.write_str("SURVIVED"),
            Self::Hung(test) => write!(f, "HUNG in {test}"),
            Self::DoesNotCompile(message) => write!(f, "DOES NOT COMPILE: {message}"),
            Self::DoesNotApply(message) => write!(f, "DOES NOT APPLY: {message}"),
        }
    }
}

#[derive(Debug, Default)]
pub struct Report(Vec<(&'static Mutant, Outcome)>);

impl Report {
    pub(super) fn add(&mut self, mutant: &'static Mutant, outcome: Outcome) {
        self.0.push((mutant, outcome));
    }

    fn killed(&self) -> usize {
        self.0.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Killed { .. })).count()
    }

    /// A table that names only the first failed test of each mutant.
    pub fn markdown(&self) -> String {
        let mut table = "| mutant | what is wrong | killed by | s |\n|---|---|---|---:|\n".to_owned();
        for (mutant, outcome) in &self.0 {
            let (by, secs) = match outcome {
                Outcome::Killed { failed_tests, tier, test_time, .. } => {
                    let first = failed_tests.split(", ").next().unwrap_or_default();
                    (format!("{tier}: `{first}`"), format!("{:.1}", test_time.as_secs_f64()))
                }
                not_killed => (
                    format!("**{}**", not_killed.to_string().lines().next().unwrap_or_default()),
                    String::new(),
                ),
            };
            table += &format!("| `{}` | {} | {by} | {secs} |\n", mutant.name, mutant.defect);
        }
        table
    }

    /// # Errors
    /// If a mutant was not killed.
    pub fn ensure_all_killed(&self) -> anyhow::Result<()> {
        let not_killed = self.0.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Killed { .. }));
        let not_killed: Vec<_> = not_killed.map(|(mutant, _)| mutant.name).collect();
        if not_killed.is_empty() { Ok(()) } else { bail!("not killed: {}", not_killed.join(", ")) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} mutants are killed", self.killed(), self.0.len())
    }
}
