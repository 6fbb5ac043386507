//! The headers of events: all events of a saga have one trace id, and each names the event that caused it.
//!
//! The services run as processes here, because each must set up its own telemetry.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use theater_tests::api::{Answer, reservation};
use theater_tests::fleet::Fleet;
use theater_tests::log::{self, Entry};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Environment, Setup, checks, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);

const CLIENT_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CANCELLING_TRACE: &str = "11111111111111111111111111111111";

/// The index of the event that caused an event, or `None` for an HTTP call.
type Cause = Option<usize>;

/// The events of a saga in causal order.
type ExpectedEvents = &'static [(&'static str, Cause)];

const CANCELLED_LATER: ExpectedEvents = &[
    ("ReservationPlaced", None),
    ("TicketsAllocated", Some(0)),
    ("ReservationConfirmed", Some(1)),
    ("ReservationCancelled", None),
    ("TicketsReleased", Some(3)),
];

const REJECTED: ExpectedEvents =
    &[("ReservationPlaced", None), ("AllocationRejected", Some(0)), ("ReservationCancelled", Some(1))];

pub(crate) async fn one_trace_covers_a_saga(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, ..Setup::default() };
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    let fleet = Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), config, 1).await?;
    let api = &fleet.api;
    let movie = Uuid::now_v7();
    let given = format!("00-{CLIENT_TRACE}-b7ad6b7169203331-01");
    let body = json!({"id": movie, "movieName": "LALALand", "qty": 10});
    send_traced(api, Method::POST, "/movies", &given, &body).await?;
    let path = format!("/movies/{movie}/tickets");
    send_traced(api, Method::POST, &path, &given, &json!({"count": 5})).await?;

    // A trace of the gateway, two of the client, and one where the client's `traceparent` is invalid.
    let untraced_id = api.reserve(movie, 4).await?;
    let [traced_id, refused, invalid_trace_id] = [(); 3].map(|()| Uuid::now_v7());
    send_traced(api, Method::POST, "/reservations", &given, &reservation(traced_id, movie, 4)).await?;
    send_traced(api, Method::POST, "/reservations", &given, &reservation(refused, movie, 100)).await?;
    let zeros = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
    send_traced(api, Method::POST, "/reservations", &zeros, &reservation(invalid_trace_id, movie, 1)).await?;
    for (id, status) in [
        (untraced_id, "CONFIRMED"),
        (traced_id, "CONFIRMED"),
        (refused, "CANCELLED"),
        (invalid_trace_id, "CONFIRMED"),
    ] {
        wait_for_status(api, id, status).await?;
    }
    // A cancellation belongs to the trace of its saga, not to the trace of the call that cancels.
    let later = format!("00-{CANCELLING_TRACE}-b7ad6b7169203331-01");
    for id in [untraced_id, traced_id] {
        send_traced(api, Method::DELETE, &format!("/reservations/{id}"), &later, &Value::Null).await?;
    }
    checks::wait_until_at_rest(&fleet.config, SOON).await?;

    let mut entries = Vec::new();
    for topic in ["reservations", "movies"] {
        entries.extend(log::read(&fleet.config.bootstrap, &format!("{}{topic}", fleet.config.prefix)).await?);
    }
    let mut ids = HashSet::new();
    for entry in &entries {
        expect_complete_headers(entry, movie).with_context(|| format!("{:?}", entry.headers))?;
        ensure!(ids.insert(entry.header("ce_id")), "a duplicate ce_id");
    }
    let traces = [
        saga_trace(&entries, untraced_id, CANCELLED_LATER)?,
        saga_trace(&entries, traced_id, CANCELLED_LATER)?,
        saga_trace(&entries, refused, REJECTED)?,
        saga_trace(&entries, invalid_trace_id, &CANCELLED_LATER[..3])?,
        catalogue_trace(&entries, movie)?,
    ];
    ensure!(
        traces[1] == CLIENT_TRACE && traces[2] == CLIENT_TRACE && traces[4] == CLIENT_TRACE,
        "{traces:?}"
    );
    let own = [&traces[0], &traces[3]];
    ensure!(
        own[0] != own[1] && own.iter().all(|trace| *trace != CLIENT_TRACE && *trace != CANCELLING_TRACE),
        "{traces:?}"
    );
    fleet.stop().await
}

async fn send_traced(
    api: &Api,
    method: Method,
    path: &str,
    traceparent: &str,
    body: &Value,
) -> anyhow::Result<Answer> {
    let mut request = api.request(method, path).header("traceparent", traceparent);
    if !body.is_null() {
        request = request.json(body);
    }
    let answer = Api::send(request).await?;
    ensure!(answer.status.is_success(), "{path}: {answer:?}");
    Ok(answer)
}

