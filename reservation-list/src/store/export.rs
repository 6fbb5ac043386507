//! SQL of the exports: a queue whose rows are claimed with a lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use shared_events::MovieId;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::reservation;
use crate::export::folder::FileName;
use crate::export::{Export, State};
use crate::projection::Reservation;

macro_rules! export_columns {
    () => {
        "id, movie_id, state, attempt, row_count, reason, created_at, expires_at"
    };
}

/// How many exports there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Exports that wait or are being made.
    pub unfinished_max: i64,
    /// Exports in any state.
    pub stored_max: i64,
}

/// The outcome of creating an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// This call or an earlier one with the same id has created it.
    Accepted(Export),
    /// The id belongs to an export of another movie.
    IdTaken,
    LimitReached,
}

/// Inserts an export, unless a limit is reached. Concurrent calls can exceed the limits, as none sees the others' rows.
///
/// # Errors
/// If the database fails.
pub async fn create(
    connection: &mut PgConnection,
    id: Uuid,
    movie_id: MovieId,
    ttl_secs: u32,
    limits: Limits,
) -> Result<CreateOutcome, sqlx::Error> {
    // An accepted export must not be lost. The session's commits are asynchronous, because the log can restore
    // projected rows.
    sqlx::raw_sql("set local synchronous_commit = on").execute(&mut *connection).await?;
    let existing = sqlx::query(concat!(
        "select ",
        export_columns!(),
        " from export where id = $1 and expires_at > now()"
    ))
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(row) = existing {
        return Ok(match_existing(export(&row)?, movie_id));
    }
    let inserted = sqlx::query(concat!(
        "insert into export (id, movie_id, expires_at)
         select $1, $2, now() + make_interval(secs => $3)
         where (select count(*) from export where state in ('PENDING', 'RUNNING')) < $4
           and (select count(*) from export) < $5
         on conflict on constraint export_pkey do update
         set movie_id = excluded.movie_id, state = excluded.state, attempt = excluded.attempt,
             due_at = excluded.due_at, row_count = 0, byte_count = 0, reason = null,
             created_at = excluded.created_at, expires_at = excluded.expires_at
         where export.expires_at <= now()
         returning ",
        export_columns!()
    ))
    .bind(id)
    .bind(movie_id.0)
    .bind(f64::from(ttl_secs))
    .bind(limits.unfinished_max)
    .bind(limits.stored_max)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(row) = inserted {
        return Ok(CreateOutcome::Accepted(export(&row)?));
    }
    // A concurrent call has inserted the same id, or a limit is reached.
    Ok(match find(connection, id).await? {
        Some(existing) => match_existing(existing, movie_id),
        None => CreateOutcome::LimitReached,
    })
}

fn match_existing(existing: Export, movie_id: MovieId) -> CreateOutcome {
    if existing.movie_id == movie_id { CreateOutcome::Accepted(existing) } else { CreateOutcome::IdTaken }
}

/// Finds an export that has not expired.
///
/// # Errors
/// If the database fails.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Export>, sqlx::Error> {
    let query = concat!("select ", export_columns!(), " from export where id = $1 and expires_at > now()");
    let row = sqlx::query(query).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(export).transpose()
}

/// An export that this process may make until the lease expires.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: Uuid,
    pub movie_id: MovieId,
    /// The file of this attempt. No two attempts have the same, so one that lost its lease can't record its outcome.
    pub file_name: FileName,
    /// Tells attempts apart when an expired export's id is used again: the attempts then count from 1 again.
    expires_at: DateTime<Utc>,
    /// Bytes of all exports that are ready.
    pub used_bytes: i64,
}

