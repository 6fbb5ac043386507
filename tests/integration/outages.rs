//! Kafka or PostgreSQL away: killed (connections are refused) or frozen (nothing answers). What can be
//! taken is taken, the rest is refused in time, and the services go on by themselves.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use theater_infra::supervise::{Child, Signal};
use theater_tests::api::{Answer, reservation};
use theater_tests::servers::{KafkaServer, Kind, PostgresServer};
use theater_tests::theater::Stage;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

/// The contract's bound for an answer, whatever is away.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// As `away()` does it: killed, or a container that is paused.
    Taken,
    /// A process that is there and does nothing.
    Frozen,
}

fn ways(kind: Kind) -> &'static [Away] {
    match kind {
        // A container that is taken away is frozen.
        Kind::Container => &[Away::Taken],
        Kind::Native => &[Away::Taken, Away::Frozen],
    }
}

fn setup() -> Setup {
    // Nothing is to end by its deadline, nor be refused because of it.
    Setup { deadline_secs: 600, partitions: 2, ..Setup::default() }
}

pub(crate) async fn kafka(environment: &Environment) -> anyhow::Result<()> {
    let mut kafka = KafkaServer::start(environment.kind).await?;
    let stage = Stage::new(kafka.bootstrap(), &environment.admin_url(), &setup()).await?;
    let theater = Theater::start_on(stage, 1).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    confirmed(api, movie, api.reserve(movie, 1).await?).await?;
    for way in ways(environment.kind) {
        take_kafka(&mut kafka, *way).await?;
        let mut accepted = Vec::new();
        for _ in 0..5 {
            accepted.push(api.reserve(movie, 1).await.with_context(|| format!("{way:?}"))?);
        }
        let changed_mind = api.reserve(movie, 1).await?;
        let answer = api.delete(&format!("/reservations/{changed_mind}")).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{way:?}: {answer:?}");
        for id in &accepted {
            ensure!(api.reservation(*id).await?["reserveStatus"] == "PENDING", "{way:?}");
        }
        return_kafka(&mut kafka, *way).await?;
        for id in accepted {
            confirmed(api, movie, id).await?;
        }
        checks::at_rest(&theater.stage, SOON).await?;
        checks::invariants(&theater.stage, api).await?;
    }
    theater.stop().await
}

pub(crate) async fn postgres(environment: &Environment) -> anyhow::Result<()> {
    let mut postgres = PostgresServer::start(environment.kind).await?;
    let stage = Stage::new(environment.bootstrap(), &postgres.admin_url(), &setup()).await?;
    let theater = Theater::start_on(stage, 1).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    let first = api.reserve(movie, 1).await?;
    confirmed(api, movie, first).await?;
    for way in ways(environment.kind) {
        // Still undecided when the database goes, most likely.
        let under_way = api.reserve(movie, 1).await?;
        take_postgres(&mut postgres, *way).await?;
        let refused = Uuid::now_v7();
        everything_is_refused(&theater, movie, first, refused).await.with_context(|| format!("{way:?}"))?;
        return_postgres(&mut postgres, *way).await?;
        eventually("reservations are taken again", SOON, async || {
            let answer = api.post("/reservations", &reservation(refused, movie, 1)).await?;
            ensure!(answer.status == StatusCode::ACCEPTED, "{way:?}: {answer:?}");
            Ok(())
        })
        .await?;
        for id in [under_way, refused] {
            confirmed(api, movie, id).await?;
        }
        checks::at_rest(&theater.stage, SOON).await?;
        checks::invariants(&theater.stage, api).await?;
    }
    theater.stop().await
}

