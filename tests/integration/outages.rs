//! Outages of Kafka or PostgreSQL: the server is killed (connections are refused) or frozen (nothing answers). Without
//! Kafka reservations are still accepted; without PostgreSQL calls are refused in time. Afterwards the services recover
//! without a restart.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use theater_infra::supervise::{Child, Signal};
use theater_tests::api::{Answer, reservation};
use theater_tests::servers::{KafkaServer, Kind, PostgresServer};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

/// The contract's bound for a response during an outage.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// As `take_down()` does it: a killed process, or a paused container.
    Stopped,
    /// A process that is stopped by SIGSTOP.
    Frozen,
}

fn outages(kind: Kind) -> &'static [Outage] {
    match kind {
        // A paused container is frozen already.
        Kind::Container => &[Outage::Stopped],
        Kind::Native => &[Outage::Stopped, Outage::Frozen],
    }
}

fn setup() -> Setup {
    // The deadline is long, so no reservation is cancelled or refused because of it.
    Setup { deadline_secs: 600, partitions: 2, ..Setup::default() }
}

pub(crate) async fn kafka(environment: &Environment) -> anyhow::Result<()> {
    let mut kafka = KafkaServer::start(environment.kind).await?;
    let config = TheaterConfig::create(kafka.bootstrap(), &environment.admin_url(), &setup()).await?;
    let theater = Theater::start_with(config, 1).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    wait_for_confirmation(api, movie, api.reserve(movie, 1).await?).await?;
    for outage in outages(environment.kind) {
        stop_kafka(&mut kafka, *outage).await?;
        let mut accepted = Vec::new();
        for _ in 0..5 {
            accepted.push(api.reserve(movie, 1).await.with_context(|| format!("{outage:?}"))?);
        }
        let cancelled = api.reserve(movie, 1).await?;
        let answer = api.delete(&format!("/reservations/{cancelled}")).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{outage:?}: {answer:?}");
        for id in &accepted {
            ensure!(api.reservation(*id).await?["reserveStatus"] == "PENDING", "{outage:?}");
        }
        resume_kafka(&mut kafka, *outage).await?;
        for id in accepted {
            wait_for_confirmation(api, movie, id).await?;
        }
        checks::wait_until_at_rest(&theater.config, SOON).await?;
        checks::invariants(&theater.config, api).await?;
    }
    theater.stop().await
}

pub(crate) async fn postgres(environment: &Environment) -> anyhow::Result<()> {
    let mut postgres = PostgresServer::start(environment.kind).await?;
    let config = TheaterConfig::create(environment.bootstrap(), &postgres.admin_url(), &setup()).await?;
    let theater = Theater::start_with(config, 1).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    let first = api.reserve(movie, 1).await?;
    wait_for_confirmation(api, movie, first).await?;
    for outage in outages(environment.kind) {
        // Most likely still undecided when the database stops.
        let undecided = api.reserve(movie, 1).await?;
        stop_postgres(&mut postgres, *outage).await?;
        let refused = Uuid::now_v7();
        all_calls_are_refused(&theater, movie, first, refused)
            .await
            .with_context(|| format!("{outage:?}"))?;
        resume_postgres(&mut postgres, *outage).await?;
        eventually("reservations are accepted again", SOON, async || {
            let answer = api.post("/reservations", &reservation(refused, movie, 1)).await?;
            ensure!(answer.status == StatusCode::ACCEPTED, "{outage:?}: {answer:?}");
            Ok(())
        })
        .await?;
        for id in [undecided, refused] {
            wait_for_confirmation(api, movie, id).await?;
        }
        checks::wait_until_at_rest(&theater.config, SOON).await?;
        checks::invariants(&theater.config, api).await?;
    }
    theater.stop().await
}

/// Makes every call that needs a database at the same time, through the gateway and at the service's own port.
async fn all_calls_are_refused(
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
            let mut request =
                api.request(method.clone(), path).timeout(RESPONSE_TIMEOUT).header("if-match", "*");
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
            let answer = Api::send(api.request(Method::GET, path).timeout(RESPONSE_TIMEOUT)).await;
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

async fn wait_for_confirmation(api: &Api, movie: Uuid, id: Uuid) -> anyhow::Result<()> {
    eventually("the reservation is confirmed", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "of {movie}: {reservation}");
        Ok(())
    })
    .await
}

async fn stop_kafka(kafka: &mut KafkaServer, outage: Outage) -> anyhow::Result<()> {
    match (outage, kafka) {
        (Outage::Frozen, KafkaServer::Native(kafka)) => signal(kafka.child(), Signal::STOP),
        (_, kafka) => kafka.take_down().await,
    }
}

async fn resume_kafka(kafka: &mut KafkaServer, outage: Outage) -> anyhow::Result<()> {
    match (outage, kafka) {
        (Outage::Frozen, KafkaServer::Native(kafka)) => signal(kafka.child(), Signal::CONT),
        (_, kafka) => kafka.bring_up().await,
    }
}

async fn stop_postgres(postgres: &mut PostgresServer, outage: Outage) -> anyhow::Result<()> {
    match (outage, postgres) {
        (Outage::Frozen, PostgresServer::Native(postgres)) => signal(postgres.child(), Signal::STOP),
        (_, postgres) => postgres.take_down().await,
    }
}

async fn resume_postgres(postgres: &mut PostgresServer, outage: Outage) -> anyhow::Result<()> {
    match (outage, postgres) {
        (Outage::Frozen, PostgresServer::Native(postgres)) => signal(postgres.child(), Signal::CONT),
        (_, postgres) => postgres.bring_up().await,
    }
}

fn signal(child: Option<&Child>, signal: Signal) -> anyhow::Result<()> {
    child.context("it is not running")?.signal_tree(signal);
    Ok(())
}