/// Claims the export that has been due the longest. No other process claims it for the length of `lease`.
///
/// # Errors
/// If the database fails.
pub async fn claim(connection: &mut PgConnection, lease: Duration) -> Result<Option<Claimed>, sqlx::Error> {
    let row = sqlx::query(
        "with due as (
             select id from export
             where state in ('PENDING', 'RUNNING') and due_at <= now() and expires_at > now()
             order by due_at limit 1 for update skip locked
         )
         update export
         set state = 'RUNNING', attempt = attempt + 1, row_count = 0,
             due_at = clock_timestamp() + make_interval(secs => $1)
         from due where export.id = due.id
         returning export.id, movie_id, attempt, expires_at,
             (select coalesce(sum(byte_count), 0)::bigint from export where state = 'READY') as taken",
    )
    .bind(lease.as_secs_f64())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let (id, expires_at) = (row.try_get("id")?, row.try_get("expires_at")?);
        Ok(Claimed {
            id,
            expires_at,
            movie_id: MovieId(row.try_get("movie_id")?),
            file_name: FileName::new(id, row.try_get("attempt")?, expires_at),
            used_bytes: row.try_get("taken")?,
        })
    })
    .transpose()
}

/// Records the progress of an attempt, and extends its lease. Returns `false` if the attempt has lost the export.
///
/// # Errors
/// If the database fails.
pub async fn record_progress(
    connection: &mut PgConnection,
    claimed: &Claimed,
    rows: i64,
    lease: Duration,
) -> Result<bool, sqlx::Error> {
    let updated = sqlx::query(
        "update export set row_count = $3, due_at = clock_timestamp() + make_interval(secs => $4)
         where id = $1 and attempt = $2 and expires_at = $5 and state = 'RUNNING'",
    )
    .bind(claimed.id)
    .bind(claimed.file_name.attempt())
    .bind(rows)
    .bind(lease.as_secs_f64())
    .bind(claimed.expires_at)
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ready { rows: i64, bytes: i64 },
    Failed { reason: String },
}

impl Outcome {
    pub const fn state(&self) -> State {
        match self {
            Self::Ready { .. } => State::Ready,
            Self::Failed { .. } => State::Failed,
        }
    }
}

/// Records the outcome of an attempt. Returns `false` if the attempt has lost the export.
///
/// # Errors
/// If the database fails.
pub async fn record_outcome(
    connection: &mut PgConnection,
    claimed: &Claimed,
    outcome: &Outcome,
) -> Result<bool, sqlx::Error> {
    let (rows, bytes, reason) = match outcome {
        Outcome::Ready { rows, bytes } => (*rows, *bytes, None),
        Outcome::Failed { reason } => (0, 0, Some(reason.as_str())),
    };
    let updated = sqlx::query(
        "update export set state = $3, row_count = $4, byte_count = $5, reason = $6
         where id = $1 and attempt = $2 and expires_at = $7 and state = 'RUNNING'",
    )
    .bind(claimed.id)
    .bind(claimed.file_name.attempt())
    .bind(outcome.state().as_str())
    .bind(rows)
    .bind(bytes)
    .bind(reason)
    .bind(claimed.expires_at)
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// All of a movie's reservations, in the order of the log. One statement reads them, so they show one moment; it may
/// take `limit`. Rows are read as the stream is polled, so only the connection's buffer is in memory.
///
/// # Errors
/// If the database fails.
pub async fn reservations(
    connection: &mut PgConnection,
    movie_id: MovieId,
    limit: Duration,
) -> Result<impl Stream<Item = Result<Reservation, sqlx::Error>>, sqlx::Error> {
    sqlx::query("select set_config('statement_timeout', $1, true)")
        .bind(limit.as_millis().to_string())
        .execute(&mut *connection)
        .await?;
    let rows = sqlx::query(select_reservation!("where movie_id = $1 order by seq"))
        .bind(movie_id.0)
        .fetch(connection);
    Ok(rows.map(|row| reservation(&row?)))
}

/// Deletes the rows of expired exports. Returns the database's time: exports that expired by then are deleted.
///
/// # Errors
/// If the database fails.
pub async fn delete_expired(connection: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query("delete from export where expires_at <= now()").execute(&mut *connection).await?;
    sqlx::query_scalar("select now()").fetch_one(connection).await
}

fn export(row: &PgRow) -> Result<Export, sqlx::Error> {
    let state: &str = row.try_get("state")?;
    let unknown = || sqlx::Error::Decode(format!("an unknown state: {state}").into());
    Ok(Export {
        id: row.try_get("id")?,
        movie_id: MovieId(row.try_get("movie_id")?),
        state: State::parse(state).ok_or_else(unknown)?,
        attempt: row.try_get("attempt")?,
        rows: row.try_get("row_count")?,
        reason: row.try_get("reason")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}
