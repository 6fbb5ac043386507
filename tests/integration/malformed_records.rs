//! Records that some consumer cannot use, and the dead letters that they become.

use std::collections::HashSet;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use theater_tests::log::{self, Entry};
use theater_tests::{Theater, records};
use uuid::Uuid;

use crate::snapshot::metric;

/// The consumers of the reservations topic.
pub(crate) const RESERVATION_CONSUMERS: &[&str] = &["movie", "notification", "reservation-list"];
/// The consumer of the movies topic.
pub(crate) const MOVIE_CONSUMERS: &[&str] = &["reservation"];

/// A record, the consumers that dead-letter it, and a part of the error that they state.
pub(crate) struct MalformedRecord {
    pub(crate) entry: Entry,
    pub(crate) dead_lettered_by: &'static [&'static str],
    pub(crate) error: &'static str,
}

impl MalformedRecord {
    pub(crate) fn new(
        key: Uuid,
        value: Vec<u8>,
        dead_lettered_by: &'static [&'static str],
        error: &'static str,
    ) -> Self {
        let mut entry = records::without_headers(&key.to_string(), &value);
        entry.headers = vec![
            ("ce_id".to_owned(), Some(Uuid::now_v7().to_string().into_bytes())),
            ("text".to_owned(), Some("ñ".into())),
            ("bytes".to_owned(), Some(vec![0xff, 0x00, 0xfe])),
            ("nothing".to_owned(), None),
        ];
        Self { entry, dead_lettered_by, error }
    }
}

/// Changes to a valid event that make it unusable for all consumers of its topic, and one of an unknown type, which they
/// skip.
pub(crate) fn malformed(key: Uuid, valid: &Value, all: &'static [&'static str]) -> Vec<MalformedRecord> {
    let with = |field: &str, value: Value| {
        let mut event = valid.clone();
        event[field] = value;
        event.to_string().into_bytes()
    };
    let mut missing = valid.clone();
    missing.as_object_mut().map(|fields| fields.remove("count"));
    let invalid_json = [&[0xff, 0x00][..], b"{\"eventType\":"].concat();
    let mut records = vec![
        MalformedRecord::new(key, invalid_json, all, "not a JSON object"),
        MalformedRecord::new(key, b"[1,2]".to_vec(), all, "not a JSON object"),
        MalformedRecord::new(key, Vec::new(), all, "not a JSON object"),
        MalformedRecord::new(key, with("eventType", json!(7)), all, "eventType"),
        MalformedRecord::new(key, missing.to_string().into_bytes(), all, "missing field `count`"),
        MalformedRecord::new(key, with("count", json!("one")), all, "at `count`: invalid type"),
        MalformedRecord::new(key, with("count", json!(-1)), all, "at `count`: must be at least 1, not -1"),
        MalformedRecord::new(key, with("movieId", json!("x")), all, "at `movieId`"),
        MalformedRecord::new(key, vec![b'x'; 1_000_000], all, "not a JSON object"),
        MalformedRecord::new(key, Vec::new(), all, "the record has no value"),
        MalformedRecord::new(key, b"no key".to_vec(), all, "not a JSON object"),
        MalformedRecord::new(key, with("eventType", json!("SeatsAssigned")), &[], ""),
    ];
    records[9].entry.value = None;
    records[10].entry.key = None;
    records
}

pub(crate) fn placed(reservation: Uuid, movie: Uuid) -> Value {
    json!({"eventType": "ReservationPlaced", "timestamp": "2026-11-21T09:20:00.123Z",
           "reservationId": reservation, "movieId": movie, "userId": "7", "userName": "Jane", "count": 1,
           "date": "2026-12-24"})
}

pub(crate) fn confirmed(reservation: Uuid, movie: Uuid, user_name: &str, movie_name: &str) -> Value {
    let mut event = placed(reservation, movie);
    event["eventType"] = json!("ReservationConfirmed");
    event["userName"] = json!(user_name);
    event["movieName"] = json!(movie_name);
    event
}

pub(crate) fn allocated(reservation: Uuid, movie: Uuid, movie_name: &str) -> Value {
    json!({"eventType": "TicketsAllocated", "timestamp": "2026-11-21T09:20:00.123Z",
           "reservationId": reservation, "movieId": movie, "movieName": movie_name, "count": 1, "qty": 1,
           "version": 2})
}

pub(crate) fn bytes(event: &Value) -> Vec<u8> {
    event.to_string().into_bytes()
}

/// The dead letters of a topic are exactly those of these records, each with its whole record and its origin, and the
/// services' counters agree.
pub(crate) async fn expect_dead_letters(
    theater: &Theater,
    topic: &str,
    malformed: &[MalformedRecord],
) -> anyhow::Result<()> {
    let config = &theater.config;
    let topic = format!("{}{topic}", config.prefix);
    let log = log::read(&config.bootstrap, &topic).await?;
    let dead_letters = log::read(&config.bootstrap, &format!("{topic}.dlq")).await?;
    let mut expected = HashSet::new();
    for record in malformed {
        let same = |entry: &&Entry| Entry { offset: 0, ..(*entry).clone() } == record.entry;
        let origin = log.iter().find(same).context("the record is not in the log")?;
        for group in record.dead_lettered_by {
            expected.insert(((*group).to_owned(), origin.offset));
            let letter = dead_letters
                .iter()
                .find(|letter| consumer_and_offset(letter) == ((*group).to_owned(), origin.offset));
            let letter =
                letter.with_context(|| format!("{group} lacks a dead letter of {}", record.error))?;
            matches(letter, &topic, origin, record.error)?;
        }
    }
    let found: Vec<_> = dead_letters.iter().map(consumer_and_offset).collect();
    ensure!(found.len() == expected.len(), "{} dead letters instead of {expected:?}: {found:?}", found.len());

    let skipped =
        malformed.iter().filter(|record| record.entry.json()["eventType"] == "SeatsAssigned").count();
    let consumers = if topic.ends_with("movies") { MOVIE_CONSUMERS } else { RESERVATION_CONSUMERS };
    for service in consumers {
        let port = theater.port(service);
        let dead = metric(port, "dead_letters_total", &topic).await?;
        let dead_lettered = expected.iter().filter(|(group, _)| group == service).count();
        ensure!(dead == dead_lettered as f64, "{service} counts {dead} dead letters of {dead_lettered}");
        let unknown = metric(port, "consumer_unknown_events_total", &topic).await?;
        ensure!(unknown == skipped as f64, "{service} counts {unknown} unknown events of {skipped}");
    }
    Ok(())
}

/// The consumer that wrote a dead letter, and the offset of its record.
pub(crate) fn consumer_and_offset(letter: &Entry) -> (String, i64) {
    let header = |name: &str| letter.header(name).unwrap_or_default();
    (header("dlq_consumer"), header("dlq_offset").parse().unwrap_or(-1))
}

fn matches(letter: &Entry, topic: &str, origin: &Entry, error: &str) -> anyhow::Result<()> {
    ensure!(letter.key == origin.key && letter.value == origin.value, "another record: {letter:?}");
    ensure!(letter.headers.starts_with(&origin.headers), "headers: {:?}", letter.headers);
    let header = |name: &str| letter.header(name).unwrap_or_default();
    ensure!(header("dlq_error").contains(error), "{error} is not in {}", header("dlq_error"));
    ensure!(header("dlq_topic") == topic, "{}", header("dlq_topic"));
    ensure!(header("dlq_partition") == origin.partition.to_string(), "{}", header("dlq_partition"));
    Ok(())
}
