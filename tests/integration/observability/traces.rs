//! The headers of the events: one trace id in all of a saga's, and what caused each.
//!
//! The services are processes here, because a trace needs the telemetry that each sets up for itself.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use theater_tests::api::{Answer, reservation};
use theater_tests::fleet::Fleet;
use theater_tests::log::{self, Entry};
use theater_tests::theater::Stage;
use theater_tests::{Api, Environment, Setup, checks, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);

const GIVEN: &str = "0af7651916cd43dd8448eb211c80319c";
const LATER: &str = "11111111111111111111111111111111";

/// What caused an event: the one at this place of the saga, or an HTTP call.
type Cause = Option<usize>;

/// Events in the order in which they happened.
type Story = &'static [(&'static str, Cause)];

const CANCELLED_LATER: Story = &[
    ("ReservationPlaced", None),
    ("TicketsAllocated", Some(0)),
    ("ReservationConfirmed", Some(1)),
    ("ReservationCancelled", None),
    ("TicketsReleased", Some(3)),
];

const REJECTED: Story =
    &[("ReservationPlaced", None), ("AllocationRejected", Some(0)), ("ReservationCancelled", Some(1))];

pub(crate) async fn one_trace_covers_a_saga(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, ..Setup::default() };
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    let fleet = Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), stage, 1).await?;
    let api = &fleet.api;
    let movie = Uuid::now_v7();
    let given = format!("00-{GIVEN}-b7ad6b7169203331-01");
    let body = json!({"id": movie, "movieName": "LALALand", "qty": 10});
    traced(api, Method::POST, "/movies", &given, &body).await?;
    let path = format!("/movies/{movie}/tickets");
    traced(api, Method::POST, &path, &given, &json!({"count": 5})).await?;

    // A trace of the gateway's, of the client's, and of one who sends something else for a trace.
    let plain = api.reserve(movie, 4).await?;
    let [given_one, refused, broken] = [(); 3].map(|()| Uuid::now_v7());
    traced(api, Method::POST, "/reservations", &given, &reservation(given_one, movie, 4)).await?;
    traced(api, Method::POST, "/reservations", &given, &reservation(refused, movie, 100)).await?;
    let zeros = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
    traced(api, Method::POST, "/reservations", &zeros, &reservation(broken, movie, 1)).await?;
    for (id, status) in
        [(plain, "CONFIRMED"), (given_one, "CONFIRMED"), (refused, "CANCELLED"), (broken, "CONFIRMED")]
    {
        decided(api, id, status).await?;
    }
    // The cancellation belongs to the saga's trace, not to that of who cancels.
    let later = format!("00-{LATER}-b7ad6b7169203331-01");
    for id in [plain, given_one] {
        traced(api, Method::DELETE, &format!("/reservations/{id}"), &later, &Value::Null).await?;
    }
    checks::at_rest(&fleet.stage, SOON).await?;

    let mut entries = Vec::new();
    for topic in ["reservations", "movies"] {
        entries.extend(log::read(&fleet.stage.bootstrap, &format!("{}{topic}", fleet.stage.prefix)).await?);
    }
    let mut ids = HashSet::new();
    for entry in &entries {
        complete(entry, movie).with_context(|| format!("{:?}", entry.headers))?;
        ensure!(ids.insert(entry.header("ce_id")), "an id twice");
    }
    let traces = [
        saga(&entries, plain, CANCELLED_LATER)?,
        saga(&entries, given_one, CANCELLED_LATER)?,
        saga(&entries, refused, REJECTED)?,
        saga(&entries, broken, &CANCELLED_LATER[..3])?,
        catalogue(&entries, movie)?,
    ];
    ensure!(traces[1] == GIVEN && traces[2] == GIVEN && traces[4] == GIVEN, "{traces:?}");
    let own = [&traces[0], &traces[3]];
    ensure!(own[0] != own[1] && own.iter().all(|trace| *trace != GIVEN && *trace != LATER), "{traces:?}");
    fleet.stop().await
}

async fn traced(
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

async fn decided(api: &Api, id: Uuid, status: &str) -> anyhow::Result<()> {
    eventually("a reservation is decided", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == json!(status), "{reservation}");
        Ok(())
    })
    .await
}

/// Every header of the contract, once, and none besides.
fn complete(entry: &Entry, movie: Uuid) -> anyhow::Result<()> {
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
    ensure!(saga.and_then(Value::as_str) == Some(&header("correlation_id")?), "correlated otherwise");
    Ok(())
}

/// The one trace of a saga that went as told.
fn saga(entries: &[Entry], id: Uuid, story: Story) -> anyhow::Result<String> {
    let events = story
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
    for (event, (kind, cause)) in events.iter().zip(story) {
        ensure!(trace_id(event)? == first, "{kind} is of another trace than {}", story[0].0);
        let caused_by = cause.and_then(|cause| events[cause].header("ce_id"));
        let told = event.header("causation_id");
        ensure!(told == caused_by, "{kind} was caused by {told:?}, not {caused_by:?}");
    }
    Ok(first)
}

/// The one trace of the vendor's calls, which nothing but themselves has caused.
fn catalogue(entries: &[Entry], movie: Uuid) -> anyhow::Result<String> {
    let told: Vec<_> =
        entries.iter().filter(|entry| entry.header("correlation_id") == Some(movie.to_string())).collect();
    let kinds: Vec<_> = told.iter().map(|entry| entry.event_type()).collect();
    ensure!(kinds == ["MoviePublished", "TicketsAdded"], "{kinds:?}");
    ensure!(told.iter().all(|entry| entry.header("causation_id").is_none()), "caused by an event");
    ensure!(trace_id(told[0])? == trace_id(told[1])?);
    trace_id(told[0])
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
