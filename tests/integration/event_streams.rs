//! `GET /reservations/{id}/events`: what clients see that follow reservations live.

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

/// How long a stop may take while streams are open, and how soon a client that has gone is noticed.
const AT_ONCE: Duration = Duration::from_secs(8);

/// Requests under way at once.
const UNDER_WAY: usize = 50;

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

/// An event stream as a browser reads it: what is not ended by an empty line is no event.
struct Stream {
    response: Response,
    unread: String,
}

impl Stream {
    /// `None` when there is nothing more to follow (204).
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

    /// `None` at the end.
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

    async fn must_next(&mut self) -> anyhow::Result<Event> {
        self.next().await?.context("the stream has ended")
    }
}

/// As an EventSource does it: comes back with the last id until it is told that nothing is to come. `cancels`:
/// the customer cancels once the reservation is confirmed. Answers all events, in order.
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

async fn becomes(api: &Api, id: Uuid, status: &str) -> anyhow::Result<()> {
    eventually("the reservation is decided", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == status, "{reservation}");
        Ok(())
    })
    .await
}

/// The sum of a gauge over a service's replicas.
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

pub(crate) async fn each_client_sees_its_own_reservation_end(
    environment: &Environment,
) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let gateways = [theater.api.clone(), theater.start_gateway().await?];
    let [api, _] = &gateways;
    let (large, small, nowhere) = (api.publish(1_000).await?, api.publish(1).await?, Uuid::now_v7());
    checks::at_rest(&theater.stage, SOON).await?;
    // Nothing is decided until all streams are open.
    theater.stop_service("movie").await?;
    let followed: Vec<(Uuid, Option<&str>)> = (0..200)
        .map(|n| match n % 4 {
            0 | 1 => (large, Some("CUSTOMER")),
            2 => (small, Some("OUT_OF_STOCK")),
            _ => (nowhere, Some("MOVIE_NOT_FOUND")),
        })
        .collect();
    // More than there is of the small one.
    let place = async |(movie, reason)| anyhow::Ok((api.reserve(movie, 2).await?, reason));
    let followed: Vec<_> = stream::iter(followed).map(place).buffered(UNDER_WAY).try_collect().await?;
    let follow_all = followed.iter().enumerate().map(async |(n, (id, reason))| {
        let api = &gateways[n % 2];
        let events = follow(api, *id, *reason == Some("CUSTOMER")).await.with_context(|| format!("{id}"))?;
        let seen: Vec<_> = events.iter().map(|event| (event.id.as_str(), event.status())).collect();
        let expected: &[_] = match reason {
            Some("CUSTOMER") => &[("0", "PENDING"), ("1", "CONFIRMED"), ("2", "CANCELLED")],
            _ => &[("0", "PENDING"), ("2", "CANCELLED")],
        };
        ensure!(seen == expected, "{id}: {events:?}");
        ensure!(events.iter().all(|event| event.data["id"] == id.to_string()), "{events:?}");
        let last = &events[events.len() - 1].data;
        ensure!(last["cancelReason"].as_str() == *reason, "{last}");
        ensure!(*last == api.reservation(*id).await?, "{last}");
        Ok(())
    });
    let began = Instant::now();
    let the_rest = async {
        let streams = i64::try_from(followed.len())?;
        eventually("all streams are open", SOON, async || {
            let open = gauge(&theater, "event_streams_open").await?;
            ensure!(open == streams, "{open} are");
            Ok(())
        })
        .await?;
        let half = |gateway: &'static str| (0..400).map(move |n| (gateway, n));
        let all = half("one").chain(half("other"));
        let (others, started) = tokio::join!(
            stream::iter(all)
                .map(async |(gateway, _)| gateways[usize::from(gateway == "other")].reserve(large, 1).await)
                .buffer_unordered(UNDER_WAY)
                .try_collect::<Vec<_>>(),
            theater.start_again("movie"),
        );
        started?;
        anyhow::Ok(others?.len())
    };
    let (others, _) = tokio::try_join!(the_rest, futures_util::future::try_join_all(follow_all))?;
    ensure!(others == 800);
    eprintln!("200 streams and 1000 reservations: {:.1} s", began.elapsed().as_secs_f64());
    eventually("all places are given back", AT_ONCE, async || {
        ensure!(gauge(&theater, "event_streams_open").await? == 0);
        ensure!(gauge(&theater, "waiting_room_waiters").await? == 0);
        Ok(())
    })
    .await?;
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, api).await?;
    theater.stop().await
}

