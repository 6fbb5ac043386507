//! A log that is not the one that was read: nothing of it may be applied until an operator says where to
//! go on.

use std::time::Duration;

use anyhow::ensure;
use rdkafka::admin::AdminOptions;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use theater_tests::theater::Stage;
use theater_tests::{Environment, Setup, Theater, checks, eventually, log, records, topics};
use uuid::Uuid;

use crate::bad::{allocated, bytes, placed};
use crate::look::{self, SERVICES};

const SOON: Duration = Duration::from_secs(60);

/// More than was read of the old log: something else stands where the last record stood.
const LONGER: i64 = 40;
/// Less: the position is outside.
const SHORTER: i64 = 2;

pub(crate) async fn a_log_made_anew_is_held(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(1_000).await?;
    for _ in 0..5 {
        theater.api.reserve(movie, 1).await?;
    }
    checks::at_rest(&theater.stage, SOON).await?;
    let rows = look::rows(&theater.stage).await?;
    let positions = positions(&theater.stage).await?;
    for service in SERVICES {
        theater.stop_service(service).await?;
    }
    let [reservations, movies] =
        ["reservations", "movies"].map(|topic| format!("{}{topic}", theater.stage.prefix));
    make_anew(&theater.stage, &reservations, movie, LONGER).await?;
    make_anew(&theater.stage, &movies, movie, SHORTER).await?;

    for service in SERVICES {
        theater.start_again(service).await?;
    }
    held(&theater).await?;
    look::same(&rows, &look::rows(&theater.stage).await?)?;
    // Further records don't help: they are of the other log too.
    let later =
        eventually("reservations are taken", SOON, async || theater.api.reserve(movie, 1).await).await?;
    eventually("it is sent", SOON, async || {
        let sent = log::read(&theater.stage.bootstrap, &reservations).await?.len();
        ensure!(i64::try_from(sent)? == LONGER + 1, "{sent}");
        Ok(())
    })
    .await?;
    held(&theater).await?;
    ensure!(self::positions(&theater.stage).await? == positions, "a position was moved");
    ensure!(theater.api.left(movie).await? == 995, "something of the new log was applied");

    // What the message tells the operator to do.
    for service in SERVICES {
        theater.stop_service(service).await?;
        let next = if service == "reservation" { SHORTER } else { LONGER };
        let mut connection = PgConnection::connect(theater.stage.database_url(service)).await?;
        sqlx::query("update consumer_offset set next = $1, last_record = null")
            .bind(next)
            .execute(&mut connection)
            .await?;
    }
    for service in SERVICES {
        theater.start_again(service).await?;
    }
    eventually("it goes on", SOON, async || {
        let reservation = theater.api.reservation(later).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await?;
    checks::at_rest(&theater.stage, SOON).await?;
    ensure!(theater.api.left(movie).await? == 994, "only what came after that place");
    theater.stop().await
}

async fn held(theater: &Theater) -> anyhow::Result<()> {
    for service in SERVICES {
        eventually("the partition is held", SOON, async || {
            let held = look::metric(theater.port(service), "consumer_partition_held", "").await?;
            ensure!(held == 1.0, "{service} holds {held}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn positions(stage: &Stage) -> anyhow::Result<Vec<(i64, Option<String>)>> {
    let mut positions = Vec::new();
    for service in SERVICES {
        let mut connection = PgConnection::connect(stage.database_url(service)).await?;
        let of_service: Vec<(i64, Option<String>)> =
            sqlx::query_as("select next, last_record from consumer_offset")
                .fetch_all(&mut connection)
                .await?;
        ensure!(of_service.len() == 1 && of_service[0].0 > SHORTER, "{service}: {of_service:?}");
        positions.extend(of_service);
    }
    Ok(positions)
}

/// Deletes the topic, makes it again, and fills it with records that would change every service.
async fn make_anew(stage: &Stage, topic: &str, movie: Uuid, count: i64) -> anyhow::Result<()> {
    let admin = topics::admin(&stage.bootstrap)?;
    for deleted in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
        deleted.map_err(|(name, error)| anyhow::anyhow!("{name}: {error}"))?;
    }
    // Its name is free once the broker has forgotten it.
    eventually("the topic is made again", SOON, async || topics::create(&stage.bootstrap, topic, &[]).await)
        .await?;
    let producer = records::producer(&stage.bootstrap)?;
    for place in 0..count {
        let id = Uuid::now_v7();
        let event = match place % 3 {
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
        let record = records::bare(&movie.to_string(), &bytes(&event));
        records::produce(&producer, topic, &record).await?;
    }
    Ok(())
}
