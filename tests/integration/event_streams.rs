//! `GET /reservations/{id}/events`: streams of server-sent events, by which clients follow a reservation.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use tokio::time::timeout;
use uuid::Uuid;

use crate::calls::{Call, play};

const SOON: Duration = Duration::from_secs(60);

/// How long a stop may take while streams are open, and how soon a closed connection is detected.
const PROMPTLY: Duration = Duration::from_secs(8);

const CONCURRENT_CALLS: usize = 50;

#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: String,
    data: Value,
}

impl Event {
    fn status(&self) -> &str {
        self.data["reserveStatus"].as_str().unwrap_or_default()
    }
}

/// An event stream as a browser reads it: an event ends with an empty line.
struct Stream {
    response: Response,
    unread: String,
}

impl Stream {
    /// `None` if no further event will come (204).
    async fn open(api: &Api, id: Uuid, last: Option<&str>) -> anyhow::Result<Option<Self>> {
        let mut request = api.request(Method::GET, &format!("/reservations/{id}/events")).timeout(2 * SOON);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.header("accept", "text/event-stream").send().await?;
        if response.status() == 204 {
            return Ok(None);
        }
        ensure!(response.status() == 200, "{response:?}");
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        ensure!(header("content-type") == Some("text/event-stream"), "{response:?}");
        ensure!(header("cache-control") == Some("no-store"), "{response:?}");
        ensure!(header("content-encoding").is_none(), "{response:?}");
        Ok(Some(Self { response, unread: String::new() }))
    }

    /// The next event, or `None` at the end of the stream.
    async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            while let Some((block, rest)) = self.unread.split_once("\n\n") {
                let block = block.to_owned();
                self.unread = rest.to_owned();
                let field = |name| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let Some(data) = field("data") else { continue };
                ensure!(field("event") == Some("reservation"), "{block}");
                let id = field("id").context("no id")?.to_owned();
                return Ok(Some(Event { id, data: serde_json::from_str(data)? }));
            }
            match timeout(SOON, self.response.chunk()).await.context("nothing more came")?? {
                Some(piece) => self.unread.push_str(std::str::from_utf8(&piece)?),
                None => return Ok(None),
            }
        }
    }

    async fn expect_next(&mut self) -> anyhow::Result<Event> {
        self.next().await?.context("the stream has ended")
    }
}

/// Follows a reservation as an EventSource does: reconnects with the last id until the response is 204. With `cancels`,
/// the customer cancels once the reservation is confirmed. Returns all events, in order.
async fn follow(api: &Api, id: Uuid, cancels: bool) -> anyhow::Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    while let Some(mut stream) = Stream::open(api, id, events.last().map(|event| event.id.as_str())).await? {
        while let Some(event) = stream.next().await? {
            let confirmed = event.status() == "CONFIRMED";
            events.push(event);
            if confirmed && cancels {
                let answer = api.delete(&format!("/reservations/{id}")).await?;
                ensure!(answer.status == 202, "{answer:?}");
            }
        }
        ensure!(events.len() < 10, "{events:?}");
    }
    Ok(events)
}

async fn wait_for_status(api: &Api, id: Uuid, status: &str) -> anyhow::Result<()> {
    eventually("the reservation is decided", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == status, "{reservation}");
        Ok(())
    })
    .await
}

/// The sum of a gauge over the replicas of reservation.
async fn gauge(theater: &Theater, name: &str) -> anyhow::Result<i64> {
    let mut sum = 0;
    let ports = theater.ports.iter().find(|(service, _)| *service == "reservation").context("no ports")?;
    for port in &ports.1 {
        let metrics = Api::new(format!("http://127.0.0.1:{port}"))?.get("/metrics").await?.text;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        sum += value.context("no such gauge")?.parse::<i64>()?;
    }
    Ok(sum)
}

