//! The versions of a movie in the topic: under concurrent writers, no version is missing or out of order, and each
//! quantity follows from the one before.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::json;
use theater_tests::log;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

const CONCURRENT_CALLS: usize = 40;

const CALLS: usize = 600;

pub(crate) async fn is_unbroken_under_load(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let mut movies = Vec::new();
    for _ in 0..3 {
        movies.push(theater.api.publish(40).await?);
    }
    stream::iter(0..CALLS)
        .map(|call| make_call(&theater.api, movies[call % 3], call))
        .buffer_unordered(CONCURRENT_CALLS)
        .try_collect::<Vec<()>>()
        .await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, &theater.api).await?;

    let log = log::read(&theater.config.bootstrap, &format!("{}movies", theater.config.prefix)).await?;
    let mut counts: HashMap<String, usize> = HashMap::new();
    for entry in &log {
        *counts.entry(entry.event_type()).or_default() += 1;
    }
    for (event, count) in [("MoviePublished", 3), ("TicketsAdded", CALLS / 10), ("MovieUpdated", CALLS / 10)]
    {
        ensure!(counts.get(event) == Some(&count), "{count} of {event} were expected: {counts:?}");
    }
    for event in ["TicketsAllocated", "TicketsReleased", "AllocationRejected"] {
        ensure!(counts.contains_key(event), "no {event}: {counts:?}");
    }
    for movie in movies {
        checks::version_chain(&log, &movie.to_string(), theater.api.tickets_left(movie).await?)?;
    }
    theater.stop().await
}

/// Of ten calls one delivers, one edits, and eight reserve, three of which cancel at once.
async fn make_call(api: &Api, movie: Uuid, call: usize) -> anyhow::Result<()> {
    match call % 10 {
        0 => {
            let delivery = json!({"id": Uuid::now_v7(), "count": 2});
            let answer = api.post(&format!("/movies/{movie}/tickets"), &delivery).await?;
            ensure!(answer.status == StatusCode::CREATED, "{answer:?}");
        }
        5 => edit(api, movie, call).await?,
        kind => {
            let id = api.reserve(movie, 1).await?;
            if kind < 4 {
                let answer = api.delete(&format!("/reservations/{id}")).await?;
                // 200: it was cancelled already, out of stock.
                let done = matches!(answer.status, StatusCode::ACCEPTED | StatusCode::OK);
                ensure!(done, "{answer:?}");
            }
        }
    }
    Ok(())
}

/// Edits as a vendor does: reads, changes, and starts again if another edit came first.
async fn edit(api: &Api, movie: Uuid, call: usize) -> anyhow::Result<()> {
    let path = format!("/movies/{movie}");
    eventually("the edit is accepted", SOON, async || {
        let read = api.get(&path).await?;
        let etag = read.header("etag").context("etag")?;
        let edit = api.request(Method::PATCH, &path).header("if-match", etag);
        let answer = Api::send(edit.json(&json!({"description": format!("edit {call}")}))).await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
        Ok(())
    })
    .await
}
