//! Reading whole topics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use service_kit::messaging::record;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Entry {
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub fn json(&self) -> Value {
        self.value.as_deref().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or(Value::Null)
    }

    pub fn event_type(&self) -> String {
        self.json()["eventType"].as_str().unwrap_or_default().to_owned()
    }
}

/// The events of a log without redeliveries, each as its subject and its type.
///
/// # Errors
/// If two records have the same subject and type but different identities, or a record has no identity.
pub fn distinct_events<'a>(
    log: impl IntoIterator<Item = &'a Entry>,
    subject: impl Fn(&Value) -> String,
) -> anyhow::Result<BTreeSet<(String, String)>> {
    let mut identities: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for entry in log {
        let event = entry.json();
        let identity = entry.header("ce_id").with_context(|| format!("no ce_id: {event}"))?;
        identities.entry((subject(&event), entry.event_type())).or_default().insert(identity);
    }
    for (event, identities) in &identities {
        ensure!(identities.len() == 1, "{event:?} happened {} times: {identities:?}", identities.len());
    }
    Ok(identities.into_keys().collect())
}

/// All records of a topic, partition by partition, up to its end at the time of the call.
///
/// # Errors
/// If Kafka fails, or the topic doesn't exist.
pub async fn read(bootstrap: &str, topic: &str) -> anyhow::Result<Vec<Entry>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    // The client's calls are blocking.
    tokio::task::spawn_blocking(move || read_blocking(&bootstrap, &topic)).await?
}

fn read_blocking(bootstrap: &str, topic: &str) -> anyhow::Result<Vec<Entry>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "reader-of-tests")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let partitions = metadata.topics().first().context("no metadata")?.partitions().len();
    let mut assignment = TopicPartitionList::new();
    // The end of each partition at the time of the call. Some offsets hold no record but a transaction marker.
    let mut ends = HashMap::new();
    for partition in 0..i32::try_from(partitions)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
        if high > low {
            ends.insert(partition, high);
            assignment.add_partition_offset(topic, partition, Offset::Offset(low))?;
        }
    }
    let mut entries = Vec::new();
    if ends.is_empty() {
        return Ok(entries);
    }
    consumer.assign(&assignment)?;
    while !ends.is_empty() {
        let message = match consumer.poll(TIMEOUT) {
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ends.remove(&partition);
                continue;
            }
            Some(message) => message?,
            None => bail!("{topic}: the partitions {:?} were not read to their ends", ends.keys()),
        };
        let Some(end) = ends.get(&message.partition()).copied() else { continue };
        if message.offset() + 1 >= end {
            ends.remove(&message.partition());
        }
        if message.offset() >= end {
            continue;
        }
        // The client's own method panics on header names that are not UTF-8.
        let (headers, _) = record::read_headers(&message);
        entries.push(Entry {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        });
    }
    entries.sort_by_key(|entry| (entry.partition, entry.offset));
    Ok(entries)
}
