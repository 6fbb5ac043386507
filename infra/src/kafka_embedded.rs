//! A Kafka-protocol broker inside this process: librdkafka's `MockCluster`, on a thread of its own.
//!
//! It is for a first look. It keeps at most 5 MiB a partition and trims silently what is older, so that a
//! service that is behind would miss events: a reader counts along, and [`EmbeddedKafka::full`] tells before.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use rdkafka::mocking::MockCluster;
use shared_events::{Topic, Topics};

use crate::records::{Broker, Record, Records, Start};

/// librdkafka's own bound on a partition.
const PARTITION_LIMIT_BYTES: usize = 5 * 1024 * 1024;
/// Where this stops: far enough below for what is produced while a stop takes place.
const NEARLY_FULL_BYTES: usize = PARTITION_LIMIT_BYTES / 10 * 9;
/// What a record costs beside its key, headers and value when it is a batch of its own.
const OVERHEAD_BYTES: usize = 100;

/// A running broker. It forgets everything when it is dropped.
pub struct EmbeddedKafka {
    bootstrap_servers: String,
    records: Records,
    sizes: HashMap<(String, i32), usize>,
    limit: usize,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedKafka {
    /// Starts it with the saga's topics: the services' own way to create them, the admin calls, doesn't work
    /// on it.
    ///
    /// # Errors
    /// If librdkafka can't make one.
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
            // Both fail only when the owner is gone, which is the sign to end.
            if started.send(answer).is_ok() {
                let _ = stopped.recv();
            }
        })?;
        let bootstrap_servers = start.await.context("the embedded broker's thread")?;
        let bootstrap_servers = bootstrap_servers.map_err(|error| anyhow!("the embedded broker: {error}"))?;
        let records = Records::open(&Broker::at(&bootstrap_servers), &names, Start::Beginning).await?;
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

    /// Returns, with the reason, once a partition is nearly full or its reader is behind the trimmed log.
    pub async fn full(&mut self) -> anyhow::Error {
        const WAY_OUT: &str = "For more than a first look run Apache Kafka itself: --kafka native";
        loop {
            let record = match self.records.next().await {
                Ok(record) => record,
                Err(error) => return anyhow!("the embedded broker has lost records ({error:#}). {WAY_OUT}"),
            };
            let place = (record.topic.clone(), record.partition);
            let size = self.sizes.entry(place).or_default();
            *size += cost(&record);
            if *size >= self.limit {
                return anyhow!(
                    "the embedded broker is full: {}[{}] is near the {} MiB that it keeps of a partition. {WAY_OUT}",
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

fn cost(record: &Record) -> usize {
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
    async fn it_says_when_it_is_nearly_full() {
        let topics = Topics::new("theater.");
        let mut kafka = EmbeddedKafka::start(&topics, 1).await.unwrap();
        let producer: FutureProducer = Broker::at(kafka.bootstrap_servers()).config().create().unwrap();
        let value = vec![b'x'; 100_000];
        let topic = topics.name(Topic::Movies);
        let produce = async |records: usize| {
            for _ in 0..records {
                let record = FutureRecord::to(&topic).key("key").payload(&value);
                producer.send(record, Duration::from_secs(10)).await.unwrap();
            }
        };
        let full = tokio::time::timeout(Duration::from_millis(500), kafka.full());
        let (half, ()) = tokio::join!(full, produce(23));
        assert!(half.is_err(), "half full is no reason to stop");
        let (full, ()) = tokio::join!(kafka.full(), produce(25));
        let message = full.to_string();
        assert!(message.contains("theater.movies[0]") && message.contains("--kafka native"), "{message}");
    }
}
