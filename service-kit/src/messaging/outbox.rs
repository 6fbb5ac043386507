//! Events that are not sent yet: written in the transaction of the change that they tell of.
//!
//! Rows must be inserted after the aggregate's own rows are locked: for one aggregate `seq` is then drawn
//! under that lock, and so stands for the order of its events.

pub mod relay;

pub use relay::Relays;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared_events::{Event, EventId, Header, Origin, Topics, encode, envelope};
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::failpoint::failpoint;
use super::failpoints;
use super::fault::Fault;

/// Shards for events: each has one relay at a time, so this bounds how many send at once. A movie's
/// events all fall into one.
pub const EVENT_SHARDS: i16 = 2;

/// The shard of dead letters, so that one that can't be sent holds up no event.
pub const DEAD_LETTER_SHARD: i16 = EVENT_SHARDS;

/// What an event may have at most, headers included: well below the 1 MB that a topic takes unless it is
/// told otherwise, and far above what any call can cause.
const EVENT_LIMIT_BYTES: usize = 512 * 1024;

/// A row that waits for its relay.
#[derive(Clone, Debug)]
pub struct NewRow {
    pub shard: i16,
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub headers: String,
    pub payload: Option<Vec<u8>>,
}

/// Where a service leaves what it has to say.
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

    /// Writes events, in order, each with an identity of its own that every repetition will carry.
    ///
    /// # Errors
    /// The database's. Poison if an event is so large that no topic would take it: only a forged one causes
    /// that, and it must not stand in the way of all that come after.
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

    /// Tells this process's relays that rows were committed. Only ever after the commit.
    pub fn wake(&self) {
        self.wake.notify_waiters();
    }

    pub(crate) fn woken(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }
}

fn shard_of(key: &[u8]) -> i16 {
    let shard = crc32fast::hash(key) % EVENT_SHARDS.unsigned_abs() as u32;
    i16::try_from(shard).unwrap_or(0)
}

/// Inserts rows in the order given.
///
/// # Errors
/// The database's.
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

/// A header's value as JSON: text where it is text, so that the table can be read, else its bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Absent,
}

pub(crate) fn headers_to_text(headers: impl IntoIterator<Item = Header>) -> String {
    let headers: Vec<(String, Value)> = headers
        .into_iter()
        .map(|(name, value)| {
            let value = match value.map(String::from_utf8) {
                None => Value::Absent,
                Some(Ok(text)) => Value::Text(text),
                Some(Err(bytes)) => Value::Bytes(bytes.into_bytes()),
            };
            (name, value)
        })
        .collect();
    serde_json::to_string(&headers).expect("names and values are plain data")
}

pub(crate) fn headers_from_text(text: &str) -> Result<Vec<Header>, serde_json::Error> {
    let headers: Vec<(String, Value)> = serde_json::from_str(text)?;
    Ok(headers
        .into_iter()
        .map(|(name, value)| {
            let value = match value {
                Value::Text(text) => Some(text.into_bytes()),
                Value::Bytes(bytes) => Some(bytes),
                Value::Absent => None,
            };
            (name, value)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_whatever_they_hold() {
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
    fn one_key_is_in_one_shard() {
        for key in 0..100_u8 {
            assert!((0..EVENT_SHARDS).contains(&shard_of(&[key])));
            assert_eq!(shard_of(&[key]), shard_of(&[key]));
        }
        assert_ne!(shard_of(&[1]), shard_of(&[4]), "both shards are used");
    }
}
