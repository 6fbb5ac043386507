//! Producing records that no service wrote, or copies of records.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::log::Entry;
use crate::schema_conformance;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A producer with a Java client's partitioner.
///
/// # Errors
/// If its settings are invalid.
pub fn producer(bootstrap: &str) -> anyhow::Result<FutureProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", "2000000")
        .create()?)
}

/// Produces the entry to its own partition, and waits for the acknowledgement.
///
/// # Errors
/// If Kafka refuses it.
pub async fn produce(producer: &FutureProducer, topic: &str, entry: &Entry) -> anyhow::Result<()> {
    let headers = entry.headers.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
        headers.insert(Header { key: name, value: value.as_deref() })
    });
    let mut record = FutureRecord::<[u8], [u8]>::to(topic).partition(entry.partition).headers(headers);
    if let Some(key) = &entry.key {
        record = record.key(key);
    }
    if let Some(value) = &entry.value {
        record = record.payload(value);
    }
    let acknowledged = producer.send(record, TIMEOUT).await.map_err(|(error, _)| error)?;
    schema_conformance::exclude_record(topic, acknowledged.partition, acknowledged.offset);
    Ok(())
}

/// A transactional producer with the transactional id `id`.
///
/// # Errors
/// If Kafka refuses it.
pub async fn transactional_producer(bootstrap: &str, id: &str) -> anyhow::Result<FutureProducer> {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("transactional.id", id).create()?;
    blocking(&producer, |producer| producer.init_transactions(TIMEOUT)).await?;
    Ok(producer)
}

/// Produces the entry in a transaction, and commits or aborts it.
///
/// # Errors
/// If Kafka refuses it.
pub async fn produce_in_transaction(
    producer: &FutureProducer,
    topic: &str,
    entry: &Entry,
    commit: bool,
) -> anyhow::Result<()> {
    producer.begin_transaction()?;
    produce(producer, topic, entry).await?;
    let end = move |producer: FutureProducer| match commit {
        true => producer.commit_transaction(TIMEOUT),
        false => producer.abort_transaction(TIMEOUT),
    };
    blocking(producer, end).await
}

async fn blocking(
    producer: &FutureProducer,
    call: impl FnOnce(FutureProducer) -> KafkaResult<()> + Send + 'static,
) -> anyhow::Result<()> {
    let producer = producer.clone();
    Ok(tokio::task::spawn_blocking(move || call(producer)).await??)
}

/// A record without headers.
pub fn without_headers(key: &str, value: &[u8]) -> Entry {
    Entry {
        partition: 0,
        offset: 0,
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.to_vec()),
        headers: Vec::new(),
    }
}
