//! `GET /reservations/{id}/events`: a reservation's status, live, as Server-Sent Events.
//!
//! The present status comes first, then each change. A stream holds a seat in the waiting room and the reservation,
//! nothing else: what a slow reader has not taken is not kept, it gets the furthest status later. A status that
//! passed between two of its reads is left out. The ids are ranks of the status, so a client that comes back with
//! `Last-Event-ID`, to any replica, is told what is newer.

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

use super::{Api, ReservationView};
use crate::reservation::{Reservation, Status};

/// The longest silence of a stream: what stands between must not take it for dead, and a client that has gone
/// without a word is noticed when it is written to.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How old a stream gets. Its client comes back by itself, to any replica.
const AGE_MAX: Duration = Duration::from_secs(600);

/// What a client is told to wait before it comes back, in milliseconds.
const RETRY_MS: u32 = 2_000;

const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// nginx's, which would gather what is small otherwise.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How many streams are open in this process, and may be.
#[derive(Clone)]
pub struct Streams {
    places: Arc<Semaphore>,
    most: u32,
    open: IntGauge,
}

impl Streams {
    /// # Errors
    /// A metric's name that is taken.
    pub fn new(most: u32, registry: &Registry) -> prometheus::Result<Self> {
        let open = IntGauge::new("event_streams_open", "Streams of events that clients follow")?;
        registry.register(Box::new(open.clone()))?;
        Ok(Self { places: Arc::new(Semaphore::new(most as usize)), most, open })
    }

    fn open(&self) -> Result<Place, Problem> {
        let permit = Arc::clone(&self.places).try_acquire_owned();
        let permit =
            permit.map_err(|_| Problem::unavailable(format!("{} streams are open already", self.most)))?;
        self.open.inc();
        Ok(Place { open: self.open.clone(), _permit: permit })
    }
}

/// Of one stream; given back when dropped.
struct Place {
    open: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
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
    let seen = last_event_id(request.headers())?;
    let place = api.streams.open()?;
    // Before the reservation is read, so that no change between the two is missed.
    let waiter = api
        .unit_of_work
        .waiters
        .subscribe(id)
        .ok_or_else(|| Problem::unavailable("too many callers wait"))?;
    let reservation = api.find(id).await?;
    let rank = reservation.status.rank();
    match seen {
        Some(seen) if seen > rank => return Err(no_such_event()),
        // Nothing is to come: this ends the client's trying (an EventSource's, by its standard).
        Some(Status::FINAL) => {
            return Ok(HttpResponse::NoContent().insert_header((CACHE_CONTROL, "no-store")).finish());
        }
        _ => {}
    }
    let follower = Follower::new(reservation, seen, waiter, place, stopping.0);
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, EVENT_STREAM))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((X_ACCEL_BUFFERING, "no"))
        .streaming(follower.stream()))
}

/// The rank of the status that the client has seen. An empty id is none, as in the EventSource standard.
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

struct Follower {
    reservation: Reservation,
    /// The rank that the client knows.
    told: Option<u8>,
    begun: bool,
    ends: Instant,
    waiter: Waiter<Status>,
    stopping: CancellationToken,
    _place: Place,
}

impl Follower {
    fn new(
        reservation: Reservation,
        told: Option<u8>,
        waiter: Waiter<Status>,
        place: Place,
        stopping: CancellationToken,
    ) -> Self {
        let ends = Instant::now() + AGE_MAX;
        Self { reservation, told, begun: false, ends, waiter, stopping, _place: place }
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + 'static {
        stream::unfold(self, async |mut follower| {
            let piece = follower.next().await?;
            Some((Ok(Bytes::from(piece)), follower))
        })
    }

