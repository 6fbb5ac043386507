//! The SQL of reservations. Rows are always locked and written in the order of their ids, so that two transactions can't
//! wait for each other.

use shared_events::{CancelReason, Count, MovieId, ReservationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use service_kit::messaging::Fault;
use service_kit::messaging::failpoint::failpoint;

use crate::failpoints;
use crate::reservation::{Input, Request, Reservation, State, Status, Writes};

/// Lists the columns by name: a column that a newer replica's migration adds must not change what a prepared statement of
/// this replica returns.
macro_rules! select_reservation {
    ($rest:literal) => {
        concat!(
            "select seq, id, user_id, user_name, email, movie_id, movie_name, count, date, date_given, status, \
             reason, placed_at, traceparent from reservation ",
            $rest
        )
    };
}

/// Loads and locks the reservations of the inputs, as far as they exist.
///
/// # Errors
/// If the database fails.
pub async fn load(
    connection: &mut PgConnection,
    inputs: impl IntoIterator<Item = &Input>,
) -> Result<State, sqlx::Error> {
    let ids: Vec<Uuid> = inputs.into_iter().map(|input| input.id.0).collect();
    let rows = sqlx::query(select_reservation!("where id = any ($1) order by id for update"))
        .bind(&ids)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| reservation_from_row(row).map(|reservation| (reservation.id, reservation)))
        .collect()
}

/// Loads and locks undecided reservations whose deadline has passed, by this database's clock. Skips those that another
/// transaction is deciding.
///
/// # Errors
/// If the database fails.
pub async fn load_past_deadline(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<Reservation>, sqlx::Error> {
    let rows = sqlx::query(select_reservation!(
        "where id in (
             select id from reservation where status = 'PENDING' and deadline < clock_timestamp()
             order by deadline limit $1)
           and status = 'PENDING'
         order by id
         for update skip locked"
    ))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(reservation_from_row).collect()
}

/// Seconds until the first deadline of an undecided reservation; `None` if there is no such reservation.
///
/// # Errors
/// If the database fails.
pub async fn first_deadline_secs(connection: &mut PgConnection) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query(
        "select extract(epoch from min(deadline) - clock_timestamp())::float8 as remaining
         from reservation where status = 'PENDING'",
    )
    .fetch_one(connection)
    .await?
    .try_get("remaining")
}

/// The undecided reservations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PendingStats {
    pub reservations: i64,
    /// Since the oldest was placed.
    pub oldest_secs: f64,
    /// Since the first deadline; 0 if it has not passed.
    pub overdue_secs: f64,
}

///
/// # Errors
/// If the database fails.
pub async fn pending_stats(connection: &mut PgConnection) -> Result<PendingStats, sqlx::Error> {
    let row = sqlx::query(
        // placed_at is by a service's clock, which may be ahead of the database's. greatest() ignores nulls.
        "select count(*) as reservations,
                greatest(extract(epoch from clock_timestamp() - min(placed_at)), 0)::float8 as oldest_secs,
                greatest(extract(epoch from clock_timestamp() - min(deadline)), 0)::float8 as overdue_secs
         from reservation where status = 'PENDING'",
    )
    .fetch_one(connection)
    .await?;
    Ok(PendingStats {
        reservations: row.try_get("reservations")?,
        oldest_secs: row.try_get("oldest_secs")?,
        overdue_secs: row.try_get("overdue_secs")?,
    })
}

/// Writes the rows that a fold has created or changed.
///
/// # Errors
/// If the database fails; [`Fault::Fenced`] if another transaction has just inserted one of the new ids, so the inputs
/// must be decided again.
pub async fn save(connection: &mut PgConnection, writes: &Writes, deadline_secs: u32) -> Result<(), Fault> {
    if !writes.new.is_empty() {
        let inserted = failpoint(failpoints::INSERT, insert(connection, &writes.new, deadline_secs)).await?;
        if inserted < writes.new.len() as u64 {
            return Err(Fault::Fenced);
        }
    }
    if !writes.changed.is_empty() {
        failpoint(failpoints::UPDATE, update(connection, &writes.changed)).await?;
    }
    Ok(())
}

