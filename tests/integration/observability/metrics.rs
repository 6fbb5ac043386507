//! `/metrics`, `/livez` and `/readyz` of every service, after events that they must have counted.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually, records};
use uuid::Uuid;

use crate::calls::{Call, play};
use crate::prometheus::{Metrics, parse};

const SOON: Duration = Duration::from_secs(20);

const PARTITIONS: u32 = 3;

const SERVICES: [&str; 4] = ["reservation", "movie", "notification", "reservation-list"];

const REQUESTS: &str = "http_server_request_duration_seconds_count";

/// The metrics of every service that consumes events.
const EVENT_METRICS: [(&str, &str); 13] = [
    ("outbox_backlog_events", "gauge"),
    ("outbox_age_seconds", "gauge"),
    ("outbox_sent_events_total", "counter"),
    ("consumer_batch_records", "histogram"),
    ("consumer_batch_duration_seconds", "histogram"),
    ("consumer_assigned_partitions", "gauge"),
    ("consumer_lag_records", "gauge"),
    ("dead_letters_total", "counter"),
    ("http_server_request_duration_seconds", "histogram"),
    ("http_server_active_requests", "gauge"),
    ("db_client_connection_count", "gauge"),
    ("db_client_connection_max", "gauge"),
    ("process_cpu_seconds_total", "counter"),
];

pub(crate) async fn metrics_count_what_happened(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: PARTITIONS, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let api = &theater.api;
    let unknown_id = Uuid::now_v7();
    run_sagas(&theater).await?;
    produce_malformed_records(&theater).await?;
    let calls = [
        Call::get(format!("/movies/{unknown_id}"), 404),
        Call::get(format!("/movies/{unknown_id}"), 404),
        Call::get(format!("/{unknown_id}"), 404),
    ];
    play(api, calls).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;

    for service in SERVICES {
        let api = service_api(&theater, service)?;
        expect_healthy(&api).await?;
        let metrics = scrape(&api).await?;
        for (family, kind) in EVENT_METRICS {
            let found = metrics.kind(family);
            ensure!(found == Some(kind), "{service}: {family} is {found:?}");
        }
        expect_saga_counts(&theater, service, &metrics).with_context(|| service.to_owned())?;
        wait_for_lag(&theater, service, 0..=0).await?;
    }
    expect_healthy(api).await?;
    let at_gateway = scrape(api).await?;
    let at_movie = scrape(&service_api(&theater, "movie")?).await?;
    expect_request_metrics(&at_gateway, "/movies/{rest}*", unknown_id)?;
    expect_request_metrics(&at_movie, "/movies/{id}", unknown_id)?;
    ensure!(at_gateway.sum(REQUESTS, &[("http_route", "unmatched")]) == Some(1.0), "{at_gateway:?}");
    outbox_backlog_is_counted(&theater).await?;
    lag_is_counted(&theater).await?;
    undecided_reservations_are_counted(&theater).await?;
    theater.stop().await
}

fn service_api(theater: &Theater, service: &str) -> anyhow::Result<Api> {
    Api::new(format!("http://127.0.0.1:{}", theater.port(service)))
}

async fn scrape(api: &Api) -> anyhow::Result<Metrics> {
    let call = Call::get("/metrics", 200).expect_header("content-type", "text/plain; version=0.0.4");
    parse(&call.play(api).await?.text)
}

async fn expect_healthy(api: &Api) -> anyhow::Result<()> {
    let calls = [
        Call::get("/livez", 200).expect_body(json!({"status": "alive"})),
        Call::get("/readyz", 200).expect_body(json!({"status": "ready"})),
    ];
    play(api, calls).await
}

