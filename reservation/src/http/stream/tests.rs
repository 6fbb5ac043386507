//! One open stream, with a paused clock.

use actix_web::http::header::HeaderValue;
use futures_util::StreamExt;
use service_kit::messaging::waiters::StatusWaiters;
use shared_events::{CancelReason, Count, MovieId, Timestamp};
use uuid::Uuid;

use super::*;
use crate::reservation::Request;

struct Fixture {
    waiters: StatusWaiters<Status>,
    streams: Streams,
    stopping: CancellationToken,
    reservation: Reservation,
}

impl Fixture {
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

    fn stream(&self, status: Status, last_rank: Option<u8>) -> EventStream {
        let reservation = Reservation { status, ..self.reservation.clone() };
        let waiter = self.waiters.subscribe(reservation.id).unwrap();
        EventStream::new(
            reservation,
            last_rank,
            waiter,
            self.streams.open().ok().unwrap(),
            self.stopping.clone(),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_is_sent_once() {
    let fixture = Fixture::new();
    let mut events = fixture.stream(Status::Pending, None);
    let first = events.next().await.unwrap();
    assert!(first.starts_with("retry: 2000\n\nevent: reservation\nid: 0\ndata: {"), "{first}");
    assert!(first.ends_with("}\n\n") && first.lines().count() == 6, "{first}");
    for (status, id) in
        [(Status::Confirmed, "\nid: 1\n"), (Status::Cancelled(CancelReason::Customer), "\nid: 2\n")]
    {
        fixture.waiters.notify(fixture.reservation.id, status);
        fixture.waiters.notify(fixture.reservation.id, Status::Pending);
        let event = events.next().await.unwrap();
        assert!(event.contains(id) && event.contains(status.as_str()), "{event}");
    }
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_the_client_has_is_not_sent_again() {
    let fixture = Fixture::new();
    let mut events = fixture.stream(Status::Confirmed, Some(1));
    assert_eq!(events.next().await.unwrap(), "retry: 2000\n\n");
    fixture.waiters.notify(fixture.reservation.id, Status::Cancelled(CancelReason::Customer));
    assert!(events.next().await.unwrap().contains("\nid: 2\n"));
    assert_eq!(events.next().await, None);
    drop(events);
    let mut events = fixture.stream(Status::Confirmed, Some(0));
    assert!(events.next().await.unwrap().contains("\nid: 1\n"));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_sent_until_the_stream_ends() {
    let fixture = Fixture::new();
    let began = Instant::now();
    let chunks: Vec<_> = fixture.stream(Status::Pending, None).into_stream().collect().await;
    assert_eq!(began.elapsed(), AGE_MAX);
    let heartbeats = chunks.iter().filter(|chunk| chunk.as_ref().unwrap() == ":\n\n").count();
    assert_eq!((heartbeats, chunks.len()), (39, 40));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_streams_at_once_and_returns_their_permits() {
    let fixture = Fixture::new();
    let mut events = fixture.stream(Status::Pending, None);
    events.next().await.unwrap();
    assert_eq!(fixture.streams.open().err().unwrap().status(), 503);
    assert_eq!(fixture.streams.open.get(), 1);
    let began = Instant::now();
    let (end, ()) = tokio::join!(events.next(), async { fixture.stopping.cancel() });
    assert_eq!((end, began.elapsed()), (None, Duration::ZERO));
    drop(events);
    assert!(fixture.streams.open().is_ok());
    assert_eq!(fixture.streams.open.get(), 0);
}

#[test]
fn last_event_ids_are_ranks() {
    let parse = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(LAST_EVENT_ID, HeaderValue::from_static(text));
        last_event_id(&headers)
    };
    assert_eq!(last_event_id(&HeaderMap::new()).unwrap(), None);
    for (text, rank) in [("", None), ("0", Some(0)), ("1", Some(1)), ("2", Some(2))] {
        assert_eq!(parse(text).unwrap(), rank);
    }
    for text in ["3", "00", "+1", "-1", "x", "9999999999"] {
        assert_eq!(parse(text).unwrap_err().errors()[0].pointer, "/Last-Event-ID", "{text}");
    }
}
