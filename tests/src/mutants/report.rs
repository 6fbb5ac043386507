//! What came of the mutants.

use std::fmt;
use std::time::Duration;

use anyhow::bail;

use super::{Mutant, Tier};

#[derive(Debug)]
pub enum Fate {
    Killed {
        by: String,
        tier: Tier,
        test: Duration,
        build: Duration,
    },
    Survived,
    /// A test had not ended in time: whether for the mutant's sake nobody can say.
    Hung(String),
    DoesNotCompile(String),
    DoesNotApply(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed { by, tier, test, build } => {
                let (test, build) = (test.as_secs_f64(), build.as_secs_f64());
                write!(f, "killed by {by} ({tier}) in {test:.1} s (build {build:.1} s)")
            }
            Self::Survived => f.write_str("SURVIVED"),
            Self::Hung(test) => write!(f, "HUNG in {test}"),
            Self::DoesNotCompile(message) => write!(f, "DOES NOT COMPILE: {message}"),
            Self::DoesNotApply(message) => write!(f, "DOES NOT APPLY: {message}"),
        }
    }
}

#[derive(Debug, Default)]
pub struct Report(Vec<(&'static Mutant, Fate)>);

impl Report {
    pub(super) fn add(&mut self, mutant: &'static Mutant, fate: Fate) {
        self.0.push((mutant, fate));
    }

    fn killed(&self) -> usize {
        self.0.iter().filter(|(_, fate)| matches!(fate, Fate::Killed { .. })).count()
    }

    /// A table; only the first test that failed is named.
    pub fn markdown(&self) -> String {
        let mut table = "| mutant | what is wrong | killed by | s |\n|---|---|---|---:|\n".to_owned();
        for (mutant, fate) in &self.0 {
            let (by, secs) = match fate {
                Fate::Killed { by, tier, test, .. } => {
                    let first = by.split(", ").next().unwrap_or_default();
                    (format!("{tier}: `{first}`"), format!("{:.1}", test.as_secs_f64()))
                }
                alive => {
                    (format!("**{}**", alive.to_string().lines().next().unwrap_or_default()), String::new())
                }
            };
            table += &format!("| `{}` | {} | {by} | {secs} |\n", mutant.name, mutant.wrong);
        }
        table
    }

    /// # Errors
    /// One that was not killed.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let alive = self.0.iter().filter(|(_, fate)| !matches!(fate, Fate::Killed { .. }));
        let alive: Vec<_> = alive.map(|(mutant, _)| mutant.name).collect();
        if alive.is_empty() { Ok(()) } else { bail!("not killed: {}", alive.join(", ")) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} mutants are killed", self.killed(), self.0.len())
    }
}
