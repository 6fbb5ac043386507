//! A Kafka-protocol broker inside this process: librdkafka's `MockCluster`, on a thread of its own.
//!
//! It is for a first look. It keeps at most 5 MiB per partition and silently removes older records, so that a slow
//! service would miss events. A reader adds up the records' sizes, and [`EmbeddedKafka::wait_until_full`] returns before
//! that happens.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use rdkafka::mocking::MockCluster;
use shared_events::{Topic, Topics};

use crate::records::{BrokerConfig, Record, RecordReader, Start};

/// librdkafka's limit for a partition.
const PARTITION_LIMIT_BYTES: usize = 5 * 1024 * 1024;
/// The limit here: below librdkafka's, so that there is room for records produced while the theater stops.
const NEARLY_FULL_BYTES: usize = PARTITION_LIMIT_BYTES / 10 * 9;
/// The size of a record without key, headers and value, if it is a batch of its own.
const OVERHEAD_BYTES: usize = 100;

/// A running broker. Dropping it loses all records.
pub struct EmbeddedKafka {
    bootstrap_servers: String,
    records: RecordReader,
    sizes: HashMap<(String, i32), usize>,
    limit: usize,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedKafka {
    /// Starts it with the saga's topics: it doesn't support the admin calls by which services create them.
    ///
    /// # Errors
    /// If librdkafka can't create it.
    pub async fn start(topics: &Topics, partitions: i32) -> anyhow::Result<Self> {
        let names: Vec<String> = Topic::ALL
            .into_iter()
            .flat_map(|topic| [topics.name(topic), topics.dead_letters(topic)])
            .collect();
        let (started, start) = tokio::sync::oneshot::channel();
        let (stop, stopped) = mpsc::channel();
        let created = names.clone();
        let thread = thread::Builder::new().name("embedded-kafka".into()).spawn(move || {
            let cluster = start_cluster(&created, partitions);
            let answer = cluster.as_ref().map(MockCluster::bootstrap_servers).map_err(ToString::to_string);
            // Both fail only if the owner has been dropped, which ends the thread.
            if started.send(answer).is_ok() {
                let _ = stopped.recv();
            }
        })?;
        let bootstrap_servers = start.await.context("the embedded broker's thread")?;
        let bootstrap_servers = bootstrap_servers.map_err(|error| anyhow!("the embedded broker: {error}"))?;
        let records =
            RecordReader::open(&BrokerConfig::plaintext(&bootstrap_servers), &names, Start::Beginning)
                .await?;
        Ok(Self {
            bootstrap_servers,
            records,
            sizes: HashMap::new(),
            limit: NEARLY_FULL_BYTES,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// `127.0.0.1:PORT`; the port is random.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Returns the reason once a partition is nearly full, or once the reader has missed records.
    pub async fn wait_until_full(&mut self) -> anyhow::Error {
        const ALTERNATIVE: &str = "For more than a first look run Apache Kafka itself: --kafka native";
        loop {
            let record = match self.records.next().await {
                Ok(record) => record,
                Err(error) => {
                    return anyhow!("the embedded broker has lost records ({error:#}). {ALTERNATIVE}");
                }
            };
            let partition = (record.topic.clone(), record.partition);
            let size = self.sizes.entry(partition).or_default();
            *size += stored_bytes(&record);
            if *size >= self.limit {
                return anyhow!(
                    "the embedded broker is full: {}[{}] is near the {} MiB that it keeps of a partition. {ALTERNATIVE}",
                    record.topic,
                    record.partition,
                    PARTITION_LIMIT_BYTES / 1024 / 1024,
                );
            }
        }
    }
}

impl Drop for EmbeddedKafka {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has nothing left that could panic
        }
    }
}

fn start_cluster(
    topics: &[String],
    partitions: i32,
) -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>, rdkafka::error::KafkaError> {
    let cluster = MockCluster::new(1)?;
    for topic in topics {
        cluster.create_topic(topic, partitions, 1)?;
    }
    Ok(cluster)
}

fn stored_bytes(record: &Record) -> usize {
    let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + length(value) + 4).sum();
    length(&record.key) + length(&record.value) + headers + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::producer::{FutureProducer, FutureRecord};

    use super::*;

    #[tokio::test]
    async fn a_nearly_full_partition_is_reported() {
        let topics = Topics::new("theater.");
        let mut kafka = EmbeddedKafka::start(&topics, 1).await.unwrap();
        let producer: FutureProducer =
            BrokerConfig::plaintext(kafka.bootstrap_servers()).client_config().create().unwrap();
        let value = vec![b'x'; 100_000];
        let topic = topics.name(Topic::Movies);
        let produce = async |records: usize| {
            for _ in 0..records {
                let record = FutureRecord::to(&topic).key("key").payload(&value);
                producer.send(record, Duration::from_secs(10)).await.unwrap();
            }
        };
        let full_early = tokio::time::timeout(Duration::from_millis(500), kafka.wait_until_full());
        let (full_early, ()) = tokio::join!(full_early, produce(23));
        assert!(full_early.is_err(), "half full is no reason to stop");
        let (full, ()) = tokio::join!(kafka.wait_until_full(), produce(25));
        let message = full.to_string();
        assert!(message.contains("theater.movies[0]") && message.contains("--kafka native"), "{message}");
    }
}
