//! Who takes several rows takes them in the order of their ids, and the sweeper waits for nobody: so no two
//! transactions wait for each other.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::StatusCode;
use sqlx::{Connection, PgConnection};
use theater_tests::api::reservation;
use theater_tests::{Environment, Setup, Theater, checks, eventually, log};
use uuid::Uuid;

use crate::holder::Holder;

const SOON: Duration = Duration::from_secs(60);

/// Rows of one batch.
const ROWS: usize = 5;

/// A service that is away while a batch gathers for it, which names rows from the last to the first.
struct Batch {
    service: &'static str,
    /// Takes the first row.
    first: &'static str,
    /// The statement that has to wait for it,
    waits: &'static str,
    /// and meanwhile holds none of the others.
    others: &'static str,
}

const MOVIE: Batch = Batch {
    service: "movie",
    first: "select from movie order by id limit 1 for update",
    waits: "select seq, id",
    others: "select from movie where id > (select id from movie order by id limit 1) for update nowait",
};

const RESERVATION: Batch = Batch {
    service: "reservation",
    first: "select from reservation order by id limit 1 for update",
    waits: "select seq, id",
    others: "select from reservation where id > (select id from reservation order by id limit 1) for update nowait",
};

const RESERVATION_LIST: Batch = Batch {
    service: "reservation-list",
    first: "select from reservation order by id limit 1 for update",
    waits: "select id, status",
    others: "select from reservation where id > (select id from reservation order by id limit 1) for update nowait",
};

pub(crate) async fn are_taken_in_the_order_of_the_ids(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, deadline_secs: 600, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let mut movies = Vec::new();
    for _ in 0..ROWS {
        movies.push(theater.api.publish(10).await?);
    }
    checks::at_rest(&theater.stage, SOON).await?;
    theater.stop_service("movie").await?;
    let reservations: Vec<_> = (0..ROWS).map(|_| Uuid::now_v7()).collect();
    for (id, movie) in reservations.iter().zip(&movies).rev() {
        let answer = theater.api.post("/reservations", &reservation(*id, *movie, 1)).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    }
    gathered(&theater, "reservations", ROWS).await?;
    theater.stop_service("reservation").await?;
    in_order(&mut theater, &MOVIE).await?;
    gathered(&theater, "movies", 2 * ROWS).await?;
    in_order(&mut theater, &RESERVATION).await?;
    checks::at_rest(&theater.stage, SOON).await?;

    theater.stop_service("reservation-list").await?;
    for id in reservations.iter().rev() {
        let answer = theater.api.delete(&format!("/reservations/{id}")).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    }
    gathered(&theater, "reservations", 3 * ROWS).await?;
    in_order(&mut theater, &RESERVATION_LIST).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}

async fn gathered(theater: &Theater, topic: &str, records: usize) -> anyhow::Result<()> {
    eventually("they are sent", SOON, async || {
        let sent = log::read(&theater.stage.bootstrap, &format!("{}{topic}", theater.stage.prefix)).await?;
        ensure!(sent.len() == records, "{} of {records}", sent.len());
        Ok(())
    })
    .await
}

async fn in_order(theater: &mut Theater, batch: &Batch) -> anyhow::Result<()> {
    let url = theater.stage.database_url(batch.service).to_owned();
    let mut holder = Holder::of(&url, batch.first).await?;
    theater.start_again(batch.service).await?;
    holder.holds_up(1, batch.waits).await?;
    let mut connection = PgConnection::connect(&url).await?;
    let others = sqlx::raw_sql(batch.others).execute(&mut connection).await;
    let others = others.with_context(|| format!("{} holds a later row already", batch.service))?;
    ensure!(others.rows_affected() == ROWS as u64 - 1, "{others:?}");
    holder.release().await
}

/// Reservations placed together, of which one is being decided when the deadline of all has passed.
pub(crate) async fn the_sweeper_waits_for_nobody(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 600, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(100).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    theater.stop_service("movie").await?;
    let placed: Vec<Uuid> = try_join_all((0..20).map(|_| theater.api.reserve(movie, 1))).await?;
    let url = &theater.stage.reservation_url;
    // The weakest lock: it holds up who would lock the row, and lets its deadline be moved, for all to see.
    let holder = Holder::of(url, "select from reservation order by id limit 1 for key share").await?;
    let mut database = PgConnection::connect(url).await?;
    sqlx::raw_sql("update reservation set deadline = placed_at").execute(&mut database).await?;
    let cancelled = async |count: usize| {
        eventually("they are cancelled", SOON, async || {
            let cancelled = "select count(*) from reservation where reason = 'DEADLINE'";
            let cancelled = usize::try_from(checks::count(url, cancelled).await?)?;
            ensure!(cancelled == count, "{cancelled} of {count}");
            Ok(())
        })
        .await
    };
    cancelled(placed.len() - 1).await.context("all but the one that is being decided")?;
    holder.release().await?;
    cancelled(placed.len()).await?;
    theater.start_again("movie").await?;
    checks::at_rest(&theater.stage, SOON).await?;

    let topic = format!("{}reservations", theater.stage.prefix);
    let mut told = log::read(&theater.stage.bootstrap, &topic).await?;
    told.retain(|entry| entry.event_type() == "ReservationCancelled");
    let told = log::happened(&told, |event| event["reservationId"].to_string())?;
    ensure!(told.len() == placed.len(), "{told:?}");
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}
