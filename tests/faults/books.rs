//! A theater at rest against the books of its market: nothing accepted is missing, nothing happened twice.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use theater_tests::fleet::Fleet;
use theater_tests::log::{self, Entry};
use theater_tests::mail::MailServer;
use theater_tests::theater::Stage;
use theater_tests::{Api, checks, eventually};
use uuid::Uuid;

use crate::market::{BROKEN, Books};

/// How long a fleet that is whole again may take to come to rest.
const REST: Duration = Duration::from_secs(60);

/// The mail server has an e-mail of each notification that was to be sent, and of no other. It may have some twice.
pub(crate) async fn delivered(stage: &Stage, server: &MailServer) -> anyhow::Result<()> {
    let mut database = PgConnection::connect(&stage.notification_url).await?;
    let sent: Vec<Uuid> =
        sqlx::query_scalar("select notification_id from email").fetch_all(&mut database).await?;
    let sent: BTreeSet<String> = sent.iter().map(Uuid::to_string).collect();
    let mails = server.mails()?;
    let taken = mails.iter().filter_map(|mail| Some(mail.id.split_once('@')?.0.to_owned()));
    let taken: BTreeSet<String> = taken.collect();
    ensure!(!sent.is_empty() && sent == taken, "{} sent, {} taken", sent.len(), taken.len());
    Ok(())
}

/// Waits until the fleet is at rest, and checks all that must hold then.
pub(crate) async fn balanced(fleet: &Fleet, books: &Books) -> anyhow::Result<()> {
    let (stage, api) = (&fleet.stage, &fleet.api);
    checks::at_rest(stage, REST).await?;
    checks::invariants(stage, api).await?;
    let reservations = by_id(api.all("/reservations").await?)?;
    ended_as_asked(&reservations, books)?;
    sold_exactly(api, &reservations, books).await?;
    let read = async |topic: &str| log::read(&stage.bootstrap, &format!("{}{topic}", stage.prefix)).await;
    let (told, stock) = (read("reservations").await?, read("movies").await?);
    told_once(&told, &reservations)?;
    one_identity(&stock)?;
    let letters = [read("reservations.dlq").await?, read("movies.dlq").await?].concat();
    buried(&[("reservations", &told), ("movies", &stock)], &letters, books)?;
    mailed(stage).await
}

fn by_id(rows: Vec<Value>) -> anyhow::Result<HashMap<Uuid, Value>> {
    rows.into_iter().map(|row| Ok((id(&row["id"])?, row))).collect()
}

fn id(value: &Value) -> anyhow::Result<Uuid> {
    Ok(value.as_str().context("no id")?.parse()?)
}

/// Every accepted reservation is there, and no other, and each has ended for a reason of its own.
fn ended_as_asked(reservations: &HashMap<Uuid, Value>, books: &Books) -> anyhow::Result<()> {
    for id in &books.reservations {
        ensure!(reservations.contains_key(id), "{id} was accepted, and is gone");
    }
    for (id, row) in reservations {
        ensure!(books.reservations.contains(id), "nobody was told of {id}: {row}");
        let cancelled = books.cancelled.contains(id);
        let as_asked = match (row["reserveStatus"].as_str(), row["cancelReason"].as_str()) {
            (Some("CONFIRMED"), None) => !cancelled,
            (Some("CANCELLED"), Some("CUSTOMER")) => cancelled,
            (Some("CANCELLED"), Some("DEADLINE")) => books.hurried.contains(id),
            (Some("CANCELLED"), Some("OUT_OF_STOCK")) => !books.plenty.contains(&self::id(&row["movieId"])?),
            _ => false,
        };
        ensure!(as_asked, "cancelled by its customer: {cancelled}; {row}");
    }
    Ok(())
}

/// What was published and delivered is what is left and what is confirmed, and movies are named as they were last.
async fn sold_exactly(api: &Api, reservations: &HashMap<Uuid, Value>, books: &Books) -> anyhow::Result<()> {
    let mut confirmed: HashMap<Uuid, i64> = HashMap::new();
    for row in reservations.values().filter(|row| row["reserveStatus"] == "CONFIRMED") {
        *confirmed.entry(id(&row["movieId"])?).or_default() += row["count"].as_i64().context("count")?;
    }
    let movies = by_id(api.all("/movies").await?)?;
    ensure!(movies.len() == books.stock.len(), "{} movies of {}", movies.len(), books.stock.len());
    for (id, stock) in &books.stock {
        let movie = movies.get(id).with_context(|| format!("{id} was published, and is gone"))?;
        let sold = confirmed.get(id).copied().unwrap_or(0);
        ensure!(movie["qty"] == json!(stock - sold), "{stock} - {sold} tickets: {movie}");
        ensure!(movie["movieName"] == json!(books.names[id]), "{:?}: {movie}", books.names[id]);
    }
    Ok(())
}

