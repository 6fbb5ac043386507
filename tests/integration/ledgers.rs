//! A movie's ledger in the log: no step of it is missing or out of order, whoever writes at the same time.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use theater_tests::log::{self, Entry};
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

pub(crate) async fn what_commits_late_is_sent(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let movie = theater.api.publish(100).await?;
    let first = theater.api.reserve(movie, 1).await?;
    theater.api.delete(&format!("/reservations/{first}")).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let topic = format!("{}reservations", theater.stage.prefix);
    let log = log::read(&theater.stage.bootstrap, &topic).await?;
    let event = log.iter().find(|entry| entry.event_type() == "ReservationCancelled").context("cancelled")?;

    // Drawn now, committed last.
    let mut late = Writer::begin(&theater, &topic, event).await?;
    let mut never = Writer::begin(&theater, &topic, event).await?;
    let (late_ids, never_ids) = (late.write().await?, never.write().await?);
    for _ in 0..20 {
        theater.api.reserve(movie, 1).await?;
    }
    eventually("later events are sent", SOON, async || {
        let sent = log::read(&theater.stage.bootstrap, &topic).await?;
        let placed = sent.iter().filter(|entry| entry.event_type() == "ReservationPlaced").count();
        ensure!(placed == 21, "{placed} of 21");
        ensure!(count(&sent, &late_ids) == 0, "what is not committed was sent");
        Ok(())
    })
    .await?;
    let drawn =
        checks::count(&theater.stage.reservation_url, "select last_value from outbox_seq_seq").await?;
    ensure!(drawn >= late.last_seq + 20, "seq {} was to be low; {drawn} are drawn", late.last_seq);

    late.transaction("commit").await?;
    never.transaction("rollback").await?;
    theater.api.reserve(movie, 1).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let sent = log::read(&theater.stage.bootstrap, &topic).await?;
    ensure!(count(&sent, &late_ids) == late_ids.len(), "a row that was committed late is lost");
    ensure!(count(&sent, &never_ids) == 0, "a row that was rolled back was sent");
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}

fn count(log: &[Entry], ids: &[String]) -> usize {
    log.iter().filter(|entry| entry.header("ce_id").is_some_and(|id| ids.contains(&id))).count()
}

/// A transaction of the reservation service that takes its time.
struct Writer<'a> {
    connection: PgConnection,
    topic: &'a str,
    event: &'a Entry,
    last_seq: i64,
}

impl<'a> Writer<'a> {
    async fn begin(theater: &Theater, topic: &'a str, event: &'a Entry) -> anyhow::Result<Self> {
        let connection = PgConnection::connect(&theater.stage.reservation_url).await?;
        let mut writer = Self { connection, topic, event, last_seq: 0 };
        writer.transaction("begin").await?;
        Ok(writer)
    }

    async fn transaction(&mut self, what: &'static str) -> anyhow::Result<()> {
        sqlx::raw_sql(what).execute(&mut self.connection).await?;
        Ok(())
    }

    /// An event that changes nothing, for each shard: every relay has to find one.
    async fn write(&mut self) -> anyhow::Result<Vec<String>> {
        let mut ids = Vec::new();
        for shard in 0..service_kit::events::outbox::EVENT_SHARDS {
            let id = Uuid::now_v7().to_string();
            let headers: Vec<_> = self
                .event
                .headers
                .iter()
                .filter_map(|(name, _)| {
                    let value = if name == "ce_id" { Some(id.clone()) } else { self.event.header(name) };
                    Some([name.clone(), value?])
                })
                .collect();
            self.last_seq = sqlx::query_scalar(
                "insert into outbox (shard, topic, key, headers, payload) values ($1, $2, $3, $4, $5)
                 returning seq",
            )
            .bind(shard)
            .bind(self.topic)
            .bind(self.event.key.as_deref())
            .bind(json!(headers).to_string())
            .bind(self.event.value.as_deref())
            .fetch_one(&mut self.connection)
            .await?;
            ids.push(id);
        }
        Ok(ids)
    }
}
