//! Compares a theater at rest with the ledger of accepted calls: no accepted call is lost, and none has two effects.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use theater_tests::fleet::Fleet;
use theater_tests::log::{self, Entry};
use theater_tests::mail::MailServer;
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, checks, eventually};
use uuid::Uuid;

use crate::ledger::Ledger;
use crate::workload::MALFORMED;

/// How long a fleet of which every process runs again may take to come to rest.
const REST: Duration = Duration::from_secs(60);

/// The mail server has received an e-mail for each row of `email`, and no other. It may have received some twice.
pub(crate) async fn all_mails_received(config: &TheaterConfig, server: &MailServer) -> anyhow::Result<()> {
    let mut database = PgConnection::connect(&config.notification_url).await?;
    let sent: Vec<Uuid> =
        sqlx::query_scalar("select notification_id from email").fetch_all(&mut database).await?;
    let sent: BTreeSet<String> = sent.iter().map(Uuid::to_string).collect();
    let mails = server.received()?;
    let received = mails.iter().filter_map(|mail| Some(mail.id.split_once('@')?.0.to_owned()));
    let received: BTreeSet<String> = received.collect();
    ensure!(!sent.is_empty() && sent == received, "{} sent, {} received", sent.len(), received.len());
    Ok(())
}

/// Waits until the fleet is at rest, and checks every invariant.
pub(crate) async fn all_hold(fleet: &Fleet, ledger: &Ledger) -> anyhow::Result<()> {
    let (config, api) = (&fleet.config, &fleet.api);
    checks::wait_until_at_rest(config, REST).await?;
    checks::invariants(config, api).await?;
    let reservations = by_id(api.list_all("/reservations").await?)?;
    outcomes_match(&reservations, ledger)?;
    stock_matches(api, &reservations, ledger).await?;
    let read = async |topic: &str| log::read(&config.bootstrap, &format!("{}{topic}", config.prefix)).await;
    let (reservation_log, movie_log) = (read("reservations").await?, read("movies").await?);
    events_match_outcomes(&reservation_log, &reservations)?;
    each_event_has_one_identity(&movie_log)?;
    let dead_letters = [read("reservations.dlq").await?, read("movies.dlq").await?].concat();
    malformed_are_dead_lettered(
        &[("reservations", &reservation_log), ("movies", &movie_log)],
        &dead_letters,
        ledger,
    )?;
    all_mails_are_sent(config).await
}

fn by_id(rows: Vec<Value>) -> anyhow::Result<HashMap<Uuid, Value>> {
    rows.into_iter().map(|row| Ok((id(&row["id"])?, row))).collect()
}

fn id(value: &Value) -> anyhow::Result<Uuid> {
    Ok(value.as_str().context("no id")?.parse()?)
}

/// Every accepted reservation exists, and no other, and each has an outcome that its calls allow.
fn outcomes_match(reservations: &HashMap<Uuid, Value>, ledger: &Ledger) -> anyhow::Result<()> {
    for id in &ledger.reservations {
        ensure!(reservations.contains_key(id), "{id} was accepted, and is missing");
    }
    for (id, row) in reservations {
        ensure!(ledger.reservations.contains(id), "{id} was never accepted: {row}");
        let cancelled = ledger.cancelled.contains(id);
        let as_expected = match (row["reserveStatus"].as_str(), row["cancelReason"].as_str()) {
            (Some("CONFIRMED"), None) => !cancelled,
            (Some("CANCELLED"), Some("CUSTOMER")) => cancelled,
            (Some("CANCELLED"), Some("DEADLINE")) => ledger.past_deadline.contains(id),
            (Some("CANCELLED"), Some("OUT_OF_STOCK")) => {
                !ledger.never_sold_out.contains(&self::id(&row["movieId"])?)
            }
            _ => false,
        };
        ensure!(as_expected, "cancelled by its customer: {cancelled}; {row}");
    }
    Ok(())
}

/// For each movie, the tickets published and delivered are those left plus those confirmed, and its name is the last one
/// that was accepted.
async fn stock_matches(
    api: &Api,
    reservations: &HashMap<Uuid, Value>,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    let mut confirmed: HashMap<Uuid, i64> = HashMap::new();
    for row in reservations.values().filter(|row| row["reserveStatus"] == "CONFIRMED") {
        *confirmed.entry(id(&row["movieId"])?).or_default() += row["count"].as_i64().context("count")?;
    }
    let movies = by_id(api.list_all("/movies").await?)?;
    ensure!(movies.len() == ledger.stock.len(), "{} movies of {}", movies.len(), ledger.stock.len());
    for (id, stock) in &ledger.stock {
        let movie = movies.get(id).with_context(|| format!("{id} was published, and is missing"))?;
        let sold = confirmed.get(id).copied().unwrap_or(0);
        ensure!(movie["qty"] == json!(stock - sold), "{stock} - {sold} tickets: {movie}");
        ensure!(movie["movieName"] == json!(ledger.names[id]), "{:?}: {movie}", ledger.names[id]);
    }
    Ok(())
}

