//! `/metrics`, `/livez` and `/readyz` of every service, after things that they must have counted.

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

/// What every service that reads the log has.
const OF_EVENTS: [(&str, &str); 13] = [
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

pub(crate) async fn metrics_tell_what_happened(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: PARTITIONS, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let api = &theater.api;
    let gone = Uuid::now_v7();
    sagas(&theater).await?;
    dead_letters(&theater).await?;
    let calls = [
        Call::get(format!("/movies/{gone}"), 404),
        Call::get(format!("/movies/{gone}"), 404),
        Call::get(format!("/{gone}"), 404),
    ];
    play(api, calls).await?;
    checks::at_rest(&theater.stage, SOON).await?;

    for service in SERVICES {
        let api = service_api(&theater, service)?;
        healthy(&api).await?;
        let metrics = scrape(&api).await?;
        for (family, kind) in OF_EVENTS {
            let found = metrics.kind(family);
            ensure!(found == Some(kind), "{service}: {family} is {found:?}");
        }
        counted(&theater, service, &metrics).with_context(|| service.to_owned())?;
        lag_is(&theater, service, 0..=0).await?;
    }
    healthy(api).await?;
    let at_gateway = scrape(api).await?;
    let at_movie = scrape(&service_api(&theater, "movie")?).await?;
    requests(&at_gateway, "/movies/{rest}*", gone)?;
    requests(&at_movie, "/movies/{id}", gone)?;
    ensure!(at_gateway.sum(REQUESTS, &[("http_route", "unmatched")]) == Some(1.0), "{at_gateway:?}");
    waiting_events_are_counted(&theater).await?;
    lag_is_counted(&theater).await?;
    the_undecided_are_counted(&theater).await?;
    theater.stop().await
}

fn service_api(theater: &Theater, service: &str) -> anyhow::Result<Api> {
    Api::new(format!("http://127.0.0.1:{}", theater.port(service)))
}

async fn scrape(api: &Api) -> anyhow::Result<Metrics> {
    let call = Call::get("/metrics", 200).header("content-type", "text/plain; version=0.0.4");
    parse(&call.play(api).await?.text)
}

async fn healthy(api: &Api) -> anyhow::Result<()> {
    let calls = [
        Call::get("/livez", 200).shows(json!({"status": "alive"})),
        Call::get("/readyz", 200).shows(json!({"status": "ready"})),
    ];
    play(api, calls).await
}

/// Three confirmed, of which one is cancelled; two rejected, for either reason.
async fn sagas(theater: &Theater) -> anyhow::Result<()> {
    let api = &theater.api;
    let movie = api.publish(10).await?;
    let mut first = None;
    for count in [2, 3, 5] {
        first = first.or(Some(api.reserve(movie, count).await?));
    }
    checks::at_rest(&theater.stage, SOON).await?;
    api.reserve(movie, 1).await?;
    api.reserve(Uuid::now_v7(), 1).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let first = first.context("none was placed")?;
    play(api, [Call::delete(format!("/reservations/{first}"), 202)]).await?;
    checks::at_rest(&theater.stage, SOON).await
}

/// One record on each topic that nobody can read.
async fn dead_letters(theater: &Theater) -> anyhow::Result<()> {
    let producer = records::producer(&theater.stage.bootstrap)?;
    for topic in ["reservations", "movies"] {
        let topic = format!("{}{topic}", theater.stage.prefix);
        records::produce(&producer, &topic, &records::bare("x", b"not JSON")).await?;
    }
    checks::at_rest(&theater.stage, SOON).await
}

/// What must have been counted of the sagas.
fn counted(theater: &Theater, service: &str, metrics: &Metrics) -> anyhow::Result<()> {
    let topic = if service == "reservation" { "movies" } else { "reservations" };
    let topic = format!("{}{topic}", theater.stage.prefix);
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        let found = metrics.sum(name, labels);
        ensure!(found == Some(expected), "{name} {labels:?} is {found:?}, not {expected}");
        Ok(())
    };
    is("dead_letters_total", &[("topic", &topic), ("reason", "malformed")], 1.0)?;
    // This scrape itself.
    is("http_server_active_requests", &[], 1.0)?;
    is("consumer_assigned_partitions", &[], f64::from(PARTITIONS))?;
    // Published, allocated three times, rejected twice, released; or placed and decided, and one cancelled.
    let (read, sent) = match service {
        "reservation" => (7.0, 11.0),
        "movie" => (11.0, 7.0),
        _ => (11.0, 0.0),
    };
    // And the record that nobody can read, which is sent on.
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
        // Each was decided once; the cancellation later on was no decision.
        is("saga_decision_duration_seconds_count", &[], 5.0)?;
        let took = metrics.sum("saga_decision_duration_seconds_sum", &[]);
        ensure!(took > Some(0.0) && took < Some(100.0), "decisions took {took:?} s");
    }
    Ok(())
}