async fn insert(
    connection: &mut PgConnection,
    new: &[Reservation],
    deadline_secs: u32,
) -> Result<u64, sqlx::Error> {
    let texts = |field: fn(&Reservation) -> &str| new.iter().map(field).collect::<Vec<_>>();
    let inserted = sqlx::query(
        "insert into reservation (id, user_id, user_name, email, movie_id, count, date, date_given, status,
                                  placed_at, deadline, traceparent)
         select id, user_id, user_name, email, movie_id, count, date, date_given, 'PENDING',
                placed_at, clock_timestamp() + make_interval(secs => $11), traceparent
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::bigint[], $7::text[],
                     $8::boolean[], $9::timestamptz[], $10::text[])
             as row (id, user_id, user_name, email, movie_id, count, date, date_given, placed_at, traceparent)
         order by id
         on conflict do nothing",
    )
    .bind(new.iter().map(|reservation| reservation.id.0).collect::<Vec<_>>())
    .bind(texts(|reservation| &reservation.request.user_id))
    .bind(texts(|reservation| &reservation.request.user_name))
    .bind(new.iter().map(|reservation| reservation.request.email.as_deref()).collect::<Vec<_>>())
    .bind(new.iter().map(|reservation| reservation.request.movie_id.0).collect::<Vec<_>>())
    .bind(new.iter().map(|reservation| reservation.request.count.get()).collect::<Vec<_>>())
    .bind(new.iter().map(Reservation::date).collect::<Vec<_>>())
    .bind(new.iter().map(|reservation| reservation.request.date.is_some()).collect::<Vec<_>>())
    .bind(new.iter().map(|reservation| reservation.placed_at.moment()).collect::<Vec<_>>())
    .bind(new.iter().map(|reservation| reservation.traceparent.as_deref()).collect::<Vec<_>>())
    .bind(f64::from(deadline_secs))
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected())
}

async fn update(connection: &mut PgConnection, changed: &[Reservation]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update reservation set status = row.status, reason = row.reason, movie_name = row.movie_name
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as row (id, status, reason, movie_name)
         where reservation.id = row.id",
    )
    .bind(changed.iter().map(|reservation| reservation.id.0).collect::<Vec<_>>())
    .bind(changed.iter().map(|reservation| reservation.status.as_str()).collect::<Vec<_>>())
    .bind(
        changed
            .iter()
            .map(|reservation| reservation.status.reason().map(CancelReason::as_str))
            .collect::<Vec<_>>(),
    )
    .bind(changed.iter().map(|reservation| reservation.movie_name.as_deref()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The present state of one reservation, without a lock.
///
/// # Errors
/// If the database fails.
pub async fn find(
    connection: &mut PgConnection,
    id: ReservationId,
) -> Result<Option<Reservation>, sqlx::Error> {
    let row = sqlx::query(select_reservation!("where id = $1")).bind(id.0).fetch_optional(connection).await?;
    row.as_ref().map(reservation_from_row).transpose()
}

/// The current statuses of these reservations. Missing ones are left out.
///
/// # Errors
/// If the database fails.
pub async fn statuses(
    connection: &mut PgConnection,
    ids: &[ReservationId],
) -> Result<Vec<(ReservationId, Status)>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query("select id, status, reason from reservation where id = any ($1)")
        .bind(ids)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((ReservationId(row.try_get("id")?), status_from_row(row)?))).collect()
}

/// The newest reservations below `before`, of one user or of all, each with its `seq`.
///
/// # Errors
/// If the database fails.
pub async fn list(
    connection: &mut PgConnection,
    user_id: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, Reservation)>, sqlx::Error> {
    let before = before.unwrap_or(i64::MAX);
    // Two statements: one statement for both cases could use no index for both.
    let rows = match user_id {
        Some(user_id) => {
            sqlx::query(select_reservation!("where user_id = $1 and seq < $2 order by seq desc limit $3"))
                .bind(user_id)
                .bind(before)
                .bind(limit)
                .fetch_all(connection)
                .await?
        }
        None => {
            sqlx::query(select_reservation!("where seq < $1 order by seq desc limit $2"))
                .bind(before)
                .bind(limit)
                .fetch_all(connection)
                .await?
        }
    };
    rows.iter().map(|row| Ok((row.try_get("seq")?, reservation_from_row(row)?))).collect()
}

fn reservation_from_row(row: &PgRow) -> Result<Reservation, sqlx::Error> {
    let count = Count::new(row.try_get("count")?);
    let date: String = row.try_get("date")?;
    let date_given: bool = row.try_get("date_given")?;
    Ok(Reservation {
        id: ReservationId(row.try_get("id")?),
        request: Request {
            user_id: row.try_get("user_id")?,
            user_name: row.try_get("user_name")?,
            email: row.try_get("email")?,
            movie_id: MovieId(row.try_get("movie_id")?),
            count: count.ok_or_else(|| sqlx::Error::Decode("a count below 1".into()))?,
            date: date_given.then_some(date),
        },
        movie_name: row.try_get("movie_name")?,
        status: status_from_row(row)?,
        placed_at: Timestamp::new(row.try_get("placed_at")?),
        traceparent: row.try_get("traceparent")?,
    })
}

fn status_from_row(row: &PgRow) -> Result<Status, sqlx::Error> {
    let status = match (row.try_get("status")?, row.try_get("reason")?) {
        ("PENDING", None) => Some(Status::Pending),
        ("CONFIRMED", None) => Some(Status::Confirmed),
        ("CANCELLED", Some(reason)) => CancelReason::parse(reason).map(Status::Cancelled),
        _ => None,
    };
    status.ok_or_else(|| sqlx::Error::Decode("an unknown status or reason".into()))
}
