//! Records that no consumer can use, or not every consumer, between valid ones of the same partition. The consumers go
//! on with the partition, and the record becomes a dead letter of each consumer that could not use it.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use theater_tests::log::{self, Entry};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Environment, Setup, Theater, checks, eventually, records, topics};
use uuid::Uuid;

use crate::malformed_records::{
    MOVIE_CONSUMERS, MalformedRecord, RESERVATION_CONSUMERS, allocated, bytes, confirmed,
    consumer_and_offset, expect_dead_letters, malformed, placed,
};
use crate::snapshot::metric;
use crate::wire_protocol;

const SOON: Duration = Duration::from_secs(60);

/// One partition, so that all records are in one order.
fn setup() -> Setup {
    Setup { partitions: 1, deadline_secs: 300, ..Setup::default() }
}

pub(crate) async fn in_the_reservations_topic(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let mut unusable = malformed(movie, &placed(Uuid::now_v7(), movie), RESERVATION_CONSUMERS);
    let [first, second, large, of_unknown_movie] = [(); 4].map(|()| Uuid::now_v7());
    let unknown_movie = Uuid::now_v7();
    let record =
        |event: &Value, consumers| MalformedRecord::new(movie, bytes(event), consumers, "byte sequence");
    // Only a database refuses NUL, and only in the services that store the field.
    unusable.push(record(&confirmed(first, movie, "Jane", "LA\0LA"), &["notification", "reservation-list"]));
    unusable.push(record(&confirmed(second, movie, "Ja\0ne", "LALA"), &["notification"]));
    // These can be used: a large event, one of an unknown reservation, and one of an unknown movie.
    unusable.push(record(&confirmed(large, movie, &"J".repeat(1_000_000), "LALA"), &[]));
    unusable.push(record(&placed(of_unknown_movie, unknown_movie), &[]));

    produce_between_reservations(&theater, movie, "reservations", &unusable).await?;
    expect_dead_letters(&theater, "reservations", &unusable).await?;

    let movies = log::read(&theater.config.bootstrap, &format!("{}movies", theater.config.prefix)).await?;
    let reply =
        movies.iter().map(Entry::json).find(|event| event["reservationId"] == json!(of_unknown_movie));
    ensure!(reply.context("no reply")?["reason"] == "MOVIE_NOT_FOUND");
    let unknown = metric(theater.port("reservation"), "reservation_unknown_replies_total", "").await?;
    ensure!(unknown == 1.0, "{unknown} replies about unknown reservations");
    let notified = theater.api.list_all(&format!("/notifications?reserveId={large}")).await?;
    ensure!(notified.len() == 1 && notified[0]["userName"].as_str().is_some_and(|name| name.len() > 900_000));
    theater.stop().await
}

pub(crate) async fn in_the_movies_topic(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let mut unusable = malformed(movie, &allocated(Uuid::now_v7(), movie, "LALA"), MOVIE_CONSUMERS);
    let forged = |name: &str| bytes(&allocated(Uuid::now_v7(), movie, name));
    let mut reason = allocated(Uuid::now_v7(), movie, "LALA");
    reason["eventType"] = json!("AllocationRejected");
    reason["reason"] = json!("BORED");
    unusable.push(MalformedRecord::new(
        movie,
        bytes(&reason),
        MOVIE_CONSUMERS,
        "at `reason`: unknown variant",
    ));
    // Replies to unknown reservations are skipped and counted, even if the database would refuse them.
    unusable.push(MalformedRecord::new(movie, forged("LALA"), &[], ""));
    unusable.push(MalformedRecord::new(movie, forged("LA\0LA"), &[], ""));
    unusable.push(MalformedRecord::new(movie, forged(&"L".repeat(1_000_000)), &[], ""));

    produce_between_reservations(&theater, movie, "movies", &unusable).await?;
    expect_dead_letters(&theater, "movies", &unusable).await?;
    let unknown = metric(theater.port("reservation"), "reservation_unknown_replies_total", "").await?;
    ensure!(unknown == 3.0, "{unknown} replies about unknown reservations");
    theater.stop().await
}

/// Produces each record between reservations of the same partition. Every reservation must be confirmed, also the last
/// one, which comes after all records.
async fn produce_between_reservations(
    theater: &Theater,
    movie: Uuid,
    topic: &str,
    unusable: &[MalformedRecord],
) -> anyhow::Result<()> {
    let producer = records::producer(&theater.config.bootstrap)?;
    let topic = format!("{}{topic}", theater.config.prefix);
    let mut placed_ids = Vec::new();
    for record in unusable {
        placed_ids.push(theater.api.reserve(movie, 1).await?);
        records::produce(&producer, &topic, &record.entry).await?;
        placed_ids.push(theater.api.reserve(movie, 1).await?);
    }
    placed_ids.push(theater.api.reserve(movie, 1).await?);
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    all_confirmed(theater, &placed_ids).await?;
    let left = 1_000 - i64::try_from(placed_ids.len())?;
    ensure!(theater.api.tickets_left(movie).await? == left, "{left} should be left");
    Ok(())
}

