//! The relay's statements: reads, deletes and truncates rows of the outbox.

use sqlx::{PgConnection, Row};
use tokio::time::timeout;

use super::{RelayError, STATEMENT_TIMEOUT};
use crate::messaging::dead_letter::{OWN_HEADERS_PREFIX, TRUNCATED};
use crate::messaging::outbox::{headers_from_text, headers_to_text};

/// The most rows in a batch, and the bytes after which no further row is added to it.
const BATCH_ROWS: i64 = 1_000;
const BATCH_BYTES: i64 = 8 * 1024 * 1024;

pub(super) struct OutboxRow {
    pub seq: i64,
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub payload: Option<Vec<u8>>,
}

/// The next batch, in the order of `seq`.
pub(super) async fn read_rows(
    connection: &mut PgConnection,
    shard: i16,
) -> Result<Vec<OutboxRow>, RelayError> {
    let read = sqlx::query(
        "select seq, topic, key, headers, payload
         from (select seq, topic, key, headers, payload,
                      sum(coalesce(octet_length(payload), 0)) over (order by seq)
                          - coalesce(octet_length(payload), 0) as bytes_before
               from (select seq, topic, key, headers, payload from outbox
                     where shard = $1 order by seq limit $2) as head) as batch
         where bytes_before < $3
         order by seq",
    )
    .bind(shard)
    .bind(BATCH_ROWS)
    .bind(BATCH_BYTES)
    .fetch_all(connection);
    let rows = timeout(STATEMENT_TIMEOUT, read).await??;
    rows.iter()
        .map(|row| {
            Ok(OutboxRow {
                seq: row.try_get("seq")?,
                topic: row.try_get("topic")?,
                key: row.try_get("key")?,
                headers: headers_from_text(row.try_get("headers")?)?,
                payload: row.try_get("payload")?,
            })
        })
        .collect()
}

pub(super) async fn delete_rows(
    connection: &mut PgConnection,
    shard: i16,
    rows: &[OutboxRow],
) -> Result<(), RelayError> {
    let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
    let delete = sqlx::query("delete from outbox where shard = $1 and seq = any ($2)")
        .bind(shard)
        .bind(seqs)
        .execute(connection);
    timeout(STATEMENT_TIMEOUT, delete).await??;
    Ok(())
}

/// Removes the value of a dead letter that its topic refuses; if it has none left, the original record's headers. The
/// dead letter's own headers say where the original is.
pub(super) async fn truncate_row(
    connection: &mut PgConnection,
    shard: i16,
    row: &OutboxRow,
) -> Result<(), RelayError> {
    let mut headers = row.headers.clone();
    if row.payload.is_none() {
        headers.retain(|(name, _)| name.starts_with(OWN_HEADERS_PREFIX));
    }
    if !headers.iter().any(|(name, _)| name == TRUNCATED) {
        let bytes = row.payload.as_ref().map_or(0, Vec::len);
        headers.push((TRUNCATED.to_owned(), Some(bytes.to_string().into_bytes())));
    }
    let update = sqlx::query("update outbox set payload = null, headers = $3 where shard = $1 and seq = $2")
        .bind(shard)
        .bind(row.seq)
        .bind(headers_to_text(headers))
        .execute(connection);
    timeout(STATEMENT_TIMEOUT, update).await??;
    Ok(())
}
