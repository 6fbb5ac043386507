//! Records that are broken, and the dead letters that tell of them.

use std::collections::HashSet;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use theater_tests::log::{self, Entry};
use theater_tests::{Theater, records};
use uuid::Uuid;

use crate::look::metric;

/// Who reads the reservations.
pub(crate) const ALL: &[&str] = &["movie", "notification", "reservation-list"];
/// Who reads the movies.
pub(crate) const RESERVATION: &[&str] = &["reservation"];

/// A record, the groups that can't use it, and a part of what they say about it.
pub(crate) struct Bad {
    pub(crate) entry: Entry,
    pub(crate) refused_by: &'static [&'static str],
    pub(crate) error: &'static str,
}

impl Bad {
    pub(crate) fn new(
        key: Uuid,
        value: Vec<u8>,
        refused_by: &'static [&'static str],
        error: &'static str,
    ) -> Self {
        let mut entry = records::bare(&key.to_string(), &value);
        entry.headers = vec![
            ("ce_id".to_owned(), Some(Uuid::now_v7().to_string().into_bytes())),
            ("text".to_owned(), Some("ñ".into())),
            ("bytes".to_owned(), Some(vec![0xff, 0x00, 0xfe])),
            ("nothing".to_owned(), None),
        ];
        Self { entry, refused_by, error }
    }
}

/// What is wrong with any event, on any topic: changes made to a good one that no group may apply.
pub(crate) fn broken(key: Uuid, good: &Value, all: &'static [&'static str]) -> Vec<Bad> {
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event.to_string().into_bytes()
    };
    let mut missing = good.clone();
    missing.as_object_mut().map(|fields| fields.remove("count"));
    let no_json = [&[0xff, 0x00][..], b"{\"eventType\":"].concat();
    let mut bad = vec![
        Bad::new(key, no_json, all, "not a JSON object"),
        Bad::new(key, b"[1,2]".to_vec(), all, "not a JSON object"),
        Bad::new(key, Vec::new(), all, "not a JSON object"),
        Bad::new(key, with("eventType", json!(7)), all, "eventType"),
        Bad::new(key, missing.to_string().into_bytes(), all, "missing field `count`"),
        Bad::new(key, with("count", json!("one")), all, "at `count`: invalid type"),
        Bad::new(key, with("count", json!(-1)), all, "at `count`: must be at least 1, not -1"),
        Bad::new(key, with("movieId", json!("x")), all, "at `movieId`"),
        Bad::new(key, vec![b'x'; 1_000_000], all, "not a JSON object"),
        Bad::new(key, Vec::new(), all, "the record has no value"),
        Bad::new(key, b"no key".to_vec(), all, "not a JSON object"),
        Bad::new(key, with("eventType", json!("SeatsAssigned")), &[], ""),
    ];
    bad[9].entry.value = None;
    bad[10].entry.key = None;
    bad
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

/// The dead letters are exactly those that were expected, each with all of its record and its origin; and
/// the counts say so.
pub(crate) async fn letters(theater: &Theater, topic: &str, bad: &[Bad]) -> anyhow::Result<()> {
    let stage = &theater.stage;
    let topic = format!("{}{topic}", stage.prefix);
    let log = log::read(&stage.bootstrap, &topic).await?;
    let letters = log::read(&stage.bootstrap, &format!("{topic}.dlq")).await?;
    let mut expected = HashSet::new();
    for bad in bad {
        let same = |entry: &&Entry| Entry { offset: 0, ..(*entry).clone() } == bad.entry;
        let origin = log.iter().find(same).context("the record is not in the log")?;
        for group in bad.refused_by {
            expected.insert(((*group).to_owned(), origin.offset));
            let letter = letters.iter().find(|letter| place(letter) == ((*group).to_owned(), origin.offset));
            let letter = letter.with_context(|| format!("{group} lacks a letter of {}", bad.error))?;
            holds(letter, &topic, origin, bad.error)?;
        }
    }
    let found: Vec<_> = letters.iter().map(place).collect();
    ensure!(found.len() == expected.len(), "{} letters instead of {expected:?}: {found:?}", found.len());

    let skipped = bad.iter().filter(|bad| bad.entry.json()["eventType"] == "SeatsAssigned").count();
    let readers = if topic.ends_with("movies") { RESERVATION } else { ALL };
    for service in readers {
        let port = theater.port(service);
        let dead = metric(port, "dead_letters_total", &topic).await?;
        let refused = expected.iter().filter(|(group, _)| group == service).count();
        ensure!(dead == refused as f64, "{service} counts {dead} dead letters of {refused}");
        let unknown = metric(port, "consumer_unknown_events_total", &topic).await?;
        ensure!(unknown == skipped as f64, "{service} counts {unknown} unknown events of {skipped}");
    }
    Ok(())
}

/// Whose letter it is, and of which offset.
pub(crate) fn place(letter: &Entry) -> (String, i64) {
    let header = |name: &str| letter.header(name).unwrap_or_default();
    (header("dlq_consumer"), header("dlq_offset").parse().unwrap_or(-1))
}

fn holds(letter: &Entry, topic: &str, origin: &Entry, error: &str) -> anyhow::Result<()> {
    ensure!(letter.key == origin.key && letter.value == origin.value, "another record: {letter:?}");
    ensure!(letter.headers.starts_with(&origin.headers), "headers: {:?}", letter.headers);
    let header = |name: &str| letter.header(name).unwrap_or_default();
    ensure!(header("dlq_error").contains(error), "{error} is not in {}", header("dlq_error"));
    ensure!(header("dlq_topic") == topic, "{}", header("dlq_topic"));
    ensure!(header("dlq_partition") == origin.partition.to_string(), "{}", header("dlq_partition"));
    Ok(())
}
