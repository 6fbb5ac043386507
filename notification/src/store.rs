//! SQL of the notification service. Notifications are only inserted, never updated; [`email`] has the e-mails' queue.

use std::collections::HashMap;

use service_kit::messaging::failpoint::failpoint;
use shared_events::{CancelReason, Count, MovieId, ReservationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

pub mod email;

use crate::failpoints;
use crate::notification::{Key, Notification, Outcome, State, Status, Writes};

/// Lists the columns by name: a column that a newer replica's migration adds must not change what a prepared statement of
/// this replica returns.
macro_rules! select_notification {
    ($rest:literal) => {
        concat!(
            "select seq, id, reservation_id, outcome, reason, user_id, user_name, email, movie_id, movie_name, \
             count, message, notification.sent_at, email.state as email_state \
             from notification left join email on notification_id = id ",
            $rest
        )
    };
}

/// Loads the outcomes of the inputs' reservations that were notified already. It locks nothing: rows never change, and the
/// unique key guards those that are missing.
///
/// # Errors
/// If the database fails.
pub async fn load(connection: &mut PgConnection, inputs: &[Notification]) -> Result<State, sqlx::Error> {
    let mut reservations: Vec<Uuid> = inputs.iter().map(|input| input.reservation_id.0).collect();
    reservations.sort_unstable();
    reservations.dedup();
    let rows =
        sqlx::query("select reservation_id, outcome from notification where reservation_id = any ($1)")
            .bind(&reservations)
            .fetch_all(connection)
            .await?;
    rows.iter().map(key).collect()
}

fn key(row: &PgRow) -> Result<Key, sqlx::Error> {
    Ok((ReservationId(row.try_get("reservation_id")?), status(row.try_get("outcome")?)?))
}

/// Inserts the notifications, and with `emails` the e-mails of those to send that have an address. Returns the outcomes
/// that are new: another owner of the partition may have inserted some since `load`.
///
/// # Errors
/// If the database fails.
pub async fn save(
    connection: &mut PgConnection,
    writes: &Writes,
    emails: bool,
) -> Result<Vec<Status>, sqlx::Error> {
    let new = &writes.new;
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let to_send: Vec<Uuid> = if emails { writes.to_send().map(|new| new.id).collect() } else { Vec::new() };
    // Numbered in the order of the log, inserted in the order of the key.
    let recorded = sqlx::query(
        "with recorded as (
             insert into notification (seq, id, reservation_id, outcome, reason, user_id, user_name, email,
                                       movie_id, movie_name, count, message)
             select * from (
                 select nextval('notification_seq_seq'), row.*
                 from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                             $8::uuid[], $9::text[], $10::bigint[], $11::text[])
                     as row (id, reservation_id, outcome, reason, user_id, user_name, email, movie_id,
                             movie_name, count, message)
             ) as numbered
             order by reservation_id, outcome
             on conflict on constraint notification_reservation_id_outcome_key do nothing
             returning id, outcome, email
         ), to_send as (
             insert into email (notification_id)
             select id from recorded where id = any ($12) and email is not null order by id
         )
         select outcome from recorded",
    )
    .bind(new.iter().map(|new| new.id).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.reservation_id.0).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.outcome.status().as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.outcome.reason().map(CancelReason::as_str)).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.user_id.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.user_name.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.email.as_deref()).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.movie_id.0).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.movie_name.as_deref()).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.count.get()).collect::<Vec<_>>())
    .bind(new.iter().map(|new| new.message.as_str()).collect::<Vec<_>>())
    .bind(to_send)
    .fetch_all(connection);
    let rows = failpoint(failpoints::RECORD, recorded).await?;
    rows.iter().map(|row| status(row.try_get("outcome")?)).collect()
}

/// A notification as it was recorded.
pub struct Recorded {
    pub notification: Notification,
    pub sent_at: Timestamp,
    /// `PENDING`, `SENT` or `FAILED`; `None` without an e-mail.
    pub email_state: Option<String>,
}

/// Which notifications to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub user_id: Option<String>,
    pub reservation_id: Option<ReservationId>,
}

/// The newest notifications whose `seq` is below `before`, each with its `seq`.
///
/// # Errors
/// If the database fails.
pub async fn list(
    connection: &mut PgConnection,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, Recorded)>, sqlx::Error> {
    // One statement per index.
    let query = match (filter.reservation_id, &filter.user_id) {
        (Some(reservation_id), user_id) => sqlx::query(select_notification!(
            "where reservation_id = $1 and ($2::text is null or user_id = $2) and seq < $3
             order by seq desc limit $4"
        ))
        .bind(reservation_id.0)
        .bind(user_id.as_deref()),
        (None, Some(user_id)) => sqlx::query(select_notification!(
            "where left(user_id, 200) = left($1, 200) and user_id = $1 and seq < $2
             order by seq desc limit $3"
        ))
        .bind(user_id.as_str()),
        (None, None) => sqlx::query(select_notification!("where seq < $1 order by seq desc limit $2")),
    };
    let rows = query.bind(before.unwrap_or(i64::MAX)).bind(limit).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, recorded(row)?))).collect()
}

async fn by_ids(connection: &mut PgConnection, ids: &[Uuid]) -> Result<HashMap<Uuid, Recorded>, sqlx::Error> {
    let query = sqlx::query(select_notification!("where id = any ($1)"));
    let rows = query.bind(ids).fetch_all(connection).await?;
    rows.iter().map(|row| recorded(row).map(|recorded| (recorded.notification.id, recorded))).collect()
}

fn recorded(row: &PgRow) -> Result<Recorded, sqlx::Error> {
    let count = Count::new(row.try_get("count")?).ok_or_else(|| unreadable("a count below 1"))?;
    let notification = Notification {
        id: row.try_get("id")?,
        reservation_id: ReservationId(row.try_get("reservation_id")?),
        outcome: outcome(row.try_get("outcome")?, row.try_get("reason")?)?,
        user_id: row.try_get("user_id")?,
        user_name: row.try_get("user_name")?,
        email: row.try_get("email")?,
        movie_id: MovieId(row.try_get("movie_id")?),
        movie_name: row.try_get("movie_name")?,
        count,
        message: row.try_get("message")?,
    };
    Ok(Recorded {
        notification,
        sent_at: Timestamp::new(row.try_get("sent_at")?),
        email_state: row.try_get("email_state")?,
    })
}

fn outcome(text: &str, reason: Option<&str>) -> Result<Outcome, sqlx::Error> {
    match (status(text)?, reason) {
        (Status::Confirmed, None) => Ok(Outcome::Confirmed),
        (Status::Cancelled, Some(reason)) => match CancelReason::parse(reason) {
            Some(reason) => Ok(Outcome::Cancelled(reason)),
            None => Err(unreadable(&format!("an unknown reason: {reason}"))),
        },
        (status, reason) => Err(unreadable(&format!("{status:?} with the reason {reason:?}"))),
    }
}

fn status(text: &str) -> Result<Status, sqlx::Error> {
    Status::parse(text).ok_or_else(|| unreadable(&format!("an unknown outcome: {text}")))
}

fn unreadable(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}
