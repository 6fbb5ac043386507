//! Records that nobody can use, or not everybody, amid good ones in the same partition: the partition goes
//! on, and what is broken lies in the dead letters of each group that could not use it.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use theater_tests::log::{self, Entry};
use theater_tests::theater::Stage;
use theater_tests::{Environment, Setup, Theater, checks, eventually, records, topics};
use uuid::Uuid;

use crate::bad::{ALL, Bad, RESERVATION, allocated, broken, bytes, confirmed, letters, place, placed};
use crate::look::metric;
use crate::raw;

const SOON: Duration = Duration::from_secs(60);

/// One partition: all of it stands in one line.
fn setup() -> Setup {
    Setup { partitions: 1, deadline_secs: 300, ..Setup::default() }
}

pub(crate) async fn in_the_reservations(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let mut bad = broken(movie, &placed(Uuid::now_v7(), movie), ALL);
    let [first, second, large, lost] = [(); 4].map(|()| Uuid::now_v7());
    let unknown_movie = Uuid::now_v7();
    let told = |event: &Value, refused_by| Bad::new(movie, bytes(event), refused_by, "byte sequence");
    // Only the database finds these, and only that of whoever keeps the field.
    bad.push(told(&confirmed(first, movie, "Jane", "LA\0LA"), &["notification", "reservation-list"]));
    bad.push(told(&confirmed(second, movie, "Ja\0ne", "LALA"), &["notification"]));
    // Large, about a movie that isn't there, about a reservation that isn't: all of it can be used.
    bad.push(told(&confirmed(large, movie, &"J".repeat(1_000_000), "LALA"), &[]));
    bad.push(told(&placed(lost, unknown_movie), &[]));

    amid_good_traffic(&theater, movie, "reservations", &bad).await?;
    letters(&theater, "reservations", &bad).await?;

    let movies = log::read(&theater.stage.bootstrap, &format!("{}movies", theater.stage.prefix)).await?;
    let answer = movies.iter().map(Entry::json).find(|event| event["reservationId"] == json!(lost));
    ensure!(answer.context("no answer")?["reason"] == "MOVIE_NOT_FOUND");
    let unknown = metric(theater.port("reservation"), "reservation_unknown_replies_total", "").await?;
    ensure!(unknown == 1.0, "{unknown} replies about unknown reservations");
    let notified = theater.api.all(&format!("/notifications?reserveId={large}")).await?;
    ensure!(notified.len() == 1 && notified[0]["userName"].as_str().is_some_and(|name| name.len() > 900_000));
    theater.stop().await
}

pub(crate) async fn in_the_movies(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let mut bad = broken(movie, &allocated(Uuid::now_v7(), movie, "LALA"), RESERVATION);
    let forged = |name: &str| bytes(&allocated(Uuid::now_v7(), movie, name));
    let mut reason = allocated(Uuid::now_v7(), movie, "LALA");
    reason["eventType"] = json!("AllocationRejected");
    reason["reason"] = json!("BORED");
    bad.push(Bad::new(movie, bytes(&reason), RESERVATION, "at `reason`: unknown variant"));
    // About reservations that aren't there: skipped and counted, whatever else is in them.
    bad.push(Bad::new(movie, forged("LALA"), &[], ""));
    bad.push(Bad::new(movie, forged("LA\0LA"), &[], ""));
    bad.push(Bad::new(movie, forged(&"L".repeat(1_000_000)), &[], ""));

    amid_good_traffic(&theater, movie, "movies", &bad).await?;
    letters(&theater, "movies", &bad).await?;
    let unknown = metric(theater.port("reservation"), "reservation_unknown_replies_total", "").await?;
    ensure!(unknown == 3.0, "{unknown} replies about unknown reservations");
    theater.stop().await
}

/// Produces each record between reservations of the same partition; then everything good has been served,
/// and goes on being served.
async fn amid_good_traffic(theater: &Theater, movie: Uuid, topic: &str, bad: &[Bad]) -> anyhow::Result<()> {
    let producer = records::producer(&theater.stage.bootstrap)?;
    let topic = format!("{}{topic}", theater.stage.prefix);
    let mut good = Vec::new();
    for bad in bad {
        good.push(theater.api.reserve(movie, 1).await?);
        records::produce(&producer, &topic, &bad.entry).await?;
        good.push(theater.api.reserve(movie, 1).await?);
    }
    good.push(theater.api.reserve(movie, 1).await?);
    checks::at_rest(&theater.stage, SOON).await?;
    served(theater, &good).await?;
    let left = 1_000 - i64::try_from(good.len())?;
    ensure!(theater.api.left(movie).await? == left, "{left} should be left");
    Ok(())
}

