//! SQL of the e-mails: a queue whose rows are claimed with a lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared_events::ReservationId;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Recorded, by_ids};
use crate::notification::Notification;

/// Characters of an error that are stored.
const ERROR_CHARS_MAX: usize = 500;

/// An e-mail that this process may try to send until the lease expires.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub notification: Notification,
    /// The number of attempts, this one included.
    pub attempts: i32,
    /// When the lease expires. No two attempts at an e-mail have the same value, so a process that lost its lease can't
    /// record its outcome.
    lease_expires_at: DateTime<Utc>,
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    Retry { after: Duration, reason: String },
    Failed { reason: String },
}

/// Claims e-mails that are due, the oldest first. No other process claims them for the length of `lease`.
///
/// # Errors
/// If the database fails.
pub async fn claim(
    connection: &mut PgConnection,
    limit: i64,
    lease: Duration,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let rows = sqlx::query(
        "with due as (
             select notification_id from email where state = 'PENDING' and due_at <= now()
             order by due_at limit $1 for update skip locked
         )
         update email set attempts = attempts + 1, due_at = clock_timestamp() + make_interval(secs => $2)
         from due where email.notification_id = due.notification_id
         returning email.notification_id, attempts, email.due_at",
    )
    .bind(limit)
    .bind(lease.as_secs_f64())
    .fetch_all(&mut *connection)
    .await?;
    let ids = rows.iter().map(|row| row.try_get("notification_id")).collect::<Result<Vec<Uuid>, _>>()?;
    let mut notifications = by_ids(connection, &ids).await?;
    rows.iter()
        .zip(ids)
        .map(|(row, id)| {
            let Recorded { notification, .. } = notifications.remove(&id).ok_or(sqlx::Error::RowNotFound)?;
            Ok(Claimed {
                notification,
                attempts: row.try_get("attempts")?,
                lease_expires_at: row.try_get("due_at")?,
            })
        })
        .collect()
}

/// Records the outcome of an attempt. Returns `false` if the lease had expired and another process has claimed the e-mail.
///
/// # Errors
/// If the database fails.
pub async fn record(
    connection: &mut PgConnection,
    claimed: &Claimed,
    outcome: &Outcome,
) -> Result<bool, sqlx::Error> {
    let (state, after, reason) = match outcome {
        Outcome::Sent => ("SENT", Duration::ZERO, None),
        Outcome::Retry { after, reason } => ("PENDING", *after, Some(storable(reason))),
        Outcome::Failed { reason } => ("FAILED", Duration::ZERO, Some(storable(reason))),
    };
    let updated = sqlx::query(
        "update email
         set state = $3, due_at = clock_timestamp() + make_interval(secs => $4),
             last_error = coalesce($5, last_error),
             sent_at = case when $3 = 'SENT' then clock_timestamp() end
         where notification_id = $1 and due_at = $2 and state = 'PENDING'",
    )
    .bind(claimed.notification.id)
    .bind(claimed.lease_expires_at)
    .bind(state)
    .bind(after.as_secs_f64())
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// The reason cut to what is stored, without NUL, which no column of text can hold.
fn storable(reason: &str) -> String {
    reason.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect()
}

/// Returns failed e-mails to the queue, of one reservation or of all. Returns their number.
///
/// # Errors
/// If the database fails.
pub async fn retry_failed(
    connection: &mut PgConnection,
    reservation: Option<ReservationId>,
) -> Result<u64, sqlx::Error> {
    let updated = sqlx::query(
        "with failed as (
             select notification_id from email
             where state = 'FAILED' and ($1::uuid is null or notification_id in (
                 select id from notification where reservation_id = $1
             ))
             order by notification_id for update
         )
         update email set state = 'PENDING', attempts = 0, due_at = clock_timestamp()
         from failed where email.notification_id = failed.notification_id",
    )
    .bind(reservation.map(|reservation| reservation.0))
    .execute(connection)
    .await?;
    Ok(updated.rows_affected())
}

/// E-mails that are not sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backlog {
    pub pending: i64,
    pub failed: i64,
    /// The age of the oldest pending e-mail.
    pub oldest_pending_secs: f64,
}

/// Counts the e-mails that are not sent.
///
/// # Errors
/// If the database fails.
pub async fn backlog(connection: &mut PgConnection) -> Result<Backlog, sqlx::Error> {
    let row = sqlx::query(
        "select count(*) filter (where state = 'PENDING') as pending,
                count(*) filter (where state = 'FAILED') as failed,
                coalesce(extract(epoch from clock_timestamp() - min(created_at)
                         filter (where state = 'PENDING')), 0)::float8 as oldest_pending_secs
         from email where state = 'PENDING' or state = 'FAILED'",
    )
    .fetch_one(connection)
    .await?;
    Ok(Backlog {
        pending: row.try_get("pending")?,
        failed: row.try_get("failed")?,
        oldest_pending_secs: row.try_get("oldest_pending_secs")?,
    })
}