/// Every call that needs a database, through the gateway and at the service's own port, at the same time.
async fn everything_is_refused(
    theater: &Theater,
    movie: Uuid,
    first: Uuid,
    refused: Uuid,
) -> anyhow::Result<()> {
    let published = Uuid::now_v7();
    let calls = [
        ("reservation", Method::POST, "/reservations".to_owned(), Some(reservation(refused, movie, 1))),
        ("reservation", Method::GET, "/reservations".to_owned(), None),
        ("reservation", Method::GET, format!("/reservations/{first}"), None),
        ("reservation", Method::DELETE, format!("/reservations/{first}"), None),
        (
            "movie",
            Method::POST,
            "/movies".to_owned(),
            Some(json!({"id": published, "movieName": "x", "qty": 0})),
        ),
        ("movie", Method::GET, "/movies".to_owned(), None),
        ("movie", Method::GET, format!("/movies/{movie}"), None),
        ("movie", Method::PATCH, format!("/movies/{movie}"), Some(json!({"movieName": "x"}))),
        ("movie", Method::POST, format!("/movies/{movie}/tickets"), Some(json!({"count": 1}))),
        ("notification", Method::GET, "/notifications".to_owned(), None),
        ("reservation-list", Method::GET, "/reservationLists".to_owned(), None),
    ];
    let answers = calls.iter().map(async |(service, method, path, body)| {
        let direct = Api::new(format!("http://127.0.0.1:{}", theater.port(service)))?;
        for api in [&theater.api, &direct] {
            let mut request = api.request(method.clone(), path).timeout(ANSWER).header("if-match", "*");
            if let Some(body) = body {
                request = request.json(body).header("idempotency-key", "refused, so kept nowhere");
            }
            let answer = Api::send(request).await.with_context(|| format!("{method} {path}"))?;
            is_refusal(&answer).with_context(|| format!("{method} {path}: {answer:?}"))?;
        }
        anyhow::Ok(())
    });
    let health = ["reservation", "movie", "notification", "reservation-list"].map(async |service| {
        let api = Api::new(format!("http://127.0.0.1:{}", theater.port(service)))?;
        for (path, status) in [("/livez", StatusCode::OK), ("/readyz", StatusCode::SERVICE_UNAVAILABLE)] {
            let answer = Api::send(api.request(Method::GET, path).timeout(ANSWER)).await;
            let answer = answer.with_context(|| format!("{service}{path}"))?;
            ensure!(answer.status == status, "{service}{path}: {answer:?}");
        }
        anyhow::Ok(())
    });
    tokio::try_join!(try_join_all(answers), try_join_all(health))?;
    Ok(())
}

fn is_refusal(answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "not 503");
    ensure!(answer.header("content-type") == Some("application/problem+json"), "not a problem");
    let after = answer.header("retry-after").context("no Retry-After")?;
    ensure!(after.parse::<u32>().is_ok(), "Retry-After is {after}");
    ensure!(answer.json()?["status"] == 503, "the problem says otherwise");
    Ok(())
}

async fn confirmed(api: &Api, movie: Uuid, id: Uuid) -> anyhow::Result<()> {
    eventually("the reservation is confirmed", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "of {movie}: {reservation}");
        Ok(())
    })
    .await
}

async fn take_kafka(kafka: &mut KafkaServer, way: Away) -> anyhow::Result<()> {
    match (way, kafka) {
        (Away::Frozen, KafkaServer::Native(kafka)) => signal(kafka.child(), Signal::STOP),
        (_, kafka) => kafka.away().await,
    }
}

async fn return_kafka(kafka: &mut KafkaServer, way: Away) -> anyhow::Result<()> {
    match (way, kafka) {
        (Away::Frozen, KafkaServer::Native(kafka)) => signal(kafka.child(), Signal::CONT),
        (_, kafka) => kafka.back().await,
    }
}

async fn take_postgres(postgres: &mut PostgresServer, way: Away) -> anyhow::Result<()> {
    match (way, postgres) {
        (Away::Frozen, PostgresServer::Native(postgres)) => signal(postgres.child(), Signal::STOP),
        (_, postgres) => postgres.away().await,
    }
}

async fn return_postgres(postgres: &mut PostgresServer, way: Away) -> anyhow::Result<()> {
    match (way, postgres) {
        (Away::Frozen, PostgresServer::Native(postgres)) => signal(postgres.child(), Signal::CONT),
        (_, postgres) => postgres.back().await,
    }
}

fn signal(child: Option<&Child>, signal: Signal) -> anyhow::Result<()> {
    child.context("it is not running")?.signal_family(signal);
    Ok(())
}
