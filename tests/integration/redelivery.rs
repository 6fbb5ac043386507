//! Delivery is at least once: a record that is delivered again, in whatever order, changes no row and causes no event.

use std::time::Duration;

use anyhow::ensure;
use reqwest::{Method, StatusCode};
use serde_json::json;
use theater_tests::log::{self, Entry};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually, records};
use uuid::Uuid;

use crate::snapshot;

const SOON: Duration = Duration::from_secs(30);

pub(crate) async fn every_record_again_changes_nothing(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup { partitions: 2, ..Setup::default() }).await?;
    let config = &theater.config;
    play(&theater.api).await?;
    checks::wait_until_at_rest(config, SOON).await?;
    checks::invariants(config, &theater.api).await?;
    let before = snapshot::take(&theater).await?;
    let originals = both_topics(&theater).await?;
    let event_types: Vec<_> = originals.iter().flatten().map(Entry::event_type).collect();
    for event in shared_events::Event::TYPES {
        ensure!(event_types.iter().any(|event_type| event_type == event), "the topics lack a {event}");
    }

    let mut expected = originals.clone();
    for in_order in [true, false] {
        let copies: Vec<Vec<Entry>> = originals.iter().map(|topic| arranged(topic, in_order)).collect();
        produce(&theater, &copies).await?;
        checks::wait_until_at_rest(config, SOON).await?;
        snapshot::expect_unchanged(&before, &snapshot::take(&theater).await?)?;
        for (topic, copies) in expected.iter_mut().zip(copies) {
            topic.extend(copies);
        }
        let now = both_topics(&theater).await?;
        for (now, expected) in now.iter().zip(&expected) {
            expect_same_log(now, expected)?;
        }
    }
    for topic in topic_names(&theater) {
        let dead_letters = log::read(&config.bootstrap, &format!("{topic}.dlq")).await?;
        ensure!(dead_letters.is_empty(), "{dead_letters:?}");
    }
    theater.stop().await
}

/// The golden run, a rejected reservation for which tickets are left later, and at least one event of every other type.
async fn play(api: &Api) -> anyhow::Result<()> {
    let movie = api.publish(100).await?;
    let first = place_and_wait(api, movie, 45, "CONFIRMED").await?;
    place_and_wait(api, movie, 57, "CANCELLED").await?;
    place_and_wait(api, movie, 55, "CONFIRMED").await?;
    place_and_wait(api, movie, 10, "CANCELLED").await?;
    let answer = api.delete(&format!("/reservations/{first}")).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    eventually("45 are left", SOON, async || {
        ensure!(api.tickets_left(movie).await? == 45);
        Ok(())
    })
    .await?;
    place_and_wait(api, Uuid::now_v7(), 1, "CANCELLED").await?;
    let answer = api.post(&format!("/movies/{movie}/tickets"), &json!({"count": 7})).await?;
    ensure!(answer.status == StatusCode::CREATED, "{answer:?}");
    let path = format!("/movies/{movie}");
    let edit = api.request(Method::PATCH, &path).header("if-match", "*").json(&json!({"movieName": "Her"}));
    let answer = Api::send(edit).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    Ok(())
}

async fn place_and_wait(api: &Api, movie: Uuid, count: i64, status: &str) -> anyhow::Result<Uuid> {
    let id = api.reserve(movie, count).await?;
    eventually("the reservation is decided", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == status, "{reservation}");
        Ok(())
    })
    .await?;
    Ok(id)
}

fn topic_names(theater: &Theater) -> [String; 2] {
    ["reservations", "movies"].map(|topic| format!("{}{topic}", theater.config.prefix))
}

async fn both_topics(theater: &Theater) -> anyhow::Result<Vec<Vec<Entry>>> {
    let mut topics = Vec::new();
    for topic in topic_names(theater) {
        topics.push(log::read(&theater.config.bootstrap, &topic).await?);
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
    let producer = records::producer(&theater.config.bootstrap)?;
    for (topic, copies) in topic_names(theater).iter().zip(copies) {
        for copy in copies {
            records::produce(&producer, topic, copy).await?;
        }
    }
    Ok(())
}

/// Each partition has exactly the originals and the copies, in the order in which they were produced.
fn expect_same_log(now: &[Entry], expected: &[Entry]) -> anyhow::Result<()> {
    let mut expected = expected.to_vec();
    expected.sort_by_key(|entry| entry.partition);
    ensure!(now.len() == expected.len(), "{} records became {}: {now:#?}", expected.len(), now.len());
    for (now, expected) in now.iter().zip(&expected) {
        let expected = Entry { offset: now.offset, ..expected.clone() };
        ensure!(*now == expected, "{now:?} stands where {expected:?} was produced");
    }
    Ok(())
}
