//! `theater tail`: events as they pass.

use std::io::{self, Write, stdout};

use anyhow::{Context, bail};
use shared_events::{Topic, Topics};

use crate::options::{Kafka, Parts};
use crate::records::{Broker, Records, Start};
use crate::{running, show};

/// Prints until it is cancelled or nobody reads any more.
///
/// # Errors
/// If no theater is found, or the broker or a topic isn't there.
pub async fn run(parts: &Parts, topics: &[String], from_beginning: bool) -> anyhow::Result<()> {
    let (broker, prefix) = target(parts)?;
    let names = Topics::new(prefix);
    let topics = match topics {
        [] => {
            Topic::ALL.into_iter().flat_map(|topic| [names.name(topic), names.dead_letters(topic)]).collect()
        }
        topics => topics.to_vec(),
    };
    let start = if from_beginning { Start::Beginning } else { Start::Now };
    let mut records = Records::open(&broker, &topics, start).await?;
    eprintln!("{} at {}; Ctrl-C ends it", topics.join(", "), broker.bootstrap_servers);
    loop {
        let record = records.next().await?;
        match writeln!(stdout(), "{}", show::record(&record, "")) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("can't print")?,
        }
    }
}

fn target(parts: &Parts) -> anyhow::Result<(Broker, String)> {
    match &parts.kafka {
        Some(Kafka::At(address)) => {
            let broker =
                Broker { bootstrap_servers: address.clone(), settings: parts.kafka_config.0.clone() };
            Ok((broker, parts.kafka_topic_prefix.clone()))
        }
        Some(Kafka::Embedded | Kafka::Native) => bail!("tail reads from a running broker: --kafka HOST:PORT"),
        None => {
            let running = running::find(&running::folder()?)?.into_iter().next();
            let running = running.context(
                "no theater is running here: start one with `cargo run`, or say --kafka HOST:PORT",
            )?;
            let broker = Broker { bootstrap_servers: running.kafka, settings: parts.kafka_config.0.clone() };
            Ok((broker, running.topic_prefix))
        }
    }
}