pub(crate) async fn each_client_receives_its_reservations_outcome(
    environment: &Environment,
) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let gateways = [theater.api.clone(), theater.start_gateway().await?];
    let [api, _] = &gateways;
    let (large, small, nowhere) = (api.publish(1_000).await?, api.publish(1).await?, Uuid::now_v7());
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    // With the movie service stopped, nothing is decided until all streams are open.
    theater.stop_service("movie").await?;
    let followed: Vec<(Uuid, Option<&str>)> = (0..200)
        .map(|n| match n % 4 {
            0 | 1 => (large, Some("CUSTOMER")),
            2 => (small, Some("OUT_OF_STOCK")),
            _ => (nowhere, Some("MOVIE_NOT_FOUND")),
        })
        .collect();
    // Two tickets each: more than the small movie has.
    let place = async |(movie, reason)| anyhow::Ok((api.reserve(movie, 2).await?, reason));
    let followed: Vec<_> = stream::iter(followed).map(place).buffered(CONCURRENT_CALLS).try_collect().await?;
    let follow_all = followed.iter().enumerate().map(async |(n, (id, reason))| {
        let api = &gateways[n % 2];
        let events = follow(api, *id, *reason == Some("CUSTOMER")).await.with_context(|| format!("{id}"))?;
        let received: Vec<_> = events.iter().map(|event| (event.id.as_str(), event.status())).collect();
        let expected: &[_] = match reason {
            Some("CUSTOMER") => &[("0", "PENDING"), ("1", "CONFIRMED"), ("2", "CANCELLED")],
            _ => &[("0", "PENDING"), ("2", "CANCELLED")],
        };
        ensure!(received == expected, "{id}: {events:?}");
        ensure!(events.iter().all(|event| event.data["id"] == id.to_string()), "{events:?}");
        let last = &events[events.len() - 1].data;
        ensure!(last["cancelReason"].as_str() == *reason, "{last}");
        ensure!(*last == api.reservation(*id).await?, "{last}");
        Ok(())
    });
    let began = Instant::now();
    let other_calls = async {
        let streams = i64::try_from(followed.len())?;
        eventually("all streams are open", SOON, async || {
            let open = gauge(&theater, "event_streams_open").await?;
            ensure!(open == streams, "{open} are");
            Ok(())
        })
        .await?;
        let (others, started) = tokio::join!(
            stream::iter(0..800)
                .map(async |n: usize| gateways[n / 400].reserve(large, 1).await)
                .buffer_unordered(CONCURRENT_CALLS)
                .try_collect::<Vec<_>>(),
            theater.restart_service("movie"),
        );
        started?;
        anyhow::Ok(others?.len())
    };
    let (others, _) = tokio::try_join!(other_calls, futures_util::future::try_join_all(follow_all))?;
    ensure!(others == 800);
    eprintln!("200 streams and 1000 reservations: {:.1} s", began.elapsed().as_secs_f64());
    eventually("all streams and waiters are released", PROMPTLY, async || {
        ensure!(gauge(&theater, "event_streams_open").await? == 0);
        ensure!(gauge(&theater, "waiting_room_waiters").await? == 0);
        Ok(())
    })
    .await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, api).await?;
    theater.stop().await
}