async fn wait_for_status(api: &Api, id: Uuid, status: &str) -> anyhow::Result<()> {
    eventually("a reservation is decided", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == json!(status), "{reservation}");
        Ok(())
    })
    .await
}

/// The record has every header of the contract once, and no other, with the right values.
fn expect_complete_headers(entry: &Entry, movie: Uuid) -> anyhow::Result<()> {
    let event = entry.json();
    let kind = entry.event_type();
    let header = |name: &str| entry.header(name).with_context(|| format!("no {name}"));
    let mut names: Vec<_> = entry.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.retain(|name| *name != "causation_id");
    names.sort_unstable();
    ensure!(
        names
            == [
                "ce_id",
                "ce_source",
                "ce_specversion",
                "ce_subject",
                "ce_time",
                "ce_type",
                "content-type",
                "correlation_id",
                "traceparent"
            ],
        "{names:?}"
    );
    ensure!(entry.key.as_deref() == Some(movie.to_string().as_bytes()), "the key is {:?}", entry.key);
    ensure!(header("ce_specversion")? == "1.0" && header("content-type")? == "application/json");
    Uuid::parse_str(&header("ce_id")?)?;
    let dashed: String = kind
        .chars()
        .flat_map(|letter| letter.is_uppercase().then_some('-').into_iter().chain(letter.to_lowercase()))
        .collect();
    ensure!(header("ce_type")? == format!("theater.{}.v1", &dashed[1..]));
    let of_reservation = kind.starts_with("Reservation");
    ensure!(header("ce_source")? == if of_reservation { "/reservation" } else { "/movie" });
    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let subject = if of_reservation { text("reservationId") } else { text("movieId") };
    ensure!(header("ce_subject")? == subject, "the subject is not {subject}");
    ensure!(header("ce_time")? == text("timestamp"), "the time is not {}", text("timestamp"));
    let saga = event.get("reservationId").or_else(|| event.get("movieId"));
    ensure!(saga.and_then(Value::as_str) == Some(&header("correlation_id")?), "another correlation_id");
    Ok(())
}

/// The trace id of a saga, which must have exactly the expected events and one trace.
fn saga_trace(entries: &[Entry], id: Uuid, expected: ExpectedEvents) -> anyhow::Result<String> {
    let events = expected
        .iter()
        .map(|(kind, _)| {
            let mut of = entries
                .iter()
                .filter(|entry| entry.event_type() == *kind && entry.json()["reservationId"] == json!(id));
            let event = of.next().with_context(|| format!("no {kind} of {id}"))?;
            ensure!(of.next().is_none(), "{kind} of {id} twice");
            Ok(event)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let of_saga = entries.iter().filter(|entry| entry.header("correlation_id") == Some(id.to_string()));
    ensure!(of_saga.count() == events.len(), "{id} has other events as well");
    let first = trace_id(events[0])?;
    for (event, (kind, cause)) in events.iter().zip(expected) {
        ensure!(trace_id(event)? == first, "{kind} is of another trace than {}", expected[0].0);
        let caused_by = cause.and_then(|cause| events[cause].header("ce_id"));
        let found = event.header("causation_id");
        ensure!(found == caused_by, "{kind} was caused by {found:?}, not {caused_by:?}");
    }
    Ok(first)
}

/// The trace id of the vendor's calls, whose events no other event has caused.
fn catalogue_trace(entries: &[Entry], movie: Uuid) -> anyhow::Result<String> {
    let events: Vec<_> =
        entries.iter().filter(|entry| entry.header("correlation_id") == Some(movie.to_string())).collect();
    let kinds: Vec<_> = events.iter().map(|entry| entry.event_type()).collect();
    ensure!(kinds == ["MoviePublished", "TicketsAdded"], "{kinds:?}");
    ensure!(events.iter().all(|entry| entry.header("causation_id").is_none()), "caused by an event");
    ensure!(trace_id(events[0])? == trace_id(events[1])?);
    trace_id(events[0])
}

/// The trace id of a valid `traceparent`: `00-<32>-<16>-<2>`, in lower case, neither id zero.
fn trace_id(entry: &Entry) -> anyhow::Result<String> {
    let text = entry.header("traceparent").context("no traceparent")?;
    let parts: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    let hex = parts.concat().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let valid = lengths == [2, 32, 16, 2] && parts[0] == "00" && hex;
    ensure!(valid && parts[1..3].iter().all(|id| id.bytes().any(|byte| byte != b'0')), "{text}");
    Ok(parts[1].to_owned())
}