/// What happened, broken records left out.
fn happened(log: &[Entry], about: fn(&Value) -> String) -> anyhow::Result<BTreeSet<(String, String)>> {
    log::happened(log.iter().filter(|entry| !is_broken(entry)), about)
}

/// What is told of each reservation is what became of it, and each part of it once, its repeats left out.
fn told_once(log: &[Entry], reservations: &HashMap<Uuid, Value>) -> anyhow::Result<()> {
    let mut told: HashMap<String, BTreeSet<String>> = HashMap::new();
    for (reservation, event) in happened(log, |event| text(&event["reservationId"]))? {
        told.entry(reservation).or_default().insert(event);
    }
    ensure!(told.len() == reservations.len(), "{} reservations, {} told", reservations.len(), told.len());
    for (id, row) in reservations {
        let told = told.get(&id.to_string()).with_context(|| format!("nothing is told of {id}"))?;
        let is_told = |event: &str| told.contains(event);
        let right = match row["reserveStatus"].as_str() {
            // One that was confirmed first, and cancelled then, was told of both.
            Some("CANCELLED") => is_told("ReservationCancelled"),
            _ => is_told("ReservationConfirmed") && !is_told("ReservationCancelled"),
        };
        ensure!(right && is_told("ReservationPlaced"), "told of {told:?}: {row}");
    }
    Ok(())
}

/// Each of a movie's events happened once: its versions, and its answers to each reservation.
fn one_identity(log: &[Entry]) -> anyhow::Result<()> {
    happened(log, |event| {
        let version =
            if event["eventType"] == "AllocationRejected" { &Value::Null } else { &event["version"] };
        format!("{} {version} of {}", text(&event["reservationId"]), text(&event["movieId"]))
    })?;
    happened(log, |event| match event["eventType"].as_str() {
        Some("TicketsAdded") => text(&event["deliveryId"]),
        Some("MovieUpdated") => format!("{} {}", text(&event["movieId"]), event["version"]),
        Some("MoviePublished") => text(&event["movieId"]),
        _ => text(&event["reservationId"]),
    })?;
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_broken(entry: &Entry) -> bool {
    entry.value.as_deref().is_some_and(|value| value.starts_with(BROKEN))
}

/// Every broken record has a dead letter of each who reads its topic.
fn buried(topics: &[(&str, &[Entry])], letters: &[Entry], books: &Books) -> anyhow::Result<()> {
    let header = |letter: &Entry, name: &str| letter.header(name).unwrap_or_default();
    let found: BTreeSet<_> = letters
        .iter()
        .map(|letter| {
            let topic = header(letter, "dlq_topic");
            let name = topic.rsplit('.').next().unwrap_or_default().to_owned();
            let place = [header(letter, "dlq_partition"), header(letter, "dlq_offset")].join("/");
            (header(letter, "dlq_consumer"), name, place)
        })
        .collect();
    let (mut expected, mut broken) = (BTreeSet::new(), 0);
    for (topic, log) in topics {
        let readers: &[&str] = if *topic == "movies" {
            &["reservation"]
        } else {
            &["movie", "notification", "reservation-list"]
        };
        for entry in log.iter().filter(|entry| is_broken(entry)) {
            broken += 1;
            let place = format!("{}/{}", entry.partition, entry.offset);
            expected.extend(
                readers.iter().map(|reader| ((*reader).to_owned(), (*topic).to_owned(), place.clone())),
            );
        }
    }
    ensure!(broken == books.broken, "{broken} broken records of {}", books.broken);
    let lost: Vec<_> = expected.difference(&found).collect();
    let forged: Vec<_> = found.difference(&expected).collect();
    ensure!(lost.is_empty() && forged.is_empty(), "dead letters missing: {lost:?}, unexpected: {forged:?}");
    Ok(())
}

/// Every e-mail is sent. Those that a dead process had claimed are nobody's until their lease is over: it is now.
async fn mailed(stage: &Stage) -> anyhow::Result<()> {
    let mut database = PgConnection::connect(&stage.notification_url).await?;
    sqlx::query("update email set due_at = clock_timestamp() where state = 'PENDING'")
        .execute(&mut database)
        .await?;
    eventually("every e-mail is sent", REST, async || {
        let waiting =
            checks::count(&stage.notification_url, "select count(*) from email where state <> 'SENT'");
        let waiting = waiting.await?;
        ensure!(waiting == 0, "{waiting} are not");
        Ok(())
    })
    .await
}
