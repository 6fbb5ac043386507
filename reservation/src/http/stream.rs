//! `GET /reservations/{id}/events`: a reservation's status, live, as Server-Sent Events.
//!
//! The present status comes first, then each change. A stream holds a waiter and the reservation, nothing else: no event
//! is queued for a slow reader. It receives the furthest status later, without the statuses in between. An event's id is
//! the rank of its status, so a client that reconnects with `Last-Event-ID`, to any replica, receives newer ones only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName};
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::{Stream, stream};
use prometheus::{IntGauge, Registry};
use service_kit::http::Stopping;
use service_kit::http::openapi::schemas;
use service_kit::http::parameters;
use service_kit::http::problem::Problem;
use service_kit::messaging::waiters::{Progress, Waiter};
use shared_events::ReservationId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::Schema;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::dto::ReservationView;
use crate::reservation::{Reservation, Status};

/// The longest silence of a stream. A comment keeps proxies from closing the stream. A client that has disconnected is
/// noticed only by a write.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// After this time a stream ends. Its client reconnects by itself, to any replica.
const AGE_MAX: Duration = Duration::from_secs(600);

/// How long a client is told to wait before it reconnects.
const RETRY_MS: u32 = 2_000;

const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Keeps nginx from buffering small chunks.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Limits and counts the open streams of this process.
#[derive(Clone)]
pub struct Streams {
    permits: Arc<Semaphore>,
    streams_max: u32,
    open: IntGauge,
}

impl Streams {
    /// # Errors
    /// If the metric's name is taken.
    pub fn new(streams_max: u32, registry: &Registry) -> prometheus::Result<Self> {
        let open = IntGauge::new("event_streams_open", "Streams of events that clients follow")?;
        registry.register(Box::new(open.clone()))?;
        Ok(Self { permits: Arc::new(Semaphore::new(streams_max as usize)), streams_max, open })
    }

    fn open(&self) -> Result<StreamPermit, Problem> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit
            .map_err(|_| Problem::unavailable(format!("{} streams are open already", self.streams_max)))?;
        self.open.inc();
        Ok(StreamPermit { open: self.open.clone(), _permit: permit })
    }
}

/// The permit of one open stream, returned when dropped.
struct StreamPermit {
    open: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.open.dec();
    }
}

fn id_schema() -> Schema {
    schemas::described(
        "The last event that was seen: only newer ones are told",
        schemas::words(["", "0", "1", "2"]),
    )
}

/// What an EventSource sends when it comes back.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what last_event_id parses")]
struct LastEventId {
    #[param(rename = "Last-Event-ID", schema_with = id_schema, required = false)]
    id: Option<String>,
}

fn rank_schema() -> Schema {
    schemas::described("For `Last-Event-ID`", schemas::words(["0", "1", "2"]))
}

fn name_schema() -> Schema {
    schemas::words(["reservation"]).into()
}

/// An event of the stream.
#[derive(ToSchema)]
#[schema(as = ReservationEvent, example = json!({"event": "reservation", "id": "0", "data": "{…}"}))]
#[expect(dead_code, reason = "describes what the stream writes as text")]
struct EventView {
    #[schema(schema_with = name_schema)]
    event: String,
    #[schema(schema_with = rank_schema)]
    id: String,
    /// The reservation as it stands, in JSON
    data: String,
}

/// Follow a reservation live
///
/// Server-Sent Events, `event: reservation`: the present state first, then each change, until the final one. An
/// event's `data` is what `GET /reservations/{id}` shows, its `id` is for `Last-Event-ID`. A comment comes every 15 s,
/// and after 10 minutes the stream ends: come back.
#[utoipa::path(
    get, path = "/reservations/{id}/events", operation_id = "followReservation", tag = "reservations",
    params(("id" = Uuid, Path, description = "The reservation"), LastEventId),
    responses(
        (
            status = 200, description = "The stream: the schema is of each event", body = EventView,
            content_type = EVENT_STREAM,
        ),
        (status = 204, description = "The final state was seen: nothing is to come"),
        (status = 404, description = "There is no such reservation"),
    ),
)]
pub(super) async fn follow(
    api: web::Data<Api>,
    stopping: Stopping,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = ReservationId(parameters::path_id(&request, "id")?);
    let last_rank = last_event_id(request.headers())?;
    let permit = api.streams.open()?;
    // Subscribe before the reservation is read, so that no change between the two is missed.
    let waiter = api
        .unit_of_work
        .waiters
        .subscribe(id)
        .ok_or_else(|| Problem::unavailable("too many callers wait"))?;
    let reservation = api.find(id).await?;
    let rank = reservation.status.rank();
    match last_rank {
        Some(last_rank) if last_rank > rank => return Err(no_such_event()),
        // No further event comes. 204 tells an EventSource not to reconnect, by its standard.
        Some(Status::FINAL) => {
            return Ok(HttpResponse::NoContent().insert_header((CACHE_CONTROL, "no-store")).finish());
        }
        _ => {}
    }
    let events = EventStream::new(reservation, last_rank, waiter, permit, stopping.0);
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, EVENT_STREAM))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((X_ACCEL_BUFFERING, "no"))
        .streaming(events.into_stream()))
}

/// The rank of the last status that the client has received. An empty id counts as none, as in the EventSource standard.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u8>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.as_bytes() {
        [digit @ b'0'..=b'9'] if digit - b'0' <= Status::FINAL => Ok(Some(digit - b'0')),
        _ => Err(no_such_event()),
    }
}

fn no_such_event() -> Problem {
    Problem::bad_field("/Last-Event-ID", "must be the id of an event of this stream")
}

/// An open stream.
struct EventStream {
    reservation: Reservation,
    /// The rank of the last status that the client has received.
    sent_rank: Option<u8>,
    /// Whether the first chunk was sent.
    started: bool,
    ends_at: Instant,
    waiter: Waiter<Status>,
    stopping: CancellationToken,
    _permit: StreamPermit,
}

impl EventStream {
    fn new(
        reservation: Reservation,
        sent_rank: Option<u8>,
        waiter: Waiter<Status>,
        permit: StreamPermit,
        stopping: CancellationToken,
    ) -> Self {
        let ends_at = Instant::now() + AGE_MAX;
        Self { reservation, sent_rank, started: false, ends_at, waiter, stopping, _permit: permit }
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + 'static {
        stream::unfold(self, async |mut events| {
            let chunk = events.next().await?;
            Some((Ok(Bytes::from(chunk)), events))
        })
    }

    /// The next chunk; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.started, true) {
            let is_new = self.sent_rank < Some(self.reservation.status.rank());
            let event = if is_new { self.event() } else { String::new() };
            return Some(format!("retry: {RETRY_MS}\n\n{event}"));
        }
        let sent_rank = self.sent_rank.unwrap_or(0);
        if sent_rank >= Status::FINAL {
            return None;
        }
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            () = sleep_until(self.ends_at) => None,
            status = self.waiter.wait_for(sent_rank + 1) => {
                self.reservation.status = status;
                Some(self.event())
            }
            () = sleep(HEARTBEAT) => Some(":\n\n".to_owned()),
        }
    }

    /// The present status as an event, which counts as sent.
    fn event(&mut self) -> String {
        let rank = self.reservation.status.rank();
        self.sent_rank = Some(rank);
        let data = serde_json::to_string(&ReservationView::from(&self.reservation));
        let data = data.expect("texts and numbers are always JSON");
        format!("event: reservation\nid: {rank}\ndata: {data}\n\n")
    }
}

#[cfg(test)]
mod tests;