/// Each reservation is confirmed, notified once and listed once.
async fn all_confirmed(theater: &Theater, reservations: &[Uuid]) -> anyhow::Result<()> {
    let listed = theater.api.list_all("/reservationLists").await?;
    for id in reservations {
        let reservation = theater.api.reservation(*id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        let notified = theater.api.list_all(&format!("/notifications?reserveId={id}")).await?;
        ensure!(notified.len() == 1, "{id}: {notified:?}");
        let rows = listed.iter().filter(|row| row["reserveId"] == json!(id)).count();
        ensure!(rows == 1, "{id} is listed {rows} times");
    }
    Ok(())
}

/// In a batch of valid records, the consumer finds the one that only the database refuses.
pub(crate) async fn one_record_within_a_batch(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let producer = records::producer(&theater.config.bootstrap)?;
    let [reservations, movies] =
        ["reservations", "movies"].map(|topic| format!("{}{topic}", theater.config.prefix));
    for service in RESERVATION_CONSUMERS {
        theater.stop_service(service).await?;
    }
    let mut placed_ids = reserve(&theater, movie, 40).await?;
    wait_for_events(&theater, &reservations, "ReservationPlaced", 40).await?;

    // While reservation is stopped: forged replies that its database refuses, before the real ones.
    theater.stop_service("reservation").await?;
    let mut forged_replies = Vec::new();
    for id in [placed_ids[3], placed_ids[20], placed_ids[39]] {
        let mut reply = allocated(id, movie, "LA\0LA");
        reply["eventType"] = json!("AllocationRejected");
        reply["reason"] = json!("OUT_OF_STOCK");
        forged_replies.push(MalformedRecord::new(movie, bytes(&reply), MOVIE_CONSUMERS, "byte sequence"));
        let unknown = bytes(&json!({"eventType": "SeatsAssigned"}));
        forged_replies.push(MalformedRecord::new(movie, unknown, &[], ""));
    }
    for record in &forged_replies {
        records::produce(&producer, &movies, &record.entry).await?;
    }
    theater.restart_service("movie").await?;
    wait_for_events(&theater, &movies, "TicketsAllocated", 40).await?;
    theater.restart_service("reservation").await?;

    // While notification and reservation-list are stopped: such events between the real confirmations.
    let mut forged_confirmations = Vec::new();
    for _ in 0..3 {
        wait_for_events(
            &theater,
            &reservations,
            "ReservationConfirmed",
            placed_ids.len() + forged_confirmations.len(),
        )
        .await?;
        let event = confirmed(Uuid::now_v7(), movie, "Jane", "LA\0LA");
        forged_confirmations.push(MalformedRecord::new(
            movie,
            bytes(&event),
            &["notification", "reservation-list"],
            "byte sequence",
        ));
        records::produce(
            &producer,
            &reservations,
            &forged_confirmations[forged_confirmations.len() - 1].entry,
        )
        .await?;
        placed_ids.extend(reserve(&theater, movie, 20).await?);
    }
    wait_for_events(
        &theater,
        &reservations,
        "ReservationConfirmed",
        placed_ids.len() + forged_confirmations.len(),
    )
    .await?;
    theater.restart_service("notification").await?;
    theater.restart_service("reservation-list").await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    all_confirmed(&theater, &placed_ids).await?;
    expect_dead_letters(&theater, "movies", &forged_replies).await?;
    expect_dead_letters(&theater, "reservations", &forged_confirmations).await?;
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}

async fn reserve(theater: &Theater, movie: Uuid, count: usize) -> anyhow::Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(theater.api.reserve(movie, 1).await?);
    }
    Ok(ids)
}

/// Waits until the topic contains this many events of the type.
async fn wait_for_events(theater: &Theater, topic: &str, event: &str, count: usize) -> anyhow::Result<()> {
    eventually("they are sent", SOON, async || {
        let log = log::read(&theater.config.bootstrap, topic).await?;
        let sent = log.iter().filter(|entry| entry.event_type() == event).count();
        ensure!(sent == count, "{sent} of {count} {event}");
        Ok(())
    })
    .await
}

