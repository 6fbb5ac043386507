//! Reading topics from outside any group: for the demo, `tail` and the tests.

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

/// How long a broker may take to tell of its topics.
const ANSWER: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How a broker is reached.
#[derive(Clone, Debug)]
pub struct Broker {
    /// host:port, comma-separated.
    pub bootstrap_servers: String,
    /// Further librdkafka settings (TLS, SASL).
    pub settings: Vec<(String, String)>,
}

impl Broker {
    /// One that needs no more than its address.
    pub fn at(bootstrap_servers: impl Into<String>) -> Self {
        Self { bootstrap_servers: bootstrap_servers.into(), settings: Vec::new() }
    }

    /// Client settings for it.
    pub fn config(&self) -> ClientConfig {
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
    /// With the oldest record that is kept.
    Beginning,
    /// After what is there now.
    Now,
}

/// A record as it stands in the log.
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
    fn read(message: &BorrowedMessage<'_>) -> Self {
        // Whatever someone put there is shown as far as it can be.
        let (headers, _unreadable) = service_kit::messaging::record::headers(message);
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

/// All records of some topics, in order within each partition.
pub struct Records {
    consumer: StreamConsumer,
    /// Asks where partitions begin and end: its questions don't queue behind a consumer's waiting fetch.
    lookup: Arc<BaseConsumer>,
    topics: Vec<String>,
    /// The offset after the last record that was returned, by topic and partition.
    next: HashMap<(String, i32), i64>,
}

impl Records {
    /// Finds the topics' partitions and where they start or end now: what is produced after this returns is
    /// read in any case.
    ///
    /// # Errors
    /// If the broker does not answer or a topic does not exist.
    pub async fn open(broker: &Broker, topics: &[String], start: Start) -> anyhow::Result<Self> {
        let (consumer, lookup) = clients(broker)?;
        let mut records = Self { consumer, lookup, topics: topics.to_vec(), next: HashMap::new() };
        for (place, (low, high)) in records.bounds().await? {
            records.next.insert(place, if start == Start::Beginning { low } else { high });
        }
        let mut assignment = TopicPartitionList::new();
        for ((topic, partition), offset) in &records.next {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        records.consumer.assign(&assignment)?;
        Ok(records)
    }

    /// The next record. Cancelling loses none.
    ///
    /// # Errors
    /// If a position has left the log; a broker that is away is waited for.
    pub async fn next(&mut self) -> anyhow::Result<Record> {
        loop {
            // librdkafka wakes us when its queue was empty. A poll that handled an inner event can leave messages
            // there, of which nobody would be told: so look again after a while.
            match timeout(LOOK_AGAIN, self.consumer.recv()).await {
                Ok(Ok(message)) => {
                    let record = Record::read(&message);
                    self.next.insert((record.topic.clone(), record.partition), record.offset + 1);
                    return Ok(record);
                }
                Ok(Err(error)) if !is_passing(&error) => return Err(error).context("reading from Kafka"),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// What has been produced up to now and was not returned yet.
    ///
    /// # Errors
    /// As for [`next`](Self::next), or if the end can't be found out.
    pub async fn up_to_now(&mut self) -> anyhow::Result<Vec<Record>> {
        let ends = self.bounds().await?;
        let mut records = Vec::new();
        while ends.iter().any(|(place, (_, end))| self.next.get(place).is_some_and(|next| next < end)) {
            let record = timeout(ANSWER, self.next());
            records.push(record.await.map_err(|_| anyhow!("Kafka does not give what it has"))??);
        }
        Ok(records)
    }

    /// Whether any of the topics exists and holds a record.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn any(broker: &Broker, topics: &[String]) -> anyhow::Result<bool> {
        let (consumer, lookup) = clients(broker)?;
        let lister = Arc::clone(&lookup);
        let metadata = tokio::task::spawn_blocking(move || lister.fetch_metadata(None, ANSWER)).await?;
        let metadata =
            metadata.with_context(|| format!("Kafka at {} does not answer", broker.bootstrap_servers))?;
        let exists = |name: &&String| metadata.topics().iter().any(|topic| topic.name() == name.as_str());
        let topics = topics.iter().filter(exists).cloned().collect();
        let bounds = Self { consumer, lookup, topics, next: HashMap::new() }.bounds().await?;
        Ok(bounds.values().any(|(low, high)| high > low))
    }

    /// Where each partition begins and ends now.
    async fn bounds(&self) -> anyhow::Result<HashMap<(String, i32), (i64, i64)>> {
        let (lookup, topics) = (Arc::clone(&self.lookup), self.topics.clone());
        // The calls block.
        tokio::task::spawn_blocking(move || {
            let mut bounds = HashMap::new();
            for topic in topics {
                let partitions = partitions(&lookup, &topic)?;
                for partition in partitions {
                    let watermarks = answered(|| lookup.fetch_watermarks(&topic, partition, ANSWER))?;
                    bounds.insert((topic.clone(), partition), watermarks);
                }
            }
            Ok(bounds)
        })
        .await?
    }
}

fn partitions(lookup: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<i32>> {
    let known = answered(|| {
        let metadata = lookup.fetch_metadata(Some(topic), ANSWER)?;
        let known = metadata.topics().iter().find(|known| known.name() == topic);
        match known.map(|known| (known.error().map(RDKafkaErrorCode::from), known.partitions())) {
            Some((Some(RDKafkaErrorCode::LeaderNotAvailable), _)) => {
                Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable))
            }
            Some((None, partitions)) => Ok(partitions.iter().map(MetadataPartition::id).collect()),
            Some((Some(_), _)) | None => Ok(Vec::new()),
        }
    })
    .context("Kafka does not answer")?;
    ensure!(!known.is_empty(), "there is no topic {topic}");
    Ok(known)
}

/// Asks again while a topic that has just been created still looks for its leader.
fn answered<T>(mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match ask() {
            Err(error) if is_passing(&error) && Instant::now() < deadline => thread::sleep(ASK_AGAIN),
            answer => return answer,
        }
    }
}

/// They never join their group nor commit in it; librdkafka wants a name.
fn clients(broker: &Broker) -> anyhow::Result<(StreamConsumer, Arc<BaseConsumer>)> {
    let mut config = broker.config();
    config.set("group.id", "theater.reader").set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "error").set("allow.auto.create.topics", "false");
    config.set("fetch.wait.max.ms", "100");
    let settings = "the Kafka settings";
    Ok((config.create().context(settings)?, Arc::new(config.create().context(settings)?)))
}

/// librdkafka tells of lost connections and goes on by itself.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, LeaderNotAvailable, NotLeaderForPartition, OperationTimedOut,
        RequestTimedOut, Resolve,
    };
    let passing = [
        AllBrokersDown,
        BrokerTransportFailure,
        LeaderNotAvailable,
        NotLeaderForPartition,
        OperationTimedOut,
        RequestTimedOut,
        Resolve,
    ];
    error.rdkafka_error_code().is_some_and(|code| passing.contains(&code))
}
