//! The pool, migrations under a lock, and the time limits of every session.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use anyhow::Context;
use backon::{ExponentialBuilder, Retryable};
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tracing::warn;

use super::config::EventsConfig;
use super::failpoint::failpoint;
use super::failpoints;
use super::fault::Fault;

/// How long a caller waits for a free connection before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a start waits for a database that doesn't answer yet.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a transaction may take in all, as its client sees it.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(8);

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
    settings: &[(&str, &str)],
    service: &Migrator,
) -> anyhow::Result<PgPool> {
    let url = &config.database_url.0;
    migrate(url, name, service).await.with_context(|| format!("the database {:?}", config.database_url))?;
    let options = session(url, name).options(settings.iter().copied());
    let pool = PgPoolOptions::new()
        .max_connections(config.database_max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
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
        .when(|error| matches!(passing(error), Fault::Transient(_)))
        .notify(|error, wait| warn!(%error, ?wait, "the database is not there yet"))
        .await?;
    let mut runtime = beside_newer(&RUNTIME);
    runtime.dangerous_set_table_name("_runtime_migrations");
    let migrated = runtime.run(&mut connection);
    failpoint(failpoints::MIGRATE_RUNTIME, migrated).await.context("migrating the runtime's tables")?;
    let service = beside_newer(service);
    let migrated = service.run(&mut connection);
    failpoint(failpoints::MIGRATE_SERVICE, migrated).await.context("migrating the service's tables")?;
    connection.close().await?;
    Ok(())
}

/// Migrations that a newer release has applied, and this one doesn't know, are passed over: while a new release is rolled
/// out an old replica may start again, and after a roll-back all of them do. So no migration takes away what the release
/// before it uses.
fn beside_newer(migrations: &Migrator) -> Migrator {
    let mut migrator = Migrator::with_migrations(migrations.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    migrator
}

fn passing(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Io(io) => Fault::Transient(io.to_string()),
        sqlx::Error::Database(database) => match database.code() {
            Some(code) if code.starts_with("57") || code.starts_with("53") => {
                Fault::Transient(database.to_string())
            }
            _ => Fault::Fatal(database.to_string()),
        },
        other => Fault::Fatal(other.to_string()),
    }
}

/// One transaction. Unless it was committed, its connection is closed, not given back: a server that no
/// longer answers can't then hold up whoever comes next, and one that does rolls back.
pub struct Transaction {
    connection: PoolConnection<Postgres>,
    committed: bool,
}

impl Transaction {
    /// Begins one.
    ///
    /// # Errors
    /// The pool's, when no connection that answers can be had in time.
    pub async fn begin(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let mut transaction = Self { connection: pool.acquire().await?, committed: false };
        sqlx::raw_sql("begin").execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// Commits it. After an error it may have been committed all the same.
    ///
    /// # Errors
    /// The database's.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("commit").execute(&mut *self).await?;
        self.committed = true;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.committed {
            self.connection.close_on_drop();
        }
    }
}

/// A connection for reading. Unless the answer came, it is closed, not given back: the pool would wait for
/// a server that is gone.
pub struct ReadConnection {
    connection: PoolConnection<Postgres>,
    ended: bool,
}

impl ReadConnection {
    /// Takes one.
    ///
    /// # Errors
    /// The pool's, when no connection that answers can be had in time.
    pub async fn begin(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: pool.acquire().await?, ended: false })
    }

    /// Gives it back.
    pub fn end(mut self) {
        self.ended = true;
    }
}

impl Deref for ReadConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for ReadConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for ReadConnection {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

/// Bounds the work of a transaction that no request's own limit bounds.
///
/// # Errors
/// The work's; a passing fault when the limit is over.
pub async fn bounded<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(TRANSACTION_LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(Fault::Timeout(format!("no answer from the database within {TRANSACTION_LIMIT:?}"))),
    }
}