/// Three sagas are confirmed, one of which is then cancelled. Two are rejected, one for each reason.
async fn run_sagas(theater: &Theater) -> anyhow::Result<()> {
    let api = &theater.api;
    let movie = api.publish(10).await?;
    let mut first = None;
    for count in [2, 3, 5] {
        first = first.or(Some(api.reserve(movie, count).await?));
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    api.reserve(movie, 1).await?;
    api.reserve(Uuid::now_v7(), 1).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let first = first.context("none was placed")?;
    play(api, [Call::delete(format!("/reservations/{first}"), 202)]).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await
}

/// One record on each topic that no consumer can parse.
async fn produce_malformed_records(theater: &Theater) -> anyhow::Result<()> {
    let producer = records::producer(&theater.config.bootstrap)?;
    for topic in ["reservations", "movies"] {
        let topic = format!("{}{topic}", theater.config.prefix);
        records::produce(&producer, &topic, &records::without_headers("x", b"not JSON")).await?;
    }
    checks::wait_until_at_rest(&theater.config, SOON).await
}

/// The metrics that count the sagas.
fn expect_saga_counts(theater: &Theater, service: &str, metrics: &Metrics) -> anyhow::Result<()> {
    let topic = if service == "reservation" { "movies" } else { "reservations" };
    let topic = format!("{}{topic}", theater.config.prefix);
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        let found = metrics.sum(name, labels);
        ensure!(found == Some(expected), "{name} {labels:?} is {found:?}, not {expected}");
        Ok(())
    };
    is("dead_letters_total", &[("topic", &topic), ("reason", "malformed")], 1.0)?;
    // The request of this scrape.
    is("http_server_active_requests", &[], 1.0)?;
    is("consumer_assigned_partitions", &[], f64::from(PARTITIONS))?;
    // Seven movie events: one published, three allocated, two rejected, one released. Eleven reservation events: five
    // placed, five decided, one cancelled.
    let (read, sent) = match service {
        "reservation" => (7.0, 11.0),
        "movie" => (11.0, 7.0),
        _ => (11.0, 0.0),
    };
    // And the malformed record, which is sent as a dead letter.
    is("consumer_batch_records_sum", &[], read + 1.0)?;
    is("outbox_sent_events_total", &[], sent + 1.0)?;
    let batches = metrics.sum("consumer_batch_records_count", &[]).context("no batches")?;
    ensure!((1.0..=read + 1.0).contains(&batches), "{batches} batches");
    is("consumer_batch_duration_seconds_count", &[], batches)?;
    ensure!(metrics.sum("consumer_batch_duration_seconds_sum", &[]) > Some(0.0), "batches took no time");
    if service == "reservation" {
        for (status, reason, count) in [
            ("CONFIRMED", "", 3.0),
            ("CANCELLED", "OUT_OF_STOCK", 1.0),
            ("CANCELLED", "MOVIE_NOT_FOUND", 1.0),
            ("CANCELLED", "CUSTOMER", 1.0),
        ] {
            is("saga_outcomes_total", &[("status", status), ("reason", reason)], count)?;
        }
        is("saga_outcomes_total", &[], 6.0)?;
        // Each was decided once; the later cancellation is not a decision.
        is("saga_decision_duration_seconds_count", &[], 5.0)?;
        let took = metrics.sum("saga_decision_duration_seconds_sum", &[]);
        ensure!(took > Some(0.0) && took < Some(100.0), "decisions took {took:?} s");
    }
    Ok(())
}

/// Request durations have labels for route and status, and none with text that a client wrote into a path.
fn expect_request_metrics(metrics: &Metrics, route: &str, unknown_id: Uuid) -> anyhow::Result<()> {
    let labels =
        [("http_request_method", "GET"), ("http_route", route), ("http_response_status_code", "404")];
    let count = metrics.sum(REQUESTS, &labels);
    ensure!(count == Some(2.0), "{route}: {count:?}");
    let took = metrics.sum("http_server_request_duration_seconds_sum", &labels);
    ensure!(took > Some(0.0) && took < Some(100.0), "{route}: {took:?} s");
    for sample in metrics.samples(REQUESTS) {
        let named = sample.labels.values().any(|value| value.contains(&unknown_id.to_string()));
        ensure!(!named, "{sample:?}");
    }
    Ok(())
}

