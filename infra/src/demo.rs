//! The golden run of the contract, played against a theater and checked step by step.
//!
//! # Layout
//!
//! - [`script`]: the steps: each one's call, its outcome, and the events that it must cause.
//! - [`stage`]: a theater as a customer and an operator see it: calls over HTTP, events as they pass.

use anyhow::{Context, bail};

use crate::options::{Kafka, Parts};
use crate::records::Broker;
use crate::{running, show};

mod script;
mod stage;

use script::Script;
use stage::Stage;

/// The theater that is played on.
#[derive(Clone, Debug)]
pub struct Target {
    /// The gateway's URL, without a slash at its end.
    pub gateway: String,
    pub broker: Broker,
    pub topic_prefix: String,
}

impl Target {
    /// A theater that runs already: its broker is given, or in its runtime file.
    ///
    /// # Errors
    /// If the broker is neither.
    pub fn running(parts: &Parts, gateway: &str) -> anyhow::Result<Self> {
        let broker = |bootstrap_servers| Broker { bootstrap_servers, settings: parts.kafka_config.0.clone() };
        let (broker, topic_prefix) = match &parts.kafka {
            Some(Kafka::At(address)) => (broker(address.clone()), parts.kafka_topic_prefix.clone()),
            Some(_) => bail!(
                "with --gateway, --kafka is the address of the broker that this theater uses: HOST:PORT"
            ),
            None => {
                let here = running::find(&running::folder()?)?
                    .into_iter()
                    .find(|theater| theater.gateway == gateway);
                let here = here.with_context(|| {
                    format!("no theater with the gateway {gateway} was started on this machine: say --kafka HOST:PORT")
                })?;
                (broker(here.kafka), here.topic_prefix)
            }
        };
        Ok(Self { gateway: gateway.to_owned(), broker, topic_prefix })
    }
}

/// Plays the golden run, showing every call, answer and event.
///
/// # Errors
/// Names the step that did not hold, what was expected, and what was seen.
pub async fn play(target: &Target) -> anyhow::Result<()> {
    let script = Script::new();
    let mut stage = Stage::set(target, &script).await?;
    for (index, step) in script.steps.iter().enumerate() {
        let number = index + 1;
        show::line(&format!("\n{number}. {}", step.title));
        stage.play(step).await.with_context(|| format!("step {number} failed ({})", step.title))?;
    }
    stage.close().await.context("after the last step")?;
    show::line("\nThe golden run held: every answer, outcome and event was as the contract says.");
    Ok(())
}
