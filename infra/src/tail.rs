//! `theater tail`: prints events as they arrive.

use std::io::{self, Write, stdout};

use anyhow::{Context, bail};
use shared_events::{Topic, Topics};

use crate::options::{Kafka, LauncherOptions};
use crate::records::{BrokerConfig, RecordReader, Start};
use crate::{runtime_file, terminal};

/// Prints until it is cancelled or standard output is closed.
///
/// # Errors
/// If no theater is found, or if the broker or a topic doesn't exist.
pub async fn run(options: &LauncherOptions, topics: &[String], from_beginning: bool) -> anyhow::Result<()> {
    let (broker, prefix) = find_broker(options)?;
    let names = Topics::new(prefix);
    let topics = match topics {
        [] => {
            Topic::ALL.into_iter().flat_map(|topic| [names.name(topic), names.dead_letters(topic)]).collect()
        }
        topics => topics.to_vec(),
    };
    let start = if from_beginning { Start::Beginning } else { Start::Now };
    let mut reader = RecordReader::open(&broker, &topics, start).await?;
    eprintln!("{} at {}; Ctrl-C ends it", topics.join(", "), broker.bootstrap_servers);
    loop {
        let record = reader.next().await?;
        match writeln!(stdout(), "{}", terminal::format_record(&record, "")) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("can't print")?,
        }
    }
}

/// The broker and the prefix of its topics.
fn find_broker(options: &LauncherOptions) -> anyhow::Result<(BrokerConfig, String)> {
    match &options.kafka {
        Some(Kafka::At(address)) => {
            Ok((options.broker_config(address.clone()), options.kafka_topic_prefix.clone()))
        }
        Some(Kafka::Embedded | Kafka::Native) => bail!("tail reads from a running broker: --kafka HOST:PORT"),
        None => {
            let running = runtime_file::find(&runtime_file::folder()?)?.into_iter().next();
            let running = running.context(
                "no theater is running here: start one with `cargo run`, or say --kafka HOST:PORT",
            )?;
            Ok((options.broker_config(running.kafka), running.topic_prefix))
        }
    }
}
