//! The outbox: events that are not sent yet, written in the transaction of the change that they describe.
//!
//! Rows must be inserted after the aggregate's own rows are locked. Then `seq` is drawn under that lock, and for one
//! aggregate the order of `seq` is the order of its events.
//!
//! - [`backlog`]: the gauges of the outbox.

pub mod backlog;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared_events::{Event, EventId, Header, Origin, Topics, encode, envelope};
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::failpoint::failpoint;
use super::failpoints;
use super::fault::Fault;

/// Shards for events. Each has one relay at a time, so this is the number of relays that send at the same time. All
/// events of a movie are in one shard.
pub const EVENT_SHARDS: i16 = 2;

/// The shard of dead letters, so that a dead letter that can't be sent blocks no event.
pub const DEAD_LETTER_SHARD: i16 = EVENT_SHARDS;

/// The largest event, headers included: well below a topic's default limit of 1 MB, and far above what any call can
/// cause.
const EVENT_LIMIT_BYTES: usize = 512 * 1024;

/// A row to be sent by a relay.
#[derive(Clone, Debug)]
pub struct NewRow {
    pub shard: i16,
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub headers: String,
    pub payload: Option<Vec<u8>>,
}

/// Writes a service's events into its outbox.
#[derive(Clone, Debug)]
pub struct Outbox {
    topics: Topics,
    wake: Arc<Notify>,
}

impl Outbox {
    pub fn new(topics: Topics) -> Self {
        Self { topics, wake: Arc::new(Notify::new()) }
    }

    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Inserts events, in order. Each gets an id of its own, which stays the same whenever the event is sent again.
    ///
    /// # Errors
    /// If the database fails. Poison if an event is so large that no topic would accept it: only a forged input causes
    /// one, and it must not block all later events.
    pub async fn insert(
        &self,
        connection: &mut PgConnection,
        events: &[(Event, Origin)],
    ) -> Result<(), Fault> {
        if events.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = events.iter().map(|(event, origin)| self.row(event, origin)).collect();
        for row in &rows {
            let bytes = row.payload.as_ref().map_or(0, Vec::len) + row.headers.len();
            if bytes > EVENT_LIMIT_BYTES {
                return Err(Fault::Poison(format!(
                    "it would cause an event of {bytes} bytes, over the limit of {EVENT_LIMIT_BYTES}"
                )));
            }
        }
        Ok(failpoint(failpoints::INSERT_OUTBOX, insert(connection, &rows)).await?)
    }

    fn row(&self, event: &Event, origin: &Origin) -> NewRow {
        let key = event.movie_id().to_string().into_bytes();
        let headers = envelope::headers(event, &EventId::new(), origin)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Some(value.into_bytes())));
        NewRow {
            shard: shard_of(&key),
            topic: self.topics.name(event.topic()),
            key: Some(key),
            headers: headers_to_text(headers),
            payload: Some(encode(event)),
        }
    }

    /// Wakes this process's relays. To be called after the commit, never before it.
    pub fn wake(&self) {
        self.wake.notify_waiters();
    }

    pub(crate) fn wake_signal(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }
}

fn shard_of(key: &[u8]) -> i16 {
    let shard = crc32fast::hash(key) % EVENT_SHARDS.unsigned_abs() as u32;
    i16::try_from(shard).unwrap_or(0)
}

/// Inserts rows in the given order.
///
/// # Errors
/// If the database fails.
pub async fn insert(connection: &mut PgConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into outbox (shard, topic, key, headers, payload)
         select shard, topic, key, headers, payload
         from unnest($1::smallint[], $2::text[], $3::bytea[], $4::text[], $5::bytea[])
             with ordinality as row (shard, topic, key, headers, payload, place)
         order by place",
    )
    .bind(rows.iter().map(|row| row.shard).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.topic.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.key.as_deref()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.headers.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.payload.as_deref()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A header's value as JSON: text if it is UTF-8, so that a person can read the table, otherwise bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Bytes(Vec<u8>),
    Absent,
}

pub(crate) fn headers_to_text(headers: impl IntoIterator<Item = Header>) -> String {
    let headers: Vec<(String, HeaderValue)> = headers
        .into_iter()
        .map(|(name, value)| {
            let value = match value.map(String::from_utf8) {
                None => HeaderValue::Absent,
                Some(Ok(text)) => HeaderValue::Text(text),
                Some(Err(bytes)) => HeaderValue::Bytes(bytes.into_bytes()),
            };
            (name, value)
        })
        .collect();
    serde_json::to_string(&headers).expect("names and values are plain data")
}

pub(crate) fn headers_from_text(text: &str) -> Result<Vec<Header>, serde_json::Error> {
    let headers: Vec<(String, HeaderValue)> = serde_json::from_str(text)?;
    Ok(headers
        .into_iter()
        .map(|(name, value)| {
            let value = match value {
                HeaderValue::Text(text) => Some(text.into_bytes()),
                HeaderValue::Bytes(bytes) => Some(bytes),
                HeaderValue::Absent => None,
            };
            (name, value)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_any_bytes_survive_a_round_trip() {
        let headers = vec![
            ("text".to_owned(), Some("Jané".into())),
            ("nul".to_owned(), Some(vec![0])),
            ("bytes".to_owned(), Some(vec![0xff, 0x00, 0x7f])),
            ("absent".to_owned(), None),
            ("empty".to_owned(), Some(Vec::new())),
        ];
        let text = headers_to_text(headers.clone());
        assert!(!text.contains('\0'), "PostgreSQL's text can't hold a NUL");
        assert_eq!(headers_from_text(&text).unwrap(), headers);
    }

    #[test]
    fn a_key_is_always_in_the_same_shard() {
        for key in 0..100_u8 {
            assert!((0..EVENT_SHARDS).contains(&shard_of(&[key])));
            assert_eq!(shard_of(&[key]), shard_of(&[key]));
        }
        assert_ne!(shard_of(&[1]), shard_of(&[4]), "both shards are used");
    }
}
