//! The golden run of the contract, played against a theater and checked step by step.
//!
//! # Layout
//!
//! - `target`: the theater that it is played against.
//! - `scenario`: the steps as data: each one's call, the outcome, and the events that it must cause.
//! - `runner`: makes the calls and compares the outcomes and events.

use anyhow::Context;

use crate::terminal;

mod runner;
mod scenario;
mod target;

use runner::Runner;
use scenario::Scenario;
pub use target::Target;

/// Plays the golden run, and prints every call, answer and event.
///
/// # Errors
/// Names the step that failed, what was expected, and what was received.
pub async fn run(target: &Target) -> anyhow::Result<()> {
    let scenario = Scenario::new();
    let mut runner = Runner::start(target, &scenario).await?;
    for (index, step) in scenario.steps.iter().enumerate() {
        let number = index + 1;
        terminal::print_line(&format!("\n{number}. {}", step.title));
        runner.run(step).await.with_context(|| format!("step {number} failed ({})", step.title))?;
    }
    runner.check_no_further_events().await.context("after the last step")?;
    terminal::print_line("\nThe golden run held: every answer, outcome and event was as the contract says.");
    Ok(())
}