/// Confirmed, notified once, listed.
async fn served(theater: &Theater, good: &[Uuid]) -> anyhow::Result<()> {
    let listed = theater.api.all("/reservationLists").await?;
    for id in good {
        let reservation = theater.api.reservation(*id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        let notified = theater.api.all(&format!("/notifications?reserveId={id}")).await?;
        ensure!(notified.len() == 1, "{id}: {notified:?}");
        let rows = listed.iter().filter(|row| row["reserveId"] == json!(id)).count();
        ensure!(rows == 1, "{id} is listed {rows} times");
    }
    Ok(())
}

/// What only a database refuses is found in a batch of good records.
pub(crate) async fn within_a_batch(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let producer = records::producer(&theater.stage.bootstrap)?;
    let [reservations, movies] =
        ["reservations", "movies"].map(|topic| format!("{}{topic}", theater.stage.prefix));
    for service in ALL {
        theater.stop_service(service).await?;
    }
    let mut good = reserve(&theater, movie, 40).await?;
    sent(&theater, &reservations, "ReservationPlaced", 40).await?;

    // For reservation, while it is away: answers that its database can't take, before the true ones.
    theater.stop_service("reservation").await?;
    let mut forged = Vec::new();
    for id in [good[3], good[20], good[39]] {
        let mut answer = allocated(id, movie, "LA\0LA");
        answer["eventType"] = json!("AllocationRejected");
        answer["reason"] = json!("OUT_OF_STOCK");
        forged.push(Bad::new(movie, bytes(&answer), RESERVATION, "byte sequence"));
        forged.push(Bad::new(movie, bytes(&json!({"eventType": "SeatsAssigned"})), &[], ""));
    }
    for bad in &forged {
        records::produce(&producer, &movies, &bad.entry).await?;
    }
    theater.start_again("movie").await?;
    sent(&theater, &movies, "TicketsAllocated", 40).await?;
    theater.start_again("reservation").await?;

    // For notification and reservation-list, while they are away: the like amid the confirmations.
    let mut told = Vec::new();
    for _ in 0..3 {
        sent(&theater, &reservations, "ReservationConfirmed", good.len() + told.len()).await?;
        let event = confirmed(Uuid::now_v7(), movie, "Jane", "LA\0LA");
        told.push(Bad::new(movie, bytes(&event), &["notification", "reservation-list"], "byte sequence"));
        records::produce(&producer, &reservations, &told[told.len() - 1].entry).await?;
        good.extend(reserve(&theater, movie, 20).await?);
    }
    sent(&theater, &reservations, "ReservationConfirmed", good.len() + told.len()).await?;
    theater.start_again("notification").await?;
    theater.start_again("reservation-list").await?;
    checks::at_rest(&theater.stage, SOON).await?;
    served(&theater, &good).await?;
    letters(&theater, "movies", &forged).await?;
    letters(&theater, "reservations", &told).await?;
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}

async fn reserve(theater: &Theater, movie: Uuid, count: usize) -> anyhow::Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(theater.api.reserve(movie, 1).await?);
    }
    Ok(ids)
}

/// Waits until the log holds so many of an event.
async fn sent(theater: &Theater, topic: &str, event: &str, count: usize) -> anyhow::Result<()> {
    eventually("they are sent", SOON, async || {
        let log = log::read(&theater.stage.bootstrap, topic).await?;
        let sent = log.iter().filter(|entry| entry.event_type() == event).count();
        ensure!(sent == count, "{sent} of {count} {event}");
        Ok(())
    })
    .await
}

