//! The connection pool, migrations under a lock, the time limits of every session, and transactions.

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

/// How long a caller waits for a free connection. After that the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a start waits for a database that doesn't accept connections yet.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest duration of a whole transaction, measured by the client.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(8);

static RUNTIME_MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The settings of a session that does the service's work. Their limits end the locks of a client that disappeared,
/// and of a slow statement.
pub fn session_options(url: &PgConnectOptions, name: &str) -> PgConnectOptions {
    url.clone()
        .application_name(name)
        .options([("idle_in_transaction_session_timeout", "5s"), ("statement_timeout", "5s")])
}

/// Migrates the runtime's tables and then the service's own, each under PostgreSQL's advisory lock, so that replicas
/// can start at the same time. Then returns a pool.
///
/// # Errors
/// If the database can't be reached within a minute, or a migration fails.
pub async fn migrate_and_connect(
    config: &EventsConfig,
    name: &str,
    settings: &[(&str, &str)],
    service_migrations: &Migrator,
) -> anyhow::Result<PgPool> {
    let url = &config.database_url.0;
    migrate(url, name, service_migrations)
        .await
        .with_context(|| format!("the database {:?}", config.database_url))?;
    let options = session_options(url, name).options(settings.iter().copied());
    let pool = PgPoolOptions::new()
        .max_connections(config.database_max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options);
    Ok(pool)
}

async fn migrate(url: &PgConnectOptions, name: &str, service_migrations: &Migrator) -> anyhow::Result<()> {
    // Without a statement limit: migrations may take longer than any statement of the service.
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
        .when(is_not_ready)
        .notify(|error, wait| warn!(%error, ?wait, "the database can't be reached yet"))
        .await?;
    let mut runtime = ignoring_unknown(&RUNTIME_MIGRATIONS);
    runtime.dangerous_set_table_name("_runtime_migrations");
    let migrated = runtime.run(&mut connection);
    failpoint(failpoints::MIGRATE_RUNTIME, migrated).await.context("migrating the runtime's tables")?;
    let service = ignoring_unknown(service_migrations);
    let migrated = service.run(&mut connection);
    failpoint(failpoints::MIGRATE_SERVICE, migrated).await.context("migrating the service's tables")?;
    connection.close().await?;
    Ok(())
}

/// Ignores migrations that a newer release has applied and this one doesn't know: while a new release is rolled out
/// an old replica may start again, and after a roll-back all of them do. So no migration may remove what the release
/// before it uses.
fn ignoring_unknown(migrations: &Migrator) -> Migrator {
    let mut migrator = Migrator::with_migrations(migrations.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    migrator
}

/// Whether the server may accept connections later: it can't be reached, is starting or stopping, or has too many
/// connections. Any other error ends the start.
fn is_not_ready(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(database) => {
            database.code().is_some_and(|code| code.starts_with("57") || code.starts_with("53"))
        }
        _ => false,
    }
}

/// One transaction. If it wasn't committed, its connection is closed instead of returned to the pool: so a server
/// that no longer answers can't block the connection's next user, and a server that does answer rolls back.
pub struct Transaction {
    connection: PoolConnection<Postgres>,
    committed: bool,
}

impl Transaction {
    /// Takes a connection of the pool and begins a transaction.
    ///
    /// # Errors
    /// If the pool has no connection that answers in time.
    pub async fn begin(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let mut transaction = Self { connection: pool.acquire().await?, committed: false };
        sqlx::raw_sql("begin").execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// Commits. After an error the transaction may have been committed nevertheless.
    ///
    /// # Errors
    /// If the database fails.
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

/// A connection for reading outside a transaction. If the answer didn't come, the connection is closed instead of
/// returned to the pool: the pool would wait for a server that doesn't answer.
pub struct ReadConnection {
    connection: PoolConnection<Postgres>,
    ended: bool,
}

impl ReadConnection {
    /// Takes a connection of the pool.
    ///
    /// # Errors
    /// If the pool has no connection that answers in time.
    pub async fn begin(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: pool.acquire().await?, ended: false })
    }

    /// Returns the connection to the pool.
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

/// Runs the work of a transaction that has no time limit of a request.
///
/// # Errors
/// If the work fails; [`Fault::Timeout`] if it exceeds the limit.
pub async fn with_time_limit<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(TRANSACTION_LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(Fault::Timeout(format!("no answer from the database within {TRANSACTION_LIMIT:?}"))),
    }
}
