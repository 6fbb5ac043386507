//! Blocks a service between two of its statements: a transaction of the test holds a row or table lock that the second
//! statement needs. Meanwhile the test can inspect the database.

use std::time::Duration;

use anyhow::ensure;
use sqlx::{Connection, PgConnection};
use theater_tests::eventually;

const SOON: Duration = Duration::from_secs(30);

/// A transaction of the test that holds locks.
pub(crate) struct RowLock {
    connection: PgConnection,
    /// Sees the sessions that wait for the lock.
    monitor: PgConnection,
    pid: i32,
}

impl RowLock {
    /// Begins a transaction and takes locks by this statement.
    pub(crate) async fn acquire(database: &str, locks: &'static str) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(database).await?;
        let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
        let monitor = PgConnection::connect(database).await?;
        let mut lock = Self { connection, monitor, pid };
        lock.execute("begin").await?;
        lock.execute(locks).await?;
        Ok(lock)
    }

    pub(crate) async fn execute(&mut self, sql: &'static str) -> anyhow::Result<()> {
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Waits until at least this many sessions wait for the lock, in statements that begin with `statement`. Returns
    /// their process ids.
    pub(crate) async fn wait_until_blocking(
        &mut self,
        sessions: usize,
        statement: &str,
    ) -> anyhow::Result<Vec<i32>> {
        let (monitor, pid) = (&mut self.monitor, self.pid);
        eventually(statement, SOON, async || {
            let waiting: Vec<i32> = sqlx::query_scalar(
                "select pid from pg_stat_activity
                 where $1 = any (pg_blocking_pids(pid)) and starts_with(query, $2)",
            )
            .bind(pid)
            .bind(statement)
            .fetch_all(&mut *monitor)
            .await?;
            ensure!(waiting.len() >= sessions, "{} of {sessions} wait", waiting.len());
            Ok(waiting)
        })
        .await
    }

    /// Commits, so that the waiting sessions go on.
    pub(crate) async fn release(mut self) -> anyhow::Result<()> {
        self.execute("commit").await
    }
}
