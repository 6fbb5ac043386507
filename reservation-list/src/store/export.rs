//! Exports that were asked for, and what came of them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use shared_events::MovieId;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::reservation;
use crate::export::folder::Name;
use crate::export::{Export, State};
use crate::projection::Reservation;

macro_rules! columns {
    () => {
        "id, movie_id, state, attempt, row_count, reason, created_at, expires_at"
    };
}

/// What came of asking for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is there, now or since the same call before.
    Export(Export),
    /// The id is another export's.
    Taken,
    /// Too many wait, or are kept.
    Full,
}

/// Adds an export, unless `unfinished_max` are waiting or being made, or `kept_max` are there. Calls of the same moment may
/// all find the last place.
///
/// # Errors
/// The database's.
pub async fn ask(
    connection: &mut PgConnection,
    id: Uuid,
    movie_id: MovieId,
    ttl_secs: u32,
    unfinished_max: i64,
    kept_max: i64,
) -> Result<Asked, sqlx::Error> {
    // What was accepted is not forgotten; of what is projected the log has another copy.
    sqlx::raw_sql("set local synchronous_commit = on").execute(&mut *connection).await?;
    let found =
        sqlx::query(concat!("select ", columns!(), " from export where id = $1 and expires_at > now()"))
            .bind(id)
            .fetch_optional(&mut *connection)
            .await?;
    if let Some(found) = found {
        return is_same(export(&found)?, movie_id);
    }
    let added = sqlx::query(concat!(
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
        columns!()
    ))
    .bind(id)
    .bind(movie_id.0)
    .bind(f64::from(ttl_secs))
    .bind(unfinished_max)
    .bind(kept_max)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(added) = added {
        return Ok(Asked::Export(export(&added)?));
    }
    // Somebody was faster with the same id, or there was no place.
    match find(connection, id).await? {
        Some(found) => is_same(found, movie_id),
        None => Ok(Asked::Full),
    }
}

fn is_same(found: Export, movie_id: MovieId) -> Result<Asked, sqlx::Error> {
    Ok(if found.movie_id == movie_id { Asked::Export(found) } else { Asked::Taken })
}

/// An export that has not expired.
///
/// # Errors
/// The database's.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Export>, sqlx::Error> {
    let query = concat!("select ", columns!(), " from export where id = $1 and expires_at > now()");
    let row = sqlx::query(query).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(export).transpose()
}

/// An export that is this process's to make, until its lease is over.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: Uuid,
    pub movie_id: MovieId,
    /// Of this attempt's file. No other attempt has the same: who has lost the lease can't conclude.
    pub name: Name,
    /// An id that has expired may be asked for again, and begins with its first attempt.
    expires_at: DateTime<Utc>,
    /// Bytes that all exports take which are ready.
    pub taken: i64,
}

/// Takes what is due, the longest first, so that nobody else does for the length of `lease`.
///
/// # Errors
/// The database's.
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
            name: Name::new(id, row.try_get("attempt")?, expires_at),
            taken: row.try_get("taken")?,
        })
    })
    .transpose()
}

/// Tells how far an attempt is, and makes its lease longer. `false`: it is somebody else's.
///
/// # Errors
/// The database's.
pub async fn progress(
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
    .bind(claimed.name.attempt())
    .bind(rows)
    .bind(lease.as_secs_f64())
    .bind(claimed.expires_at)
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// What an attempt comes to.
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

/// Writes what an attempt came to. `false`: it is somebody else's.
///
/// # Errors
/// The database's.
pub async fn conclude(
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
    .bind(claimed.name.attempt())
    .bind(outcome.state().as_str())
    .bind(rows)
    .bind(bytes)
    .bind(reason)
    .bind(claimed.expires_at)
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// All of a movie's reservations, in the order of the log, as they are at one moment: it is one statement, which may
/// take `limit`. They come as they are asked for, a connection's buffer at a time.
///
/// # Errors
/// The database's.
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

/// Deletes what has expired, and tells by which moment.
///
/// # Errors
/// The database's.
pub async fn clear(connection: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
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
