//! The Kafka producer of a relay. It keeps the order in which it is given rows.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer, PurgeConfig};
use tracing::warn;

use super::rows::OutboxRow;
use crate::messaging::outbox::DEAD_LETTER_SHARD;

pub(super) fn create(
    settings: &ClientConfig,
    shard: i16,
    one_by_one: bool,
) -> Result<FutureProducer, KafkaError> {
    let mut settings = settings.clone();
    if one_by_one {
        settings.set("batch.num.messages", "1");
    }
    if shard != DEAD_LETTER_SHARD {
        // A later event must not overtake one that is refused. Dead letters have no order.
        settings.set("enable.gapless.guarantee", "true");
    }
    settings.create()
}

/// Discards the producer and the records that it has not sent.
pub(super) async fn discard(producer: FutureProducer) {
    // Dropping blocks until librdkafka's threads have ended.
    let dropped = tokio::task::spawn_blocking(move || {
        producer.purge(PurgeConfig::default().queue().inflight());
        drop(producer);
    });
    if let Err(error) = dropped.await {
        warn!(%error, "dropping a producer");
    }
}

pub(super) fn send(producer: &FutureProducer, row: &OutboxRow) -> Result<DeliveryFuture, KafkaError> {
    let headers =
        row.headers.iter().fold(OwnedHeaders::new_with_capacity(row.headers.len()), |all, header| {
            all.insert(Header { key: &header.0, value: header.1.as_deref() })
        });
    let mut record = FutureRecord::<[u8], [u8]>::to(&row.topic).headers(headers);
    if let Some(key) = &row.key {
        record = record.key(key);
    }
    if let Some(payload) = &row.payload {
        record = record.payload(payload);
    }
    producer.send_result(record).map_err(|(error, _)| error)
}
