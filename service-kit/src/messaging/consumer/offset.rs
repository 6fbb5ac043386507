//! A consumer's positions, stored in the service's own database. A position moves by compare-and-set in the
//! transaction of the effects. That fences an owner that lost the partition without noticing, and makes effects
//! happen exactly once.

use sqlx::{PgConnection, Row};

use crate::messaging::failpoint::failpoint;
use crate::messaging::failpoints;
use crate::messaging::fault::Fault;

/// The position of one consumer in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset of the first record that is not handled yet.
    pub next: i64,
    /// The identity of the last applied record, the one before `next`. `None` before the first one, or if an operator
    /// has set the position.
    pub last_record: Option<String>,
}

/// Reads the positions of `partitions`. New partitions begin at the log's start.
///
/// # Errors
/// If the database fails.
pub async fn read(
    connection: &mut PgConnection,
    consumer: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<(i32, Position)>, sqlx::Error> {
    let insert = sqlx::query(
        "insert into consumer_offset (consumer, topic, partition, next)
         select $1, $2, partition, 0 from unnest($3::integer[]) partition order by partition
         on conflict do nothing",
    )
    .bind(consumer)
    .bind(topic)
    .bind(partitions)
    .execute(&mut *connection);
    failpoint(failpoints::FIRST_POSITIONS, insert).await?;
    let rows = sqlx::query(
        "select partition, next, last_record from consumer_offset
         where consumer = $1 and topic = $2 and partition = any ($3)",
    )
    .bind(consumer)
    .bind(topic)
    .bind(partitions)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let position = Position { next: row.try_get("next")?, last_record: row.try_get("last_record")? };
            Ok((row.try_get("partition")?, position))
        })
        .collect()
}

/// Moves the position from `expected` to `to`.
///
/// # Errors
/// [`Fault::Fenced`] if the stored position is not `expected`; or if the database fails.
pub async fn advance(
    connection: &mut PgConnection,
    consumer: &str,
    topic: &str,
    partition: i32,
    expected: i64,
    to: &Position,
) -> Result<(), Fault> {
    let moved = sqlx::query(
        "update consumer_offset set next = $5, last_record = $6
         where consumer = $1 and topic = $2 and partition = $3 and next = $4",
    )
    .bind(consumer)
    .bind(topic)
    .bind(partition)
    .bind(expected)
    .bind(to.next)
    .bind(&to.last_record)
    .execute(connection)
    .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(Fault::Fenced) }
}