/// Counts an event in the outbox that is an hour old and that no relay sends.
async fn outbox_backlog_is_counted(theater: &Theater) -> anyhow::Result<()> {
    for service in SERVICES {
        let mut connection = PgConnection::connect(theater.config.database_url(service)).await?;
        connection
            .execute(
                "insert into outbox (shard, topic, headers, created_at)
                 values (999, 'nowhere', '[]', clock_timestamp() - interval '1 hour')",
            )
            .await?;
    }
    for service in SERVICES {
        let api = service_api(theater, service)?;
        eventually("the outbox is counted", SOON, async || {
            let metrics = scrape(&api).await?;
            let backlog = metrics.sum("outbox_backlog_events", &[]);
            let age = metrics.sum("outbox_age_seconds", &[]);
            ensure!(backlog == Some(1.0), "{service}: {backlog:?} wait");
            ensure!(age >= Some(3_600.0) && age < Some(3_700.0), "{service}: for {age:?} s");
            Ok(())
        })
        .await?;
        let mut connection = PgConnection::connect(theater.config.database_url(service)).await?;
        connection.execute("delete from outbox where shard = 999").await?;
    }
    Ok(())
}

/// While a consumer can't write, its lag is counted. Afterwards the lag is 0.
async fn lag_is_counted(theater: &Theater) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&theater.config.notification_url).await?;
    let mut lock = connection.begin().await?;
    lock.execute("lock table notification in access exclusive mode").await?;
    theater.api.reserve(Uuid::now_v7(), 1).await?;
    // Of the two events, the consumer writes only the cancellation. It may have applied the placement already.
    wait_for_lag(theater, "notification", 1..=2).await?;
    lock.rollback().await?;
    wait_for_lag(theater, "notification", 0..=0).await?;
    wait_for_lag(theater, "reservation-list", 0..=0).await
}

/// While the movie service can't decide, the undecided reservations and the age of the oldest are counted. Afterwards both
/// are 0.
async fn undecided_reservations_are_counted(theater: &Theater) -> anyhow::Result<()> {
    let api = service_api(theater, "reservation")?;
    let wait_for_undecided = async |fits: fn(f64, f64) -> bool| {
        eventually("the undecided are counted", SOON, async || {
            let metrics = scrape(&api).await?;
            let reservations = metrics.sum("saga_undecided_reservations", &[]).context("no number")?;
            let oldest = metrics.sum("saga_oldest_undecided_seconds", &[]).context("no age")?;
            let overdue = metrics.sum("saga_overdue_seconds", &[]).context("not whether it is overdue")?;
            ensure!(overdue == 0.0, "overdue since {overdue} s, within the deadline");
            ensure!(fits(reservations, oldest), "{reservations} since {oldest} s");
            Ok(())
        })
        .await
    };
    let mut connection = PgConnection::connect(&theater.config.movie_url).await?;
    let mut lock = connection.begin().await?;
    lock.execute("lock table decision in access exclusive mode").await?;
    theater.api.reserve(Uuid::now_v7(), 1).await?;
    wait_for_undecided(|reservations, oldest| reservations == 1.0 && oldest > 0.0).await?;
    lock.rollback().await?;
    wait_for_undecided(|reservations, oldest| reservations == 0.0 && oldest == 0.0).await
}

async fn wait_for_lag(theater: &Theater, service: &str, records: RangeInclusive<u32>) -> anyhow::Result<()> {
    let api = service_api(theater, service)?;
    eventually("the lag is counted", SOON, async || {
        let metrics = scrape(&api).await?;
        let topic = if service == "reservation" { "movies" } else { "reservations" };
        let topic = format!("{}{topic}", theater.config.prefix);
        for partition in 0..PARTITIONS {
            let labels = [("topic", topic.as_str()), ("partition", &partition.to_string())];
            let lag = metrics.sum("consumer_lag_records", &labels);
            ensure!(lag.is_some(), "{service}: no lag of partition {partition}");
        }
        let lag = metrics.sum("consumer_lag_records", &[]).unwrap_or_default();
        let fits = records.clone().any(|records| lag == f64::from(records));
        ensure!(fits, "{service}: {lag} records");
        Ok(())
    })
    .await
}