    /// What is sent next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.begun, true) {
            let present =
                if self.told < Some(self.reservation.status.rank()) { self.tell() } else { String::new() };
            return Some(format!("retry: {RETRY_MS}\n\n{present}"));
        }
        let told = self.told.unwrap_or(0);
        if told >= Status::FINAL {
            return None;
        }
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            () = sleep_until(self.ends) => None,
            status = self.waiter.wait_for(told + 1) => {
                self.reservation.status = status;
                Some(self.tell())
            }
            () = sleep(HEARTBEAT) => Some(":\n\n".to_owned()),
        }
    }

    fn tell(&mut self) -> String {
        let rank = self.reservation.status.rank();
        self.told = Some(rank);
        let data = serde_json::to_string(&ReservationView::from(&self.reservation));
        let data = data.expect("texts and numbers are always JSON");
        format!("event: reservation\nid: {rank}\ndata: {data}\n\n")
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use futures_util::StreamExt;
    use service_kit::messaging::waiters::StatusWaiters;
    use shared_events::{CancelReason, Count, MovieId, Timestamp};
    use uuid::Uuid;

    use super::*;
    use crate::reservation::Request;

    struct Stage {
        waiters: StatusWaiters<Status>,
        streams: Streams,
        stopping: CancellationToken,
        reservation: Reservation,
    }

    impl Stage {
        fn new() -> Self {
            let registry = Registry::new();
            let request = Request {
                user_id: "7".into(),
                user_name: "a\nb".into(),
                email: None,
                movie_id: MovieId(Uuid::now_v7()),
                count: Count::new(1).unwrap(),
                date: None,
            };
            let reservation = Reservation {
                id: ReservationId(Uuid::now_v7()),
                request,
                movie_name: None,
                status: Status::Pending,
                placed_at: Timestamp::now(),
                traceparent: None,
            };
            Self {
                waiters: StatusWaiters::new(&registry).unwrap(),
                streams: Streams::new(1, &registry).unwrap(),
                stopping: CancellationToken::new(),
                reservation,
            }
        }

        fn follow(&self, status: Status, seen: Option<u8>) -> Follower {
            let reservation = Reservation { status, ..self.reservation.clone() };
            let waiter = self.waiters.subscribe(reservation.id).unwrap();
            Follower::new(reservation, seen, waiter, self.streams.open().ok().unwrap(), self.stopping.clone())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_told_once() {
        let stage = Stage::new();
        let mut follower = stage.follow(Status::Pending, None);
        let first = follower.next().await.unwrap();
        assert!(first.starts_with("retry: 2000\n\nevent: reservation\nid: 0\ndata: {"), "{first}");
        assert!(first.ends_with("}\n\n") && first.lines().count() == 6, "{first}");
        for (status, id) in
            [(Status::Confirmed, "\nid: 1\n"), (Status::Cancelled(CancelReason::Customer), "\nid: 2\n")]
        {
            stage.waiters.notify(stage.reservation.id, status);
            stage.waiters.notify(stage.reservation.id, Status::Pending);
            let event = follower.next().await.unwrap();
            assert!(event.contains(id) && event.contains(status.as_str()), "{event}");
        }
        assert_eq!(follower.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_is_not_told_again() {
        let stage = Stage::new();
        let mut follower = stage.follow(Status::Confirmed, Some(1));
        assert_eq!(follower.next().await.unwrap(), "retry: 2000\n\n");
        stage.waiters.notify(stage.reservation.id, Status::Cancelled(CancelReason::Customer));
        assert!(follower.next().await.unwrap().contains("\nid: 2\n"));
        assert_eq!(follower.next().await, None);
        drop(follower);
        let mut follower = stage.follow(Status::Confirmed, Some(0));
        assert!(follower.next().await.unwrap().contains("\nid: 1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_shows_that_it_lives_until_it_is_old() {
        let stage = Stage::new();
        let began = Instant::now();
        let pieces: Vec<_> = stage.follow(Status::Pending, None).stream().collect().await;
        assert_eq!(began.elapsed(), AGE_MAX);
        let beats = pieces.iter().filter(|piece| piece.as_ref().unwrap() == ":\n\n").count();
        assert_eq!((beats, pieces.len()), (39, 40));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_streams_at_once_and_places_are_given_back() {
        let stage = Stage::new();
        let mut follower = stage.follow(Status::Pending, None);
        follower.next().await.unwrap();
        assert_eq!(stage.streams.open().err().unwrap().status(), 503);
        assert_eq!(stage.streams.open.get(), 1);
        let began = Instant::now();
        let (end, ()) = tokio::join!(follower.next(), async { stage.stopping.cancel() });
        assert_eq!((end, began.elapsed()), (None, Duration::ZERO));
        drop(follower);
        assert!(stage.streams.open().is_ok());
        assert_eq!(stage.streams.open.get(), 0);
    }

    #[test]
    fn last_event_ids_are_ranks() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(LAST_EVENT_ID, HeaderValue::from_static(text));
            last_event_id(&headers)
        };
        assert_eq!(last_event_id(&HeaderMap::new()).unwrap(), None);
        for (text, seen) in [("", None), ("0", Some(0)), ("1", Some(1)), ("2", Some(2))] {
            assert_eq!(of(text).unwrap(), seen);
        }
        for text in ["3", "00", "+1", "-1", "x", "9999999999"] {
            assert_eq!(of(text).unwrap_err().errors()[0].pointer, "/Last-Event-ID", "{text}");
        }
    }
}
