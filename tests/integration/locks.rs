//! Deadlock freedom: transactions lock rows in the order of their ids, and the sweeper skips locked rows. So no two
//! transactions wait for each other.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::StatusCode;
use sqlx::{Connection, PgConnection};
use theater_tests::api::reservation;
use theater_tests::{Environment, Setup, Theater, checks, eventually, log};
use uuid::Uuid;

use crate::row_lock::RowLock;

const SOON: Duration = Duration::from_secs(60);

/// Rows of one batch.
const ROWS: usize = 5;

/// A stopped service, for which a batch accumulates that names rows from the last to the first.
struct Batch {
    service: &'static str,
    /// Locks the row with the lowest id.
    lock_first: &'static str,
    /// The service's statement that waits for that lock.
    waiting: &'static str,
    /// Locks all other rows, which the waiting service must not hold yet.
    lock_others: &'static str,
}

const MOVIE: Batch = Batch {
    service: "movie",
    lock_first: "select from movie order by id limit 1 for update",
    waiting: "select seq, id",
    lock_others: "select from movie where id > (select id from movie order by id limit 1) for update nowait",
};

const RESERVATION: Batch = Batch {
    service: "reservation",
    lock_first: "select from reservation order by id limit 1 for update",
    waiting: "select seq, id",
    lock_others: "select from reservation where id > (select id from reservation order by id limit 1) for update nowait",
};

const RESERVATION_LIST: Batch = Batch {
    service: "reservation-list",
    lock_first: "select from reservation order by id limit 1 for update",
    waiting: "select id, status",
    lock_others: "select from reservation where id > (select id from reservation order by id limit 1) for update nowait",
};

pub(crate) async fn rows_are_locked_in_id_order(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, deadline_secs: 600, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let mut movies = Vec::new();
    for _ in 0..ROWS {
        movies.push(theater.api.publish(10).await?);
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    theater.stop_service("movie").await?;
    let reservations: Vec<_> = (0..ROWS).map(|_| Uuid::now_v7()).collect();
    for (id, movie) in reservations.iter().zip(&movies).rev() {
        let answer = theater.api.post("/reservations", &reservation(*id, *movie, 1)).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    }
    wait_for_records(&theater, "reservations", ROWS).await?;
    theater.stop_service("reservation").await?;
    locks_in_id_order(&mut theater, &MOVIE).await?;
    wait_for_records(&theater, "movies", 2 * ROWS).await?;
    locks_in_id_order(&mut theater, &RESERVATION).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;

    theater.stop_service("reservation-list").await?;
    for id in reservations.iter().rev() {
        let answer = theater.api.delete(&format!("/reservations/{id}")).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    }
    wait_for_records(&theater, "reservations", 3 * ROWS).await?;
    locks_in_id_order(&mut theater, &RESERVATION_LIST).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}

async fn wait_for_records(theater: &Theater, topic: &str, records: usize) -> anyhow::Result<()> {
    eventually("they are sent", SOON, async || {
        let sent = log::read(&theater.config.bootstrap, &format!("{}{topic}", theater.config.prefix)).await?;
        ensure!(sent.len() == records, "{} of {records}", sent.len());
        Ok(())
    })
    .await
}

async fn locks_in_id_order(theater: &mut Theater, batch: &Batch) -> anyhow::Result<()> {
    let url = theater.config.database_url(batch.service).to_owned();
    let mut lock = RowLock::acquire(&url, batch.lock_first).await?;
    theater.restart_service(batch.service).await?;
    lock.wait_until_blocking(1, batch.waiting).await?;
    let mut connection = PgConnection::connect(&url).await?;
    let others = sqlx::raw_sql(batch.lock_others).execute(&mut connection).await;
    let others = others.with_context(|| format!("{} holds a later row already", batch.service))?;
    ensure!(others.rows_affected() == ROWS as u64 - 1, "{others:?}");
    lock.release().await
}

/// The deadline of 20 reservations passes while the row of one of them is locked. The sweeper cancels the others.
pub(crate) async fn the_sweeper_skips_locked_rows(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 600, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(100).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    theater.stop_service("movie").await?;
    let placed: Vec<Uuid> = try_join_all((0..20).map(|_| theater.api.reserve(movie, 1))).await?;
    let url = &theater.config.reservation_url;
    // The weakest lock: it conflicts with the sweeper's, and still lets the test update the deadlines.
    let lock = RowLock::acquire(url, "select from reservation order by id limit 1 for key share").await?;
    let mut database = PgConnection::connect(url).await?;
    sqlx::raw_sql("update reservation set deadline = placed_at").execute(&mut database).await?;
    let cancelled = async |count: usize| {
        eventually("they are cancelled", SOON, async || {
            let cancelled = "select count(*) from reservation where reason = 'DEADLINE'";
            let cancelled = usize::try_from(checks::count_rows(url, cancelled).await?)?;
            ensure!(cancelled == count, "{cancelled} of {count}");
            Ok(())
        })
        .await
    };
    cancelled(placed.len() - 1).await.context("all but the locked one")?;
    lock.release().await?;
    cancelled(placed.len()).await?;
    theater.restart_service("movie").await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;

    let topic = format!("{}reservations", theater.config.prefix);
    let mut cancellations = log::read(&theater.config.bootstrap, &topic).await?;
    cancellations.retain(|entry| entry.event_type() == "ReservationCancelled");
    let distinct = log::distinct_events(&cancellations, |event| event["reservationId"].to_string())?;
    ensure!(distinct.len() == placed.len(), "{distinct:?}");
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}
