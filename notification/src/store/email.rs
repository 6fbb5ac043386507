//! E-mails that are to be sent, and what came of them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared_events::ReservationId;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Recorded, by_ids};
use crate::notification::Notification;

/// Characters of an error that are kept.
const ERROR_MAX: usize = 500;

/// An e-mail that is this process's to try, until its lease is over.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub notification: Notification,
    /// This attempt included.
    pub attempts: i32,
    /// The end of the lease. No other attempt at this e-mail ever has the same: who has lost it can't write.
    lease: DateTime<Utc>,
}

/// What comes of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    Again { after: Duration, reason: String },
    Failed { reason: String },
}

/// Takes what is due, the longest first, so that nobody else does for the length of `lease`.
///
/// # Errors
/// The database's.
pub async fn claim(
    connection: &mut PgConnection,
    limit: i64,
    lease: Duration,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let claims = sqlx::query(
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
    let ids = claims.iter().map(|row| row.try_get("notification_id")).collect::<Result<Vec<Uuid>, _>>()?;
    let mut notifications = by_ids(connection, &ids).await?;
    claims
        .iter()
        .zip(ids)
        .map(|(row, id)| {
            let Recorded { notification, .. } = notifications.remove(&id).ok_or(sqlx::Error::RowNotFound)?;
            Ok(Claimed { notification, attempts: row.try_get("attempts")?, lease: row.try_get("due_at")? })
        })
        .collect()
}

/// Writes what came of an attempt. `false`: its lease was over, and somebody else has taken the e-mail since.
///
/// # Errors
/// The database's.
pub async fn record(
    connection: &mut PgConnection,
    claimed: &Claimed,
    outcome: &Outcome,
) -> Result<bool, sqlx::Error> {
    let (state, after, reason) = match outcome {
        Outcome::Sent => ("SENT", Duration::ZERO, None),
        Outcome::Again { after, reason } => ("PENDING", *after, Some(kept(reason))),
        Outcome::Failed { reason } => ("FAILED", Duration::ZERO, Some(kept(reason))),
    };
    let updated = sqlx::query(
        "update email
         set state = $3, due_at = clock_timestamp() + make_interval(secs => $4),
             last_error = coalesce($5, last_error),
             sent_at = case when $3 = 'SENT' then clock_timestamp() end
         where notification_id = $1 and due_at = $2 and state = 'PENDING'",
    )
    .bind(claimed.notification.id)
    .bind(claimed.lease)
    .bind(state)
    .bind(after.as_secs_f64())
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// What a mail server says may be long, and hold what no column can.
fn kept(reason: &str) -> String {
    reason.chars().filter(|c| *c != '\0').take(ERROR_MAX).collect()
}

/// Puts what has failed back to be sent, of one reservation or of all.
///
/// # Errors
/// The database's.
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

/// What is not sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backlog {
    pub pending: i64,
    pub failed: i64,
    /// Seconds since the oldest that is pending was to be sent for the first time.
    pub oldest_pending_secs: f64,
}

/// Counts what is not sent.
///
/// # Errors
/// The database's.
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