/// The distinct events of a log, without its malformed records.
fn distinct_events(log: &[Entry], about: fn(&Value) -> String) -> anyhow::Result<BTreeSet<(String, String)>> {
    log::distinct_events(log.iter().filter(|entry| !is_malformed(entry)), about)
}

/// The events of each reservation match its outcome, and each event has one identity.
fn events_match_outcomes(log: &[Entry], reservations: &HashMap<Uuid, Value>) -> anyhow::Result<()> {
    let mut events: HashMap<String, BTreeSet<String>> = HashMap::new();
    for (reservation, event) in distinct_events(log, |event| text(&event["reservationId"]))? {
        events.entry(reservation).or_default().insert(event);
    }
    ensure!(
        events.len() == reservations.len(),
        "{} reservations, events of {}",
        reservations.len(),
        events.len()
    );
    for (id, row) in reservations {
        let events = events.get(&id.to_string()).with_context(|| format!("no event of {id}"))?;
        let has = |event: &str| events.contains(event);
        let matches = match row["reserveStatus"].as_str() {
            // One that was confirmed before it was cancelled has both events.
            Some("CANCELLED") => has("ReservationCancelled"),
            _ => has("ReservationConfirmed") && !has("ReservationCancelled"),
        };
        ensure!(matches && has("ReservationPlaced"), "{events:?}: {row}");
    }
    Ok(())
}

/// Each event of a movie has one identity, by the movie's version and by the call or reservation that it answers.
fn each_event_has_one_identity(log: &[Entry]) -> anyhow::Result<()> {
    distinct_events(log, |event| {
        let version =
            if event["eventType"] == "AllocationRejected" { &Value::Null } else { &event["version"] };
        format!("{} {version} of {}", text(&event["reservationId"]), text(&event["movieId"]))
    })?;
    distinct_events(log, |event| match event["eventType"].as_str() {
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

fn is_malformed(entry: &Entry) -> bool {
    entry.value.as_deref().is_some_and(|value| value.starts_with(MALFORMED))
}

/// Every malformed record has one dead letter of each consumer of its topic, and there are no others.
fn malformed_are_dead_lettered(
    topics: &[(&str, &[Entry])],
    dead_letters: &[Entry],
    ledger: &Ledger,
) -> anyhow::Result<()> {
    let header = |letter: &Entry, name: &str| letter.header(name).unwrap_or_default();
    let found: BTreeSet<_> = dead_letters
        .iter()
        .map(|letter| {
            let topic = header(letter, "dlq_topic");
            let name = topic.rsplit('.').next().unwrap_or_default().to_owned();
            let location = [header(letter, "dlq_partition"), header(letter, "dlq_offset")].join("/");
            (header(letter, "dlq_consumer"), name, location)
        })
        .collect();
    let (mut expected, mut malformed) = (BTreeSet::new(), 0);
    for (topic, log) in topics {
        let consumers: &[&str] = if *topic == "movies" {
            &["reservation"]
        } else {
            &["movie", "notification", "reservation-list"]
        };
        for entry in log.iter().filter(|entry| is_malformed(entry)) {
            malformed += 1;
            let location = format!("{}/{}", entry.partition, entry.offset);
            expected.extend(
                consumers
                    .iter()
                    .map(|consumer| ((*consumer).to_owned(), (*topic).to_owned(), location.clone())),
            );
        }
    }
    ensure!(
        malformed == ledger.malformed_records,
        "{malformed} malformed records of {}",
        ledger.malformed_records
    );
    let missing: Vec<_> = expected.difference(&found).collect();
    let unexpected: Vec<_> = found.difference(&expected).collect();
    ensure!(
        missing.is_empty() && unexpected.is_empty(),
        "dead letters missing: {missing:?}, unexpected: {unexpected:?}"
    );
    Ok(())
}

/// Every e-mail is sent. E-mails that a killed process had claimed are due again when their lease expires, so the check
/// ends all leases now.
async fn all_mails_are_sent(config: &TheaterConfig) -> anyhow::Result<()> {
    let mut database = PgConnection::connect(&config.notification_url).await?;
    sqlx::query("update email set due_at = clock_timestamp() where state = 'PENDING'")
        .execute(&mut database)
        .await?;
    eventually("every e-mail is sent", REST, async || {
        let waiting =
            checks::count_rows(&config.notification_url, "select count(*) from email where state <> 'SENT'");
        let waiting = waiting.await?;
        ensure!(waiting == 0, "{waiting} are not");
        Ok(())
    })
    .await
}
