//! A release beside a newer one: while that is rolled out an old replica may start again, and after a roll-back all of
//! them do, on a schema that the newer one has migrated.

use std::time::Duration;

use anyhow::ensure;
use sqlx::{Connection, PgConnection};
use theater_tests::{Environment, Setup, Theater, checks, eventually};

use crate::look::SERVICES;

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn starts_after_a_newer_one_has_migrated(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup::default()).await?;
    let movie = theater.api.publish(10).await?;
    for service in SERVICES {
        theater.stop_service(service).await?;
        let mut connection = PgConnection::connect(theater.stage.database_url(service)).await?;
        for table in ["_sqlx_migrations", "_runtime_migrations"] {
            // The name is one of the two above.
            let migrated = format!(
                "insert into {table} (version, description, success, checksum, execution_time)
                 values (9999, 'of a newer release', true, '', 0)"
            );
            sqlx::query(sqlx::AssertSqlSafe(migrated)).execute(&mut connection).await?;
        }
        theater.start_again(service).await?;
    }
    let id = eventually("reservations are taken", SOON, async || theater.api.reserve(movie, 1).await).await?;
    eventually("it is decided", SOON, async || {
        let reservation = theater.api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await?;
    checks::at_rest(&theater.stage, SOON).await?;
    theater.stop().await
}
