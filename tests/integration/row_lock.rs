//! A transaction of a test's own that holds what a service needs: the service stands still between two of its
//! statements, and can be looked at.

use std::time::Duration;

use anyhow::ensure;
use sqlx::{Connection, PgConnection};
use theater_tests::eventually;

const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Holder {
    connection: PgConnection,
    looking: PgConnection,
    pid: i32,
}

impl Holder {
    /// Begins with a statement that takes locks.
    pub(crate) async fn of(database: &str, locks: &'static str) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(database).await?;
        let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
        let looking = PgConnection::connect(database).await?;
        let mut holder = Self { connection, looking, pid };
        holder.execute("begin").await?;
        holder.execute(locks).await?;
        Ok(holder)
    }

    pub(crate) async fn execute(&mut self, sql: &'static str) -> anyhow::Result<()> {
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Waits until so many sessions wait for this one, in statements that begin like that; answers which.
    pub(crate) async fn holds_up(&mut self, sessions: usize, statement: &str) -> anyhow::Result<Vec<i32>> {
        let (looking, pid) = (&mut self.looking, self.pid);
        eventually(statement, SOON, async || {
            let waiting: Vec<i32> = sqlx::query_scalar(
                "select pid from pg_stat_activity
                 where $1 = any (pg_blocking_pids(pid)) and starts_with(query, $2)",
            )
            .bind(pid)
            .bind(statement)
            .fetch_all(&mut *looking)
            .await?;
            ensure!(waiting.len() >= sessions, "{} of {sessions} wait", waiting.len());
            Ok(waiting)
        })
        .await
    }

    /// Lets everybody go on.
    pub(crate) async fn release(mut self) -> anyhow::Result<()> {
        self.execute("commit").await
    }
}
