//! A rolling upgrade: an older replica may restart while a newer release is rolled out, and all of them do after a
//! roll-back. They then start on a schema that the newer release has migrated.

use std::time::Duration;

use anyhow::ensure;
use sqlx::{Connection, PgConnection};
use theater_tests::{Environment, Setup, Theater, checks, eventually};

use crate::snapshot::SERVICES;

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn an_older_release_starts_on_a_newer_schema(
    environment: &Environment,
) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup::default()).await?;
    let movie = theater.api.publish(10).await?;
    for service in SERVICES {
        theater.stop_service(service).await?;
        let mut connection = PgConnection::connect(theater.config.database_url(service)).await?;
        for table in ["_sqlx_migrations", "_runtime_migrations"] {
            // Safe to format: the table is one of the two above.
            let migrated = format!(
                "insert into {table} (version, description, success, checksum, execution_time)
                 values (9999, 'of a newer release', true, '', 0)"
            );
            sqlx::query(sqlx::AssertSqlSafe(migrated)).execute(&mut connection).await?;
        }
        theater.restart_service(service).await?;
    }
    let id =
        eventually("reservations are accepted", SOON, async || theater.api.reserve(movie, 1).await).await?;
    eventually("it is decided", SOON, async || {
        let reservation = theater.api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    theater.stop().await
}
