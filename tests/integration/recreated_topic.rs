//! A topic that was deleted and created again: its offsets don't mean the same records any more. The consumers halt its
//! partitions and apply no record until an operator sets the position.

use std::time::Duration;

use anyhow::ensure;
use rdkafka::admin::AdminOptions;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Environment, Setup, Theater, checks, eventually, log, records, topics};
use uuid::Uuid;

use crate::malformed_records::{allocated, bytes, placed};
use crate::snapshot::{self, SERVICES};

const SOON: Duration = Duration::from_secs(60);

/// More records than the old topic had: another record is where the last applied one was.
const LONGER: i64 = 40;
/// Fewer records: the position is after the end.
const SHORTER: i64 = 2;

pub(crate) async fn its_partitions_are_halted(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(1_000).await?;
    for _ in 0..5 {
        theater.api.reserve(movie, 1).await?;
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let rows = snapshot::rows(&theater.config).await?;
    let positions = positions(&theater.config).await?;
    for service in SERVICES {
        theater.stop_service(service).await?;
    }
    let [reservations, movies] =
        ["reservations", "movies"].map(|topic| format!("{}{topic}", theater.config.prefix));
    recreate(&theater.config, &reservations, movie, LONGER).await?;
    recreate(&theater.config, &movies, movie, SHORTER).await?;

    for service in SERVICES {
        theater.restart_service(service).await?;
    }
    wait_until_halted(&theater).await?;
    snapshot::expect_unchanged(&rows, &snapshot::rows(&theater.config).await?)?;
    // Later records of the new topic are not applied either.
    let later =
        eventually("reservations are accepted", SOON, async || theater.api.reserve(movie, 1).await).await?;
    eventually("it is sent", SOON, async || {
        let sent = log::read(&theater.config.bootstrap, &reservations).await?.len();
        ensure!(i64::try_from(sent)? == LONGER + 1, "{sent}");
        Ok(())
    })
    .await?;
    wait_until_halted(&theater).await?;
    ensure!(self::positions(&theater.config).await? == positions, "a position was moved");
    ensure!(theater.api.tickets_left(movie).await? == 995, "a record of the new topic was applied");

    // The fix that the log message describes to the operator.
    for service in SERVICES {
        theater.stop_service(service).await?;
        let next = if service == "reservation" { SHORTER } else { LONGER };
        let mut connection = PgConnection::connect(theater.config.database_url(service)).await?;
        sqlx::query("update consumer_offset set next = $1, last_record = null")
            .bind(next)
            .execute(&mut connection)
            .await?;
    }
    for service in SERVICES {
        theater.restart_service(service).await?;
    }
    eventually("the consumers go on", SOON, async || {
        let reservation = theater.api.reservation(later).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    ensure!(theater.api.tickets_left(movie).await? == 994, "only records after the new position are applied");
    theater.stop().await
}

async fn wait_until_halted(theater: &Theater) -> anyhow::Result<()> {
    for service in SERVICES {
        eventually("the partition is halted", SOON, async || {
            let halted = snapshot::metric(theater.port(service), "consumer_partition_held", "").await?;
            ensure!(halted == 1.0, "{service} has halted {halted} partitions");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn positions(config: &TheaterConfig) -> anyhow::Result<Vec<(i64, Option<String>)>> {
    let mut positions = Vec::new();
    for service in SERVICES {
        let mut connection = PgConnection::connect(config.database_url(service)).await?;
        let of_service: Vec<(i64, Option<String>)> =
            sqlx::query_as("select next, last_record from consumer_offset")
                .fetch_all(&mut connection)
                .await?;
        ensure!(of_service.len() == 1 && of_service[0].0 > SHORTER, "{service}: {of_service:?}");
        positions.extend(of_service);
    }
    Ok(positions)
}

/// Deletes the topic, creates it again, and fills it with records that would change the state of every service.
async fn recreate(config: &TheaterConfig, topic: &str, movie: Uuid, count: i64) -> anyhow::Result<()> {
    let admin = topics::admin_client(&config.bootstrap)?;
    for deleted in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
        deleted.map_err(|(name, error)| anyhow::anyhow!("{name}: {error}"))?;
    }
    // The broker deletes asynchronously: until it is done, the name is taken.
    eventually("the topic is created again", SOON, async || {
        topics::create(&config.bootstrap, topic, &[]).await
    })
    .await?;
    let producer = records::producer(&config.bootstrap)?;
    for index in 0..count {
        let id = Uuid::now_v7();
        let event = match index % 3 {
            _ if topic.ends_with("movies") => allocated(id, movie, "LALALand"),
            0 => placed(id, movie),
            kind => {
                let mut event = placed(id, movie);
                event["eventType"] =
                    json!(["ReservationConfirmed", "ReservationCancelled"][usize::from(kind == 2)]);
                event["movieName"] = json!("LALALand");
                event["reason"] = json!("CUSTOMER");
                event
            }
        };
        let record = records::without_headers(&movie.to_string(), &bytes(&event));
        records::produce(&producer, topic, &record).await?;
    }
    Ok(())
}
