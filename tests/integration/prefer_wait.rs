//! `Prefer: wait=N`: the response to a placement is its outcome, if that comes within the wait.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use theater_tests::api::{Answer, reservation};
use theater_tests::{Api, Environment, Setup, Theater, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);

/// How much later than the wait a response may come, through the gateway, on a busy machine.
const MARGIN: Duration = Duration::from_secs(1);

/// Places a reservation with these preferences, a header each. Returns the response and its duration.
async fn place(api: &Api, body: &Value, preferences: &[&str]) -> anyhow::Result<(Answer, Duration)> {
    let mut request = api.request(Method::POST, "/reservations").json(body);
    for preference in preferences {
        request = request.header("prefer", *preference);
    }
    let began = Instant::now();
    let answer = Api::send(request).await.with_context(|| format!("{preferences:?}"))?;
    Ok((answer, began.elapsed()))
}

fn applied(answer: &Answer) -> Option<&str> {
    answer.header("preference-applied")
}

/// Movie, count and preferences; the applied preference, the status and the reason.
type Case<'a> = (Uuid, i64, &'a [&'a str], &'a str, &'a str, Option<&'a str>);

pub(crate) async fn an_outcome_in_time_is_the_response(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let (movie, nowhere) = (api.publish(100).await?, Uuid::now_v7());
    // Wait until all consumers have their partitions.
    let first = api.reserve(movie, 1).await?;
    eventually("the first one is decided", SOON, async || {
        ensure!(api.reservation(first).await?["reserveStatus"] == "CONFIRMED");
        Ok(())
    })
    .await?;
    let small = api.publish(1).await?;
    let cases: [Case<'_>; 7] = [
        (movie, 1, &["wait=10"], "wait=10", "CONFIRMED", None),
        (small, 2, &["wait=10"], "wait=10", "CANCELLED", Some("OUT_OF_STOCK")),
        (nowhere, 1, &["wait=10"], "wait=10", "CANCELLED", Some("MOVIE_NOT_FOUND")),
        (movie, 1, &["wait=99"], "wait=10", "CONFIRMED", None),
        (movie, 1, &["Wait = \"9\"; why=\"1, 2\""], "wait=9", "CONFIRMED", None),
        (movie, 1, &["respond-async, wait=8, wait=1"], "wait=8", "CONFIRMED", None),
        (movie, 1, &["return=minimal", "wait=7"], "wait=7", "CONFIRMED", None),
    ];
    for (movie, count, preferences, applied_preference, status, reason) in cases {
        let id = Uuid::now_v7();
        let body = reservation(id, movie, count);
        let (answer, _) = place(api, &body, preferences).await?;
        ensure!(
            answer.status == 201 && applied(&answer) == Some(applied_preference),
            "{preferences:?}: {answer:?}"
        );
        ensure!(answer.header("location") == Some(&format!("/reservations/{id}")), "{answer:?}");
        ensure!(answer.header("cache-control") == Some("no-store"), "{answer:?}");
        let shown = answer.json()?;
        ensure!(shown["reserveStatus"] == status && shown["cancelReason"].as_str() == reason, "{shown}");
        ensure!(shown == api.reservation(id).await?, "{shown}");
        // Repeats: 201 at once with a wait, 202 as always without one.
        let (again, _) = place(api, &body, &["wait=0"]).await?;
        ensure!(again.status == 201 && applied(&again) == Some("wait=0"), "{again:?}");
        let (again, _) = place(api, &body, &[]).await?;
        ensure!(again.status == 202 && applied(&again).is_none() && again.json()? == shown, "{again:?}");
    }
    theater.stop().await
}

pub(crate) async fn an_undecided_reservation_is_accepted(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup { deadline_secs: 300, ..Setup::default() }).await?;
    let api = theater.api.clone();
    let movie = api.publish(100).await?;
    theater.stop_service("movie").await?;
    let secs = Duration::from_secs;
    let cases: [(&[&str], Option<&str>, Duration); 10] = [
        (&["wait=0"], Some("wait=0"), secs(0)),
        (&["wait=1"], Some("wait=1"), secs(1)),
        (&["wait=6"], Some("wait=6"), secs(6)),
        (&["wait=99"], Some("wait=10"), secs(10)),
        (&[], None, secs(0)),
        (&["wait"], None, secs(0)),
        (&["wait=soon"], None, secs(0)),
        (&["wait=-1"], None, secs(0)),
        (&["wait=soon, wait=5"], None, secs(0)),
        (&["respond-async", "waits=5"], None, secs(0)),
    ];
    let placements = cases.iter().map(async |(preferences, applied_preference, wait)| {
        let (answer, took) = place(&api, &reservation(Uuid::now_v7(), movie, 1), preferences).await?;
        ensure!(
            answer.status == 202 && applied(&answer) == *applied_preference,
            "{preferences:?}: {answer:?}"
        );
        ensure!(answer.json()?["reserveStatus"] == "PENDING", "{answer:?}");
        ensure!((*wait..*wait + MARGIN).contains(&took), "{preferences:?} took {took:?}");
        Ok(())
    });
    try_join_all(placements).await?;

    // A waiting caller is answered at once when the service stops.
    let began = Instant::now();
    let body = reservation(Uuid::now_v7(), movie, 1);
    let waiting = place(&api, &body, &["wait=10"]);
    let stops = async {
        let port = theater.port("reservation");
        let metrics = Api::new(format!("http://127.0.0.1:{port}"))?;
        eventually("the caller waits", SOON, async || {
            let metrics = metrics.get("/metrics").await?.text;
            ensure!(metrics.lines().any(|line| line == "waiting_room_waiters 1"), "no caller waits");
            Ok(())
        })
        .await?;
        theater.stop_service("reservation").await
    };
    let ((answer, _), ()) = tokio::try_join!(waiting, stops)?;
    ensure!(answer.status == 202 && applied(&answer) == Some("wait=10"), "{answer:?}");
    ensure!(began.elapsed() < secs(8), "it took {:?}", began.elapsed());
    theater.stop().await
}

pub(crate) async fn any_replica_can_answer(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let api = &theater.api;
    // One movie, so one partition: one replica applies all decisions, while every second call goes to the other one.
    let movie = api.publish(1_000).await?;
    let calls = (0..200).map(async |n| {
        let mut body = reservation(Uuid::now_v7(), movie, 1);
        body["userId"] = json!(n);
        let (answer, _) = place(api, &body, &["wait=10"]).await?;
        ensure!(answer.status == 201 && answer.json()?["reserveStatus"] == "CONFIRMED", "{answer:?}");
        Ok(())
    });
    try_join_all(calls).await?;
    theater.stop().await
}