/// No client makes such a record, and Kafka's own ones can't read it.
pub(crate) async fn a_header_whose_name_is_not_text(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let stage = &theater.stage;
    let topic = format!("{}reservations", stage.prefix);
    let mut good = reserve(&theater, movie, 1).await?;
    let (key, value) = (movie.to_string(), bytes(&placed(Uuid::now_v7(), movie)));
    let headers: [(&[u8], &[u8]); 3] = [(b"ce_id", b"7"), (b"na\xffme", b"x"), (b"text", b"y")];
    let offset = raw::produce(&stage.bootstrap, &topic, key.as_bytes(), &value, &headers).await?;
    good.extend(reserve(&theater, movie, 2).await?);
    eventually("the good ones are served", SOON, async || served(&theater, &good).await).await?;
    let letters = eventually("three letters", SOON, async || {
        let letters = log::read(&stage.bootstrap, &format!("{topic}.dlq")).await?;
        ensure!(letters.len() == 3, "{letters:?}");
        Ok(letters)
    })
    .await?;
    for (header, values) in [
        ("dlq_consumer", ALL.to_vec()),
        ("dlq_error", vec!["not a JSON object with a text `eventType`: a header's name is not UTF-8"; 3]),
        ("dlq_offset", vec![offset.to_string().as_str(); 3]),
    ] {
        let mut found: Vec<_> = letters.iter().filter_map(|letter| letter.header(header)).collect();
        found.sort();
        ensure!(found == values, "{header}: {found:?} instead of {values:?}");
    }
    for letter in letters {
        ensure!(letter.key == Some(key.clone().into_bytes()) && letter.value.as_ref() == Some(&value));
        let kept = [("ce_id", "7"), ("text", "y")].map(|(name, value)| (name.to_owned(), Some(value.into())));
        ensure!(letter.headers.starts_with(&kept), "the readable headers: {:?}", letter.headers);
    }
    theater.stop().await
}

/// Another program's transactions: their markers take offsets that nobody sees, and what was aborted is
/// not there.
pub(crate) async fn behind_the_markers_of_transactions(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let stage = &theater.stage;
    let topic = format!("{}reservations", stage.prefix);
    let producer = records::transactional(&stage.bootstrap, &stage.prefix).await?;
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for commits in [true, false, false, true] {
        good.extend(reserve(&theater, movie, 2).await?);
        let letters = if commits { ALL } else { &[] };
        let broken = Bad::new(movie, b"no event".to_vec(), letters, "not a JSON object");
        records::in_a_transaction(&producer, &topic, &broken.entry, commits).await?;
        bad.extend(commits.then_some(broken));
        good.extend(reserve(&theater, movie, 2).await?);
    }
    eventually("the good ones are served", SOON, async || served(&theater, &good).await).await?;
    eventually("the letters are there", SOON, async || letters(&theater, "reservations", &bad).await).await?;
    checks::invariants(stage, &theater.api).await?;
    theater.stop().await
}

/// A topic of dead letters that somebody made too narrow: those that fit are whole.
pub(crate) async fn over_the_limit_of_its_topic(environment: &Environment) -> anyhow::Result<()> {
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup()).await?;
    let topic = format!("{}reservations", stage.prefix);
    let narrow = format!("{topic}.dlq");
    topics::create(&stage.bootstrap, &narrow, &[("max.message.bytes", "2000")]).await?;
    let theater = Theater::start_on(stage, 1).await?;
    let stage = &theater.stage;
    let movie = theater.api.publish(100).await?;
    let producer = records::producer(&stage.bootstrap)?;
    for length in [100, 100_000, 200] {
        let record = records::bare(&movie.to_string(), &vec![b'x'; length]);
        records::produce(&producer, &topic, &record).await?;
    }
    theater.api.reserve(movie, 1).await?;
    checks::at_rest(stage, SOON).await?;
    checks::invariants(stage, &theater.api).await?;
    let letters = log::read(&stage.bootstrap, &narrow).await?;
    // At least once: what was sent beside the one that was refused may be sent again.
    let mut places: Vec<_> = letters.iter().map(place).collect();
    places.sort();
    places.dedup();
    ensure!(places.len() == 9, "letters of {places:?}");
    for letter in letters {
        let length = letter.value.as_ref().map(Vec::len);
        let cut = letter.header("dlq_value_cut_bytes");
        let whole = matches!(length, Some(100 | 200)) && cut.is_none();
        ensure!(whole || length.is_none() && cut.as_deref() == Some("100000"), "{length:?}, cut {cut:?}");
    }
    theater.stop().await
}