/// Durations by route and status; never by what clients write into a path.
fn requests(metrics: &Metrics, route: &str, gone: Uuid) -> anyhow::Result<()> {
    let labels =
        [("http_request_method", "GET"), ("http_route", route), ("http_response_status_code", "404")];
    let count = metrics.sum(REQUESTS, &labels);
    ensure!(count == Some(2.0), "{route}: {count:?}");
    let took = metrics.sum("http_server_request_duration_seconds_sum", &labels);
    ensure!(took > Some(0.0) && took < Some(100.0), "{route}: {took:?} s");
    for sample in metrics.samples(REQUESTS) {
        let named = sample.labels.values().any(|value| value.contains(&gone.to_string()));
        ensure!(!named, "{sample:?}");
    }
    Ok(())
}

/// An event that no relay takes, an hour old.
async fn waiting_events_are_counted(theater: &Theater) -> anyhow::Result<()> {
    for service in SERVICES {
        let mut connection = PgConnection::connect(theater.stage.database_url(service)).await?;
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
        let mut connection = PgConnection::connect(theater.stage.database_url(service)).await?;
        connection.execute("delete from outbox where shard = 999").await?;
    }
    Ok(())
}

/// While one consumer can't write, what it has not applied is counted; and then no longer.
async fn lag_is_counted(theater: &Theater) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&theater.stage.notification_url).await?;
    let mut lock = connection.begin().await?;
    lock.execute("lock table notification in access exclusive mode").await?;
    theater.api.reserve(Uuid::now_v7(), 1).await?;
    // Its cancellation is to be written; its placement, which is not, may have been read alone.
    lag_is(theater, "notification", 1..=2).await?;
    lock.rollback().await?;
    lag_is(theater, "notification", 0..=0).await?;
    lag_is(theater, "reservation-list", 0..=0).await
}

/// While nobody decides, how many wait is seen, and for how long; and then no longer.
async fn the_undecided_are_counted(theater: &Theater) -> anyhow::Result<()> {
    let api = service_api(theater, "reservation")?;
    let undecided = async |fits: fn(f64, f64) -> bool| {
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
    let mut connection = PgConnection::connect(&theater.stage.movie_url).await?;
    let mut lock = connection.begin().await?;
    lock.execute("lock table decision in access exclusive mode").await?;
    theater.api.reserve(Uuid::now_v7(), 1).await?;
    undecided(|reservations, oldest| reservations == 1.0 && oldest > 0.0).await?;
    lock.rollback().await?;
    undecided(|reservations, oldest| reservations == 0.0 && oldest == 0.0).await
}

async fn lag_is(theater: &Theater, service: &str, records: RangeInclusive<u32>) -> anyhow::Result<()> {
    let api = service_api(theater, service)?;
    eventually("the lag is counted", SOON, async || {
        let metrics = scrape(&api).await?;
        let topic = if service == "reservation" { "movies" } else { "reservations" };
        let topic = format!("{}{topic}", theater.stage.prefix);
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
