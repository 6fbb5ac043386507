//! SQL of the list. Rows are always locked and written in the order of their ids, so that transactions can't deadlock.

use service_kit::messaging::Fault;
use service_kit::messaging::failpoint::failpoint;
use shared_events::{Count, MovieId, ReservationId};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::failpoints;
use crate::projection::{Reservation, State, Status, Writes};

/// Lists the columns by name: a column that a newer replica's migration adds must not change what a prepared statement of
/// this replica returns.
macro_rules! select_reservation {
    ($rest:literal) => {
        concat!("select seq, id, status, user_id, movie_id, movie_name, count, date from reservation ", $rest)
    };
}

pub mod export;

/// Loads and locks the rows of the inputs' reservations.
///
/// # Errors
/// If the database fails.
pub async fn load(connection: &mut PgConnection, inputs: &[Reservation]) -> Result<State, sqlx::Error> {
    let mut ids: Vec<Uuid> = inputs.iter().map(|input| input.id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let rows = sqlx::query("select id, status from reservation where id = any ($1) order by id for update")
        .bind(&ids)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((ReservationId(row.try_get("id")?), status(row.try_get("status")?)?))).collect()
}

/// Writes the rows.
///
/// # Errors
/// If the database fails; a transient fault if another owner of the partition has inserted one of the new rows since
/// `load`, so the batch must be decided again.
pub async fn save(connection: &mut PgConnection, writes: &Writes) -> Result<(), Fault> {
    if !writes.new.is_empty() {
        let inserted = failpoint(failpoints::INSERT, insert(connection, &writes.new)).await?;
        if inserted < writes.new.len() as u64 {
            return Err(Fault::Transient("a row was inserted by another owner of the partition".into()));
        }
    }
    if !writes.cancelled.is_empty() {
        let cancelled = sqlx::query("update reservation set status = 'CANCELLED' where id = any ($1)")
            .bind(writes.cancelled.iter().map(|id| id.0).collect::<Vec<_>>())
            .execute(connection);
        failpoint(failpoints::CANCEL, cancelled).await?;
    }
    Ok(())
}

async fn insert(connection: &mut PgConnection, new: &[Reservation]) -> Result<u64, sqlx::Error> {
    // Numbered in the order of the log, inserted in the order of the ids.
    let inserted = sqlx::query(
        "insert into reservation (seq, id, status, user_id, movie_id, movie_name, count, date)
         select * from (
             select nextval('reservation_seq_seq'), row.*
             from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::bigint[], $7::text[])
                 as row (id, status, user_id, movie_id, movie_name, count, date)
         ) as numbered
         order by id
         on conflict on constraint reservation_pkey do nothing",
    )
    .bind(new.iter().map(|row| row.id.0).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.status.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.user_id.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.movie_id.0).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.movie_name.as_deref()).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.count.get()).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.date.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected())
}

/// The statuses of these reservations, as far as they have a row.
///
/// # Errors
/// If the database fails.
pub async fn statuses(
    connection: &mut PgConnection,
    ids: &[ReservationId],
) -> Result<Vec<(ReservationId, Status)>, sqlx::Error> {
    let rows = sqlx::query("select id, status from reservation where id = any ($1)")
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((ReservationId(row.try_get("id")?), status(row.try_get("status")?)?))).collect()
}

/// Which reservations to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    Confirmed,
    /// Cancelled ones too.
    All,
}

impl StatusFilter {
    /// The value of the query parameter `status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::All => "all",
        }
    }
}

/// The newest reservations whose `seq` is below `before`, of one user or of all, each with its `seq`.
///
/// # Errors
/// If the database fails.
pub async fn list(
    connection: &mut PgConnection,
    user_id: Option<&str>,
    status_filter: StatusFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, Reservation)>, sqlx::Error> {
    // One statement per index. The status is a literal: a partial index doesn't serve a parameter.
    let query = match (user_id, status_filter) {
        (Some(user_id), StatusFilter::Confirmed) => sqlx::query(select_reservation!(
            "where left(user_id, 200) = left($1, 200) and user_id = $1 and status = 'CONFIRMED' and seq < $2
             order by seq desc limit $3"
        ))
        .bind(user_id),
        (Some(user_id), StatusFilter::All) => sqlx::query(select_reservation!(
            "where left(user_id, 200) = left($1, 200) and user_id = $1 and seq < $2
             order by seq desc limit $3"
        ))
        .bind(user_id),
        (None, StatusFilter::Confirmed) => sqlx::query(select_reservation!(
            "where status = 'CONFIRMED' and seq < $1 order by seq desc limit $2"
        )),
        (None, StatusFilter::All) => {
            sqlx::query(select_reservation!("where seq < $1 order by seq desc limit $2"))
        }
    };
    let rows = query.bind(before.unwrap_or(i64::MAX)).bind(limit).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, reservation(row)?))).collect()
}

fn reservation(row: &PgRow) -> Result<Reservation, sqlx::Error> {
    let count = Count::new(row.try_get("count")?);
    Ok(Reservation {
        id: ReservationId(row.try_get("id")?),
        status: status(row.try_get("status")?)?,
        user_id: row.try_get("user_id")?,
        movie_id: MovieId(row.try_get("movie_id")?),
        movie_name: row.try_get("movie_name")?,
        count: count.ok_or_else(|| sqlx::Error::Decode("a count below 1".into()))?,
        date: row.try_get("date")?,
    })
}

fn status(text: &str) -> Result<Status, sqlx::Error> {
    Status::parse(text).ok_or_else(|| sqlx::Error::Decode(format!("an unknown status: {text}").into()))
}
