//! A movie's ledger in the log: no step of it is missing or out of order, whoever writes at the same time.

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

/// Calls at once.
const AT_ONCE: usize = 40;

const CALLS: usize = 600;

pub(crate) async fn are_unbroken_under_load(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let mut movies = Vec::new();
    for _ in 0..3 {
        movies.push(theater.api.publish(40).await?);
    }
    stream::iter(0..CALLS)
        .map(|call| one_call(&theater.api, movies[call % 3], call))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, &theater.api).await?;

    let log = log::read(&theater.stage.bootstrap, &format!("{}movies", theater.stage.prefix)).await?;
    let mut told: HashMap<String, usize> = HashMap::new();
    for entry in &log {
        *told.entry(entry.event_type()).or_default() += 1;
    }
    for (event, count) in [("MoviePublished", 3), ("TicketsAdded", CALLS / 10), ("MovieUpdated", CALLS / 10)]
    {
        ensure!(told.get(event) == Some(&count), "{count} of {event} were expected: {told:?}");
    }
    for event in ["TicketsAllocated", "TicketsReleased", "AllocationRejected"] {
        ensure!(told.contains_key(event), "no {event} came to pass: {told:?}");
    }
    for movie in movies {
        checks::chain(&log, &movie.to_string(), theater.api.left(movie).await?)?;
    }
    theater.stop().await
}

/// Of ten calls one delivers, one edits, eight reserve, and three of these cancel.
async fn one_call(api: &Api, movie: Uuid, call: usize) -> anyhow::Result<()> {
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
                // 200: it was out of stock already.
                let done = matches!(answer.status, StatusCode::ACCEPTED | StatusCode::OK);
                ensure!(done, "{answer:?}");
            }
        }
    }
    Ok(())
}

/// Edits as a vendor does: what is read, changed, and refused if someone was faster.
async fn edit(api: &Api, movie: Uuid, call: usize) -> anyhow::Result<()> {
    let path = format!("/movies/{movie}");
    eventually("the edit is taken", SOON, async || {
        let read = api.get(&path).await?;
        let etag = read.header("etag").context("etag")?;
        let edit = api.request(Method::PATCH, &path).header("if-match", etag);
        let answer = Api::send(edit.json(&json!({"description": format!("edit {call}")}))).await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
        Ok(())
    })
    .await
}