/// No Kafka client writes such a record, and Kafka's own clients can't read it.
pub(crate) async fn a_header_name_that_is_not_text(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let config = &theater.config;
    let topic = format!("{}reservations", config.prefix);
    let mut placed_ids = reserve(&theater, movie, 1).await?;
    let (key, value) = (movie.to_string(), bytes(&placed(Uuid::now_v7(), movie)));
    let headers: [(&[u8], &[u8]); 3] = [(b"ce_id", b"7"), (b"na\xffme", b"x"), (b"text", b"y")];
    let offset = wire_protocol::produce(&config.bootstrap, &topic, key.as_bytes(), &value, &headers).await?;
    placed_ids.extend(reserve(&theater, movie, 2).await?);
    eventually("the valid ones are confirmed", SOON, async || all_confirmed(&theater, &placed_ids).await)
        .await?;
    let dead_letters = eventually("three dead letters", SOON, async || {
        let dead_letters = log::read(&config.bootstrap, &format!("{topic}.dlq")).await?;
        ensure!(dead_letters.len() == 3, "{dead_letters:?}");
        Ok(dead_letters)
    })
    .await?;
    for (header, values) in [
        ("dlq_consumer", RESERVATION_CONSUMERS.to_vec()),
        ("dlq_error", vec!["not a JSON object with a text `eventType`: a header's name is not UTF-8"; 3]),
        ("dlq_offset", vec![offset.to_string().as_str(); 3]),
    ] {
        let mut found: Vec<_> = dead_letters.iter().filter_map(|letter| letter.header(header)).collect();
        found.sort();
        ensure!(found == values, "{header}: {found:?} instead of {values:?}");
    }
    for letter in dead_letters {
        ensure!(letter.key == Some(key.clone().into_bytes()) && letter.value.as_ref() == Some(&value));
        let readable =
            [("ce_id", "7"), ("text", "y")].map(|(name, value)| (name.to_owned(), Some(value.into())));
        ensure!(letter.headers.starts_with(&readable), "the readable headers: {:?}", letter.headers);
    }
    theater.stop().await
}

/// Another program writes in transactions. Their markers take offsets that no consumer sees, and aborted records are not
/// delivered.
pub(crate) async fn after_transaction_markers(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let movie = theater.api.publish(1_000).await?;
    let config = &theater.config;
    let topic = format!("{}reservations", config.prefix);
    let producer = records::transactional_producer(&config.bootstrap, &config.prefix).await?;
    let mut placed_ids = Vec::new();
    let mut unusable = Vec::new();
    for commits in [true, false, false, true] {
        placed_ids.extend(reserve(&theater, movie, 2).await?);
        let consumers = if commits { RESERVATION_CONSUMERS } else { &[] };
        let record = MalformedRecord::new(movie, b"no event".to_vec(), consumers, "not a JSON object");
        records::produce_in_transaction(&producer, &topic, &record.entry, commits).await?;
        unusable.extend(commits.then_some(record));
        placed_ids.extend(reserve(&theater, movie, 2).await?);
    }
    eventually("the valid ones are confirmed", SOON, async || all_confirmed(&theater, &placed_ids).await)
        .await?;
    eventually("the dead letters are sent", SOON, async || {
        expect_dead_letters(&theater, "reservations", &unusable).await
    })
    .await?;
    checks::invariants(config, &theater.api).await?;
    theater.stop().await
}

/// A dead-letter topic with a smaller `max.message.bytes` than the records need: dead letters that fit stay whole, larger
/// ones are truncated.
pub(crate) async fn dead_letters_over_the_limit_of_their_topic(
    environment: &Environment,
) -> anyhow::Result<()> {
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup()).await?;
    let topic = format!("{}reservations", config.prefix);
    let dlq = format!("{topic}.dlq");
    topics::create(&config.bootstrap, &dlq, &[("max.message.bytes", "2000")]).await?;
    let theater = Theater::start_with(config, 1).await?;
    let config = &theater.config;
    let movie = theater.api.publish(100).await?;
    let producer = records::producer(&config.bootstrap)?;
    for length in [100, 100_000, 200] {
        let record = records::without_headers(&movie.to_string(), &vec![b'x'; length]);
        records::produce(&producer, &topic, &record).await?;
    }
    theater.api.reserve(movie, 1).await?;
    checks::wait_until_at_rest(config, SOON).await?;
    checks::invariants(config, &theater.api).await?;
    let dead_letters = log::read(&config.bootstrap, &dlq).await?;
    // Dead letters that were sent together with a refused one may be sent again.
    let mut origins: Vec<_> = dead_letters.iter().map(consumer_and_offset).collect();
    origins.sort();
    origins.dedup();
    ensure!(origins.len() == 9, "dead letters of {origins:?}");
    for letter in dead_letters {
        let length = letter.value.as_ref().map(Vec::len);
        let truncated = letter.header("dlq_value_cut_bytes");
        let whole = matches!(length, Some(100 | 200)) && truncated.is_none();
        ensure!(
            whole || length.is_none() && truncated.as_deref() == Some("100000"),
            "{length:?}, truncated {truncated:?}"
        );
    }
    theater.stop().await
}
