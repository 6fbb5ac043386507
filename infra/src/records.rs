//! Reads topics without a consumer group: for the demo, `tail` and the embedded broker's limit.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::metadata::MetadataPartition;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::timeout;

/// How long a broker may take to answer a query for metadata or watermarks.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How to connect to a Kafka cluster.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// host:port, comma-separated.
    pub bootstrap_servers: String,
    /// Further librdkafka settings (TLS, SASL).
    pub settings: Vec<(String, String)>,
}

impl BrokerConfig {
    /// A cluster that needs neither TLS nor authentication.
    pub fn plaintext(bootstrap_servers: impl Into<String>) -> Self {
        Self { bootstrap_servers: bootstrap_servers.into(), settings: Vec::new() }
    }

    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in &self.settings {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config
    }
}

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that is kept.
    Beginning,
    /// After the newest record.
    Now,
}

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub value: Option<Vec<u8>>,
}

impl Record {
    fn from_message(message: &BorrowedMessage<'_>) -> Self {
        // Headers of any producer are shown as far as they can be read.
        let (headers, _unreadable) = service_kit::messaging::record::read_headers(message);
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            headers,
            value: message.payload().map(<[u8]>::to_vec),
        }
    }

    /// A header's text, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        str::from_utf8(value.as_deref()?).ok()
    }
}

/// Reads all records of some topics, in order within each partition.
pub struct RecordReader {
    consumer: StreamConsumer,
    /// For metadata and watermarks: its queries don't queue behind a fetch of `consumer`.
    metadata_client: Arc<BaseConsumer>,
    topics: Vec<String>,
    /// The position: the offset after the last record that was returned, by topic and partition.
    positions: HashMap<(String, i32), i64>,
}

impl RecordReader {
    /// Queries the topics' partitions and their watermarks. Records that are produced after this returns are read in any
    /// case.
    ///
    /// # Errors
    /// If the broker does not answer or a topic does not exist.
    pub async fn open(broker: &BrokerConfig, topics: &[String], start: Start) -> anyhow::Result<Self> {
        let (consumer, metadata_client) = clients(broker)?;
        let mut reader =
            Self { consumer, metadata_client, topics: topics.to_vec(), positions: HashMap::new() };
        for (partition, (low, high)) in reader.watermarks().await? {
            reader.positions.insert(partition, if start == Start::Beginning { low } else { high });
        }
        let mut assignment = TopicPartitionList::new();
        for ((topic, partition), offset) in &reader.positions {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        reader.consumer.assign(&assignment)?;
        Ok(reader)
    }

    /// The next record. Cancelling this loses none. Waits for an unavailable broker.
    ///
    /// # Errors
    /// If a position is no longer in the log.
    pub async fn next(&mut self) -> anyhow::Result<Record> {
        loop {
            // librdkafka wakes the stream only if its queue was empty. A poll that handled an internal event can leave
            // messages there without a wake-up: so poll again after a while.
            match timeout(POLL_INTERVAL, self.consumer.recv()).await {
                Ok(Ok(message)) => {
                    let record = Record::from_message(&message);
                    self.positions.insert((record.topic.clone(), record.partition), record.offset + 1);
                    return Ok(record);
                }
                Ok(Err(error)) if !is_transient(&error) => return Err(error).context("reading from Kafka"),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// The records that have been produced up to now and were not returned yet.
    ///
    /// # Errors
    /// As for [`next`](Self::next), or if the broker does not answer.
    pub async fn read_to_end(&mut self) -> anyhow::Result<Vec<Record>> {
        let watermarks = self.watermarks().await?;
        let mut records = Vec::new();
        while watermarks
            .iter()
            .any(|(partition, (_, end))| self.positions.get(partition).is_some_and(|position| position < end))
        {
            let record = timeout(QUERY_TIMEOUT, self.next());
            records.push(record.await.map_err(|_| anyhow!("Kafka did not return its records in time"))??);
        }
        Ok(records)
    }

    /// Whether any of the topics exists and holds a record.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn any_exist(broker: &BrokerConfig, topics: &[String]) -> anyhow::Result<bool> {
        let (consumer, metadata_client) = clients(broker)?;
        let client = Arc::clone(&metadata_client);
        let metadata =
            tokio::task::spawn_blocking(move || client.fetch_metadata(None, QUERY_TIMEOUT)).await?;
        let metadata =
            metadata.with_context(|| format!("Kafka at {} does not answer", broker.bootstrap_servers))?;
        let exists = |name: &&String| metadata.topics().iter().any(|topic| topic.name() == name.as_str());
        let topics = topics.iter().filter(exists).cloned().collect();
        let reader = Self { consumer, metadata_client, topics, positions: HashMap::new() };
        Ok(reader.watermarks().await?.values().any(|(low, high)| high > low))
    }

    /// The low and high watermark of each partition.
    async fn watermarks(&self) -> anyhow::Result<HashMap<(String, i32), (i64, i64)>> {
        let (client, topics) = (Arc::clone(&self.metadata_client), self.topics.clone());
        // librdkafka's queries block.
        tokio::task::spawn_blocking(move || {
            let mut all = HashMap::new();
            for topic in topics {
                for partition in partitions(&client, &topic)? {
                    let watermarks = retry(|| client.fetch_watermarks(&topic, partition, QUERY_TIMEOUT))?;
                    all.insert((topic.clone(), partition), watermarks);
                }
            }
            Ok(all)
        })
        .await?
    }
}

fn partitions(client: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<i32>> {
    let partitions = retry(|| {
        let metadata = client.fetch_metadata(Some(topic), QUERY_TIMEOUT)?;
        let topic = metadata.topics().iter().find(|found| found.name() == topic);
        match topic.map(|topic| (topic.error().map(RDKafkaErrorCode::from), topic.partitions())) {
            Some((Some(RDKafkaErrorCode::LeaderNotAvailable), _)) => {
                Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable))
            }
            Some((None, partitions)) => Ok(partitions.iter().map(MetadataPartition::id).collect()),
            Some((Some(_), _)) | None => Ok(Vec::new()),
        }
    })
    .context("Kafka does not answer")?;
    ensure!(!partitions.is_empty(), "there is no topic {topic}");
    Ok(partitions)
}

/// Retries a query, for example while a topic that has just been created has no leader yet.
fn retry<T>(mut query: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let deadline = Instant::now() + QUERY_TIMEOUT;
    loop {
        match query() {
            Err(error) if is_transient(&error) && Instant::now() < deadline => thread::sleep(RETRY_INTERVAL),
            result => return result,
        }
    }
}

/// librdkafka requires a group name, but these clients neither join the group nor commit in it.
fn clients(broker: &BrokerConfig) -> anyhow::Result<(StreamConsumer, Arc<BaseConsumer>)> {
    let mut config = broker.client_config();
    config.set("group.id", "theater.reader").set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "error").set("allow.auto.create.topics", "false");
    config.set("fetch.wait.max.ms", "100");
    let settings = "the Kafka settings";
    Ok((config.create().context(settings)?, Arc::new(config.create().context(settings)?)))
}

/// Whether librdkafka recovers from the error by itself, such as a lost connection.
fn is_transient(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, LeaderNotAvailable, NotLeaderForPartition, OperationTimedOut,
        RequestTimedOut, Resolve,
    };
    let transient = [
        AllBrokersDown,
        BrokerTransportFailure,
        LeaderNotAvailable,
        NotLeaderForPartition,
        OperationTimedOut,
        RequestTimedOut,
        Resolve,
    ];
    error.rdkafka_error_code().is_some_and(|code| transient.contains(&code))
}
