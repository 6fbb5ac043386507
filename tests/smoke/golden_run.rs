//! The golden run, played over HTTP. Kafka's own console consumer then reads its events from the topics.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use theater_tests::api::reservation;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);
const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";

pub(crate) async fn is_played_and_read_by_the_console_consumer(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup { partitions: 1, ..Setup::default() }).await?;
    let movie = play(&theater.api).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, &theater.api).await?;
    let prefix = theater.config.prefix.clone();
    theater.stop().await?;

    let reservations = consume(environment, &format!("{prefix}reservations"), 7).await?;
    let event_types: Vec<_> = reservations.iter().map(|event| event["eventType"].clone()).collect();
    ensure!(
        event_types
            == [
                "ReservationPlaced",
                "ReservationConfirmed",
                "ReservationPlaced",
                "ReservationCancelled",
                "ReservationPlaced",
                "ReservationConfirmed",
                "ReservationCancelled"
            ],
        "{event_types:?}"
    );
    let movies = consume(environment, &format!("{prefix}movies"), 5).await?;
    let types_and_stock: Vec<_> =
        movies.iter().map(|event| (event["eventType"].clone(), event["qty"].clone())).collect();
    let expected = [
        ("MoviePublished", 100),
        ("TicketsAllocated", 55),
        ("AllocationRejected", 55),
        ("TicketsAllocated", 0),
        ("TicketsReleased", 45),
    ];
    ensure!(
        types_and_stock == expected.map(|(event, qty)| (json!(event), json!(qty))),
        "{types_and_stock:?}"
    );
    ensure!(movies.iter().all(|event| event["movieId"] == json!(movie)), "of one movie");
    Ok(())
}

/// Steps 1 to 5 of the golden run. Returns the movie.
async fn play(api: &Api) -> anyhow::Result<Uuid> {
    let movie = api.publish(100).await?;
    let first = reserve(api, movie, 45, "CONFIRMED", 55).await?;
    let second = reserve(api, movie, 57, "CANCELLED", 55).await?;
    let third = reserve(api, movie, 55, "CONFIRMED", 0).await?;
    let answer = api.delete(&format!("/reservations/{first}")).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    eventually("45 are left", SOON, async || {
        ensure!(api.tickets_left(movie).await? == 45);
        Ok(())
    })
    .await?;
    wait_for_outcome(api, second, "CANCELLED", Some("OUT_OF_STOCK")).await?;
    wait_for_outcome(api, first, "CANCELLED", Some("CUSTOMER")).await?;
    let again = api.delete(&format!("/reservations/{first}")).await?;
    ensure!(again.status == StatusCode::OK, "cancelled already: {again:?}");
    eventually("only the third is listed", SOON, async || {
        let listed = api.list_all("/reservationLists?userId=7").await?;
        ensure!(listed.len() == 1 && listed[0]["reserveId"] == json!(third), "{listed:?}");
        Ok(())
    })
    .await?;
    Ok(movie)
}

async fn reserve(api: &Api, movie: Uuid, count: i64, status: &str, left: i64) -> anyhow::Result<Uuid> {
    let id = Uuid::now_v7();
    let answer = api.post("/reservations", &reservation(id, movie, count)).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    ensure!(answer.header("location") == Some(&format!("/reservations/{id}")), "{answer:?}");
    ensure!(answer.json()?["reserveStatus"] == "PENDING", "{answer:?}");
    wait_for_outcome(api, id, status, None).await?;
    ensure!(api.tickets_left(movie).await? == left, "left after {count}");
    Ok(id)
}

async fn wait_for_outcome(api: &Api, id: Uuid, status: &str, reason: Option<&str>) -> anyhow::Result<()> {
    eventually("the reservation has ended and is notified", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == json!(status), "{reservation}");
        if let Some(reason) = reason {
            ensure!(reservation["cancelReason"] == json!(reason), "{reservation}");
        }
        let notified = api.list_all(&format!("/notifications?reserveId={id}")).await?;
        ensure!(notified.iter().any(|row| row["reserveStatus"] == json!(status)), "{notified:?}");
        Ok(())
    })
    .await
}

/// The events of a topic as an operator reads them, with keys and headers.
async fn consume(environment: &Environment, topic: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    let max_messages = count.to_string();
    let args = [
        "--topic",
        topic,
        "--from-beginning",
        "--formatter-property",
        "print.key=true",
        "--formatter-property",
        "print.headers=true",
        "--max-messages",
        &max_messages,
        "--timeout-ms",
        "20000",
    ];
    let printed = environment.run_kafka_tool(CONSOLE_CONSUMER, &args).await?;
    let mut events = Vec::new();
    for line in printed.lines() {
        let mut columns = line.splitn(3, '\t');
        let (headers, key, value) = (columns.next(), columns.next(), columns.next());
        let headers = headers.context("headers")?;
        let event: Value = serde_json::from_str(value.with_context(|| line.to_owned())?)?;
        ensure!(event["movieId"].as_str() == key, "the key is the movie: {line}");
        for header in
            ["ce_id:", "ce_type:theater.", "traceparent:00-", "correlation_id:", "ce_specversion:1.0"]
        {
            ensure!(headers.contains(header), "{header} is missing: {line}");
        }
        events.push(event);
    }
    ensure!(events.len() == count, "{topic}: {count} events were expected: {printed}");
    Ok(events)
}