pub(crate) async fn a_client_that_comes_back_is_told_what_is_newer(
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
    let bad = |text: &'static str| {
        Call::get(&path, 400).with("last-event-id", text).names("/Last-Event-ID", must_be)
    };
    let calls = [
        Call::get(format!("/reservations/{}/events", Uuid::now_v7()), 404).says("there is no reservation"),
        Call::get("/reservations/7/events", 400).names("/id", "must be a UUID"),
        Call::post(&path, &json!({}), 405),
        // Seen by nobody yet.
        bad("1"),
        bad("3"),
        bad("x"),
    ];
    play(&api, calls).await?;

    // The client goes away, and its place and seat are free: the gateway hangs up, too.
    let mut gone = Stream::open(&api, id, None).await?.context("nothing to follow")?;
    let first = gone.must_next().await?;
    ensure!(first.id == "0" && first.data == api.reservation(id).await?, "{first:?}");
    ensure!(gauge(&theater, "event_streams_open").await? == 1);
    drop(gone);
    eventually("it is noticed", AT_ONCE, async || {
        ensure!(gauge(&theater, "event_streams_open").await? == 0);
        ensure!(gauge(&theater, "waiting_room_waiters").await? == 0);
        Ok(())
    })
    .await?;

    let mut from_start = Stream::open(&api, id, Some("")).await?.context("nothing to follow")?;
    let mut newer = Stream::open(&api, id, Some("0")).await?.context("nothing to follow")?;
    ensure!(from_start.must_next().await? == first);
    let full = Call::get(&path, 503).header("retry-after", "1").says("2 streams are open already");
    full.play(&api).await?;
    theater.start_again("movie").await?;
    for stream in [&mut from_start, &mut newer] {
        let event = stream.must_next().await?;
        ensure!((event.id.as_str(), event.status()) == ("1", "CONFIRMED"), "{event:?}");
    }
    drop(newer);
    becomes(&api, id, "CONFIRMED").await?;
    let mut back = eventually("there is a place", AT_ONCE, async || {
        Stream::open(&api, id, Some("1")).await?.context("nothing to follow")
    })
    .await?;
    Call::delete(format!("/reservations/{id}"), 202).play(&api).await?;
    for stream in [&mut from_start, &mut back] {
        let event = stream.must_next().await?;
        ensure!((event.id.as_str(), event.status()) == ("2", "CANCELLED"), "{event:?}");
        ensure!(stream.next().await?.is_none(), "something after the end");
    }
    // Who knows the end is told that there is nothing; who doesn't, is told the end, and nothing before it.
    ensure!(Stream::open(&api, id, Some("2")).await?.is_none());
    for last in [None, Some("0"), Some("1")] {
        let events = eventually("there is a place", AT_ONCE, async || {
            let mut stream = Stream::open(&api, id, last).await?.context("nothing to follow")?;
            Ok((stream.must_next().await?.id, stream.next().await?))
        })
        .await?;
        ensure!(events == ("2".to_owned(), None), "{last:?}: {events:?}");
    }
    theater.stop().await
}

pub(crate) async fn a_stop_waits_for_no_stream(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup { deadline_secs: 300, ..Setup::default() }).await?;
    let api = theater.api.clone();
    let movie = api.publish(10).await?;
    theater.stop_service("movie").await?;
    let id = api.reserve(movie, 1).await?;
    for service in ["reservation", "gateway"] {
        let mut stream = Stream::open(&api, id, None).await?.context("nothing to follow")?;
        let last = stream.must_next().await?.id;
        let began = Instant::now();
        let stops = async {
            theater.stop_service(service).await?;
            ensure!(began.elapsed() < AT_ONCE, "{service} took {:?} to stop", began.elapsed());
            Ok(())
        };
        let ends = async {
            // Whole, as HTTP has it: a cut connection would be an error here.
            match stream.next().await? {
                None => Ok(()),
                Some(event) => bail!("{event:?}"),
            }
        };
        tokio::try_join!(stops, ends)?;
        if service == "reservation" {
            theater.start_again(service).await?;
            let back = eventually("the client comes back", SOON, async || {
                Stream::open(&api, id, Some(&last)).await?.context("nothing to follow")
            });
            drop(back.await?);
        }
    }
    theater.stop().await
}
