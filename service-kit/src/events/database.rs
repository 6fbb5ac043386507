//! The pool, migrations under a lock, and the time limits of every session.

use std::time::Duration;

use anyhow::Context;
use backon::{ExponentialBuilder, Retryable};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use tracing::warn;

use super::config::EventsConfig;
use super::fault::Fault;

/// How long a caller waits for a free connection before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a start waits for a database that doesn't answer yet.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often `begin` takes another connection when the pool's own turn out to be dead.
const BEGIN_TRIES: usize = 10;

static RUNTIME: Migrator = sqlx::migrate!("./migrations");

/// The limits of a session that does the service's work: neither a lost client nor a slow statement
/// may hold locks for long.
pub fn session(url: &PgConnectOptions, name: &str) -> PgConnectOptions {
    url.clone()
        .application_name(name)
        .options([("idle_in_transaction_session_timeout", "5s"), ("statement_timeout", "5s")])
}

/// Connects, and brings the schema up to date: the runtime's tables and then the service's own, each
/// under PostgreSQL's advisory lock, so that replicas can start together.
///
/// # Errors
/// A database that can't be reached within a minute, or a migration that fails.
pub async fn connect(
    config: &EventsConfig,
    name: &str,
    asynchronous_commit: bool,
    service: &Migrator,
) -> anyhow::Result<PgPool> {
    let url = &config.database_url.0;
    migrate(url, name, service).await.with_context(|| format!("the database {:?}", config.database_url))?;
    let mut options = session(url, name);
    if asynchronous_commit {
        options = options.options([("synchronous_commit", "off")]);
    }
    let pool = PgPoolOptions::new()
        .max_connections(config.database_max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping before each use would cost a round trip; `begin` copes with dead connections.
        .test_before_acquire(false)
        .connect_lazy_with(options);
    Ok(pool)
}

async fn migrate(url: &PgConnectOptions, name: &str, service: &Migrator) -> anyhow::Result<()> {
    // Migrations may take longer than any statement of the service.
    let options = url.clone().application_name(name);
    let connect = || async { PgConnection::connect_with(&options).await };
    let mut connection = connect
        .retry(
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(100))
                .with_max_delay(Duration::from_secs(2))
                .with_total_delay(Some(START_TIMEOUT))
                .without_max_times(),
        )
        .when(|error| matches!(passing(error), Fault::Passing(_)))
        .notify(|error, wait| warn!(%error, ?wait, "the database is not there yet"))
        .await?;
    let mut runtime = Migrator::with_migrations(RUNTIME.iter().cloned().collect());
    runtime.dangerous_set_table_name("_runtime_migrations");
    runtime.run(&mut connection).await.context("migrating the runtime's tables")?;
    service.run(&mut connection).await.context("migrating the service's tables")?;
    connection.close().await?;
    Ok(())
}

fn passing(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Io(io) => Fault::Passing(io.to_string()),
        sqlx::Error::Database(database) => match database.code() {
            Some(code) if code.starts_with("57") || code.starts_with("53") => {
                Fault::Passing(database.to_string())
            }
            _ => Fault::Fatal(database.to_string()),
        },
        other => Fault::Fatal(other.to_string()),
    }
}

/// Begins a transaction. After the database was away, the pool holds dead connections: a `begin` that
/// failed has done nothing, so it takes the next one.
///
/// # Errors
/// The pool's, once no connection could be had.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut tries = 0;
    loop {
        match pool.begin().await {
            Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Database(_))
                if tries < BEGIN_TRIES =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}
