//! Reservations that are cancelled before or while they are decided: by the customer, or because their deadline passes.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use theater_tests::api::reservation;
use theater_tests::checks::{self, Outcomes};
use theater_tests::{Environment, Setup, Theater, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

const CONCURRENT_CUSTOMERS: usize = 50;

pub(crate) async fn cancelled_right_after_placing(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(200).await?;
    stream::iter(0..200)
        .map(async |_| {
            let id = theater.api.reserve(movie, 1).await?;
            let answer = theater.api.delete(&format!("/reservations/{id}")).await?;
            ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
            ensure!(answer.json()?["reserveStatus"] == "CANCELLED", "{answer:?}");
            Ok(())
        })
        .buffer_unordered(CONCURRENT_CUSTOMERS)
        .try_collect::<Vec<()>>()
        .await?;
    expect_all_cancelled(&theater, movie, "CUSTOMER", 200).await?;
    ensure!(theater.api.tickets_left(movie).await? == 200, "the stock is not whole");
    theater.stop().await
}

pub(crate) async fn deadlines_pass_while_the_movie_service_is_stopped(
    environment: &Environment,
) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 3, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(100).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    theater.stop_service("movie").await?;

    let api = &theater.api;
    let placed: Vec<bool> = stream::iter(0..60)
        .map(async |_| {
            let answer = api.post("/reservations", &reservation(Uuid::now_v7(), movie, 1)).await?;
            match answer.status {
                StatusCode::ACCEPTED => Ok(true),
                // New reservations are refused once the oldest undecided one has used a third of its deadline, which a
                // slow machine reaches.
                StatusCode::SERVICE_UNAVAILABLE => Ok(false),
                _ => Err(anyhow::anyhow!("{answer:?}")),
            }
        })
        .buffer_unordered(CONCURRENT_CUSTOMERS)
        .try_collect()
        .await?;
    let placed = placed.into_iter().filter(|placed| *placed).count();
    ensure!(placed > 0, "none was accepted");
    eventually("the deadlines have passed", SOON, async || {
        let outcomes = checks::outcomes(api, movie).await?;
        ensure!(outcomes == cancelled("DEADLINE", placed), "{outcomes:?}");
        Ok(())
    })
    .await?;
    eventually("they are notified without the movie service", SOON, async || {
        let notified = api.list_all("/notifications").await?.len();
        ensure!(notified == placed, "{notified}");
        Ok(())
    })
    .await?;

    theater.restart_service("movie").await?;
    expect_all_cancelled(&theater, movie, "DEADLINE", placed).await?;
    ensure!(theater.api.tickets_left(movie).await? == 100, "the stock is not whole");
    // The movie service's late replies caused no further notification: none was ever confirmed.
    ensure!(theater.api.list_all("/notifications").await?.len() == placed, "one notification each");
    theater.stop().await
}

fn cancelled(reason: &str, count: usize) -> Outcomes {
    Outcomes { confirmed: 0, cancelled: HashMap::from([(reason.to_owned(), count)]), pending: 0 }
}

/// All reservations were cancelled for this reason, and each was notified once. The movie service has released the
/// tickets of each, or never allocated any.
async fn expect_all_cancelled(
    theater: &Theater,
    movie: Uuid,
    reason: &str,
    count: usize,
) -> anyhow::Result<()> {
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let outcomes = checks::outcomes(&theater.api, movie).await?;
    ensure!(outcomes == cancelled(reason, count), "{outcomes:?}");
    let mut times: HashMap<String, usize> = HashMap::new();
    for row in theater.api.list_all("/notifications").await? {
        if row["reserveStatus"] == "CANCELLED" {
            let id = row["reserveId"].as_str().context("reserveId")?;
            *times.entry(id.to_owned()).or_default() += 1;
        }
    }
    ensure!(times.len() == count && times.values().all(|times| *times == 1), "{times:?}");
    let ended = "select count(*) from decision where outcome in ('RELEASED', 'VOID')";
    let ended = checks::count_rows(&theater.config.movie_url, ended).await?;
    let decided = checks::count_rows(&theater.config.movie_url, "select count(*) from decision").await?;
    ensure!(usize::try_from(ended)? == count && decided == ended, "{ended} of {decided} decisions ended");
    checks::invariants(&theater.config, &theater.api).await
}
