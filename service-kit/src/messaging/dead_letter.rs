//! Dead letters: records that no retry can help, stored with their key, headers, error and origin in a topic beside
//! their own. They are sent through the outbox, and so written in the same transaction as the consumer's position.

use super::outbox::{DEAD_LETTER_SHARD, NewRow, headers_to_text};
use super::record::Record;

/// The largest record of a dead-letter topic (`max.message.bytes` of those that theater creates).
pub const TOPIC_LIMIT_BYTES: usize = 2 * 1024 * 1024;

/// The largest value. The rest is for key, headers and the batch's own bytes.
const VALUE_LIMIT_BYTES: usize = TOPIC_LIMIT_BYTES - 256 * 1024;

/// A longer error text is truncated.
const ERROR_LIMIT_CHARS: usize = 1_000;

/// The prefix of the headers that are added to a dead letter.
pub const OWN_HEADERS_PREFIX: &str = "dlq_";

/// The header of a truncated value: its original length. The headers of the origin say where the original is.
pub const TRUNCATED: &str = "dlq_value_cut_bytes";

/// The outbox row of the dead letter for `record`, which `consumer` could not apply because of `error`.
pub fn outbox_row(dead_letters: &str, topic: &str, consumer: &str, record: &Record, error: &str) -> NewRow {
    let text = |value: String| Some(value.into_bytes());
    let mut headers = record.headers.clone();
    headers.push(("dlq_error".into(), text(error.chars().take(ERROR_LIMIT_CHARS).collect())));
    headers.push(("dlq_consumer".into(), text(consumer.into())));
    headers.push(("dlq_topic".into(), text(topic.into())));
    headers.push(("dlq_partition".into(), text(record.partition.to_string())));
    headers.push(("dlq_offset".into(), text(record.offset.to_string())));
    let mut payload = record.value.clone();
    if let Some(value) = payload.as_mut().filter(|value| value.len() > VALUE_LIMIT_BYTES) {
        headers.push((TRUNCATED.into(), text(value.len().to_string())));
        value.truncate(VALUE_LIMIT_BYTES);
    }
    NewRow {
        shard: DEAD_LETTER_SHARD,
        topic: dead_letters.to_owned(),
        key: record.key.clone(),
        headers: headers_to_text(headers),
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::headers_from_text;
    use super::*;

    #[test]
    fn a_dead_letter_names_its_origin() {
        let record = Record {
            partition: 3,
            offset: 17,
            key: Some(b"k".to_vec()),
            value: Some(vec![7; VALUE_LIMIT_BYTES + 5]),
            headers: vec![("own".into(), None)],
            headers_error: None,
        };
        let row = outbox_row("t.dlq", "t", "movie", &record, "no good");
        let headers = headers_from_text(&row.headers).unwrap();
        let header = |name: &str| {
            let (_, value) = headers.iter().find(|(header, _)| header == name).unwrap();
            value.clone().map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(header("own"), None);
        assert_eq!(header("dlq_error").as_deref(), Some("no good"));
        assert_eq!(header("dlq_topic").as_deref(), Some("t"));
        assert_eq!(header("dlq_partition").as_deref(), Some("3"));
        assert_eq!(header("dlq_offset").as_deref(), Some("17"));
        assert_eq!(header(TRUNCATED), Some((VALUE_LIMIT_BYTES + 5).to_string()));
        assert_eq!(row.payload.unwrap().len(), VALUE_LIMIT_BYTES);
        assert_eq!((row.topic.as_str(), row.key.as_deref()), ("t.dlq", Some(&b"k"[..])));
    }
}