pub(crate) async fn a_reconnecting_client_receives_only_newer_events(
    environment: &Environment,
) -> anyhow::Result<()> {
    let settings = vec![("reservation", "--event-streams-max=2".to_owned())];
    let setup = Setup { settings, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let api = theater.api.clone();
    let movie = api.publish(10).await?;
    theater.stop_service("movie").await?;
    let id = api.reserve(movie, 1).await?;
    let path = format!("/reservations/{id}/events");
    let must_be = "must be the id of an event of this stream";
    let invalid_id = |text: &'static str| {
        Call::get(&path, 400).send_header("last-event-id", text).expect_error("/Last-Event-ID", must_be)
    };
    let calls = [
        Call::get(format!("/reservations/{}/events", Uuid::now_v7()), 404)
            .expect_detail("there is no reservation"),
        Call::get("/reservations/7/events", 400).expect_error("/id", "must be a UUID"),
        Call::post(&path, &json!({}), 405),
        // Ids of events that have not been sent yet, and invalid ids.
        invalid_id("1"),
        invalid_id("3"),
        invalid_id("x"),
    ];
    play(&api, calls).await?;

    // When the client closes its connection, the gateway closes its own, and the service releases stream and waiter.
    let mut closed = Stream::open(&api, id, None).await?.context("nothing to follow")?;
    let first = closed.expect_next().await?;
    ensure!(first.id == "0" && first.data == api.reservation(id).await?, "{first:?}");
    ensure!(gauge(&theater, "event_streams_open").await? == 1);
    drop(closed);
    eventually("the closed connection is detected", PROMPTLY, async || {
        ensure!(gauge(&theater, "event_streams_open").await? == 0);
        ensure!(gauge(&theater, "waiting_room_waiters").await? == 0);
        Ok(())
    })
    .await?;

    let mut from_start = Stream::open(&api, id, Some("")).await?.context("nothing to follow")?;
    let mut newer = Stream::open(&api, id, Some("0")).await?.context("nothing to follow")?;
    ensure!(from_start.expect_next().await? == first);
    let full =
        Call::get(&path, 503).expect_header("retry-after", "1").expect_detail("2 streams are open already");
    full.play(&api).await?;
    theater.restart_service("movie").await?;
    for stream in [&mut from_start, &mut newer] {
        let event = stream.expect_next().await?;
        ensure!((event.id.as_str(), event.status()) == ("1", "CONFIRMED"), "{event:?}");
    }
    drop(newer);
    wait_for_status(&api, id, "CONFIRMED").await?;
    let mut back = eventually("a stream may be opened", PROMPTLY, async || {
        Stream::open(&api, id, Some("1")).await?.context("nothing to follow")
    })
    .await?;
    Call::delete(format!("/reservations/{id}"), 202).play(&api).await?;
    for stream in [&mut from_start, &mut back] {
        let event = stream.expect_next().await?;
        ensure!((event.id.as_str(), event.status()) == ("2", "CANCELLED"), "{event:?}");
        ensure!(stream.next().await?.is_none(), "an event after the last one");
    }
    // A client that has the last event gets 204. Others get the last event, and none before it.
    ensure!(Stream::open(&api, id, Some("2")).await?.is_none());
    for last in [None, Some("0"), Some("1")] {
        let events = eventually("a stream may be opened", PROMPTLY, async || {
            let mut stream = Stream::open(&api, id, last).await?.context("nothing to follow")?;
            Ok((stream.expect_next().await?.id, stream.next().await?))
        })
        .await?;
        ensure!(events == ("2".to_owned(), None), "{last:?}: {events:?}");
    }
    theater.stop().await
}

pub(crate) async fn a_stop_ends_open_streams(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup { deadline_secs: 300, ..Setup::default() }).await?;
    let api = theater.api.clone();
    let movie = api.publish(10).await?;
    theater.stop_service("movie").await?;
    let id = api.reserve(movie, 1).await?;
    for service in ["reservation", "gateway"] {
        let mut stream = Stream::open(&api, id, None).await?.context("nothing to follow")?;
        let last = stream.expect_next().await?.id;
        let began = Instant::now();
        let stops = async {
            theater.stop_service(service).await?;
            ensure!(began.elapsed() < PROMPTLY, "{service} took {:?} to stop", began.elapsed());
            Ok(())
        };
        let ends = async {
            // The response ends properly: a cut connection would be an error here.
            match stream.next().await? {
                None => Ok(()),
                Some(event) => bail!("{event:?}"),
            }
        };
        tokio::try_join!(stops, ends)?;
        if service == "reservation" {
            theater.restart_service(service).await?;
            let back = eventually("the client reconnects", SOON, async || {
                Stream::open(&api, id, Some(&last)).await?.context("nothing to follow")
            });
            drop(back.await?);
        }
    }
    theater.stop().await
}
