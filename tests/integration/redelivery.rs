//! Delivery is at least once: whatever comes again, in whatever order, changes nothing and is not answered.

use std::time::Duration;

use anyhow::ensure;
use reqwest::{Method, StatusCode};
use serde_json::json;
use theater_tests::log::{self, Entry};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually, records};
use uuid::Uuid;

use crate::look;

const SOON: Duration = Duration::from_secs(30);

pub(crate) async fn every_record_again_changes_nothing(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup { partitions: 2, ..Setup::default() }).await?;
    let stage = &theater.stage;
    play(&theater.api).await?;
    checks::at_rest(stage, SOON).await?;
    checks::invariants(stage, &theater.api).await?;
    let before = look::everything(&theater).await?;
    let originals = both_topics(&theater).await?;
    let told: Vec<_> = originals.iter().flatten().map(Entry::event_type).collect();
    for event in shared_events::Event::TYPES {
        ensure!(told.iter().any(|told| told == event), "the log lacks a {event}");
    }

    let mut expected = originals.clone();
    for in_order in [true, false] {
        let copies: Vec<Vec<Entry>> = originals.iter().map(|topic| arranged(topic, in_order)).collect();
        produce(&theater, &copies).await?;
        checks::at_rest(stage, SOON).await?;
        look::same(&before, &look::everything(&theater).await?)?;
        for (topic, copies) in expected.iter_mut().zip(copies) {
            topic.extend(copies);
        }
        let now = both_topics(&theater).await?;
        for (now, expected) in now.iter().zip(&expected) {
            same_log(now, expected)?;
        }
    }
    for topic in names(&theater) {
        let dead = log::read(&stage.bootstrap, &format!("{topic}.dlq")).await?;
        ensure!(dead.is_empty(), "{dead:?}");
    }
    theater.stop().await
}

/// The golden run, with a rejected reservation that would be served now, and every other event.
async fn play(api: &Api) -> anyhow::Result<()> {
    let movie = api.publish(100).await?;
    let first = decided(api, movie, 45, "CONFIRMED").await?;
    decided(api, movie, 57, "CANCELLED").await?;
    decided(api, movie, 55, "CONFIRMED").await?;
    decided(api, movie, 10, "CANCELLED").await?;
    let answer = api.delete(&format!("/reservations/{first}")).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    eventually("45 are left", SOON, async || {
        ensure!(api.left(movie).await? == 45);
        Ok(())
    })
    .await?;
    decided(api, Uuid::now_v7(), 1, "CANCELLED").await?;
    let answer = api.post(&format!("/movies/{movie}/tickets"), &json!({"count": 7})).await?;
    ensure!(answer.status == StatusCode::CREATED, "{answer:?}");
    let path = format!("/movies/{movie}");
    let edit = api.request(Method::PATCH, &path).header("if-match", "*").json(&json!({"movieName": "Her"}));
    let answer = Api::send(edit).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    Ok(())
}

async fn decided(api: &Api, movie: Uuid, count: i64, status: &str) -> anyhow::Result<Uuid> {
    let id = api.reserve(movie, count).await?;
    eventually("the reservation is decided", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == status, "{reservation}");
        Ok(())
    })
    .await?;
    Ok(id)
}

fn names(theater: &Theater) -> [String; 2] {
    ["reservations", "movies"].map(|topic| format!("{}{topic}", theater.stage.prefix))
}

async fn both_topics(theater: &Theater) -> anyhow::Result<Vec<Vec<Entry>>> {
    let mut topics = Vec::new();
    for topic in names(theater) {
        topics.push(log::read(&theater.stage.bootstrap, &topic).await?);
    }
    Ok(topics)
}

fn arranged(entries: &[Entry], in_order: bool) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    if !in_order {
        entries.reverse();
    }
    entries
}

async fn produce(theater: &Theater, copies: &[Vec<Entry>]) -> anyhow::Result<()> {
    let producer = records::producer(&theater.stage.bootstrap)?;
    for (topic, copies) in names(theater).iter().zip(copies) {
        for copy in copies {
            records::produce(&producer, topic, copy).await?;
        }
    }
    Ok(())
}

/// Exactly the originals and the copies, in the order in which they were produced in each partition.
fn same_log(now: &[Entry], expected: &[Entry]) -> anyhow::Result<()> {
    let mut expected = expected.to_vec();
    expected.sort_by_key(|entry| entry.partition);
    ensure!(now.len() == expected.len(), "{} records became {}: {now:#?}", expected.len(), now.len());
    for (now, expected) in now.iter().zip(&expected) {
        let expected = Entry { offset: now.offset, ..expected.clone() };
        ensure!(*now == expected, "{now:?} stands where {expected:?} was produced");
    }
    Ok(())
}
