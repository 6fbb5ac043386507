//! The outbox relay: it sends every committed row, however late it commits, in the order of `seq`. Only the owner of a
//! shard sends its rows. A row that is sent again, because its deletion failed, is the same event.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use service_kit::messaging::outbox::EVENT_SHARDS;
use service_kit::messaging::relay::LOCK_CLASS;
use sqlx::{Connection, PgConnection};
use theater_tests::log::{self, Entry};
use theater_tests::{Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::row_lock::RowLock;

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn rows_that_commit_late_are_sent(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (movie, event) = cancelled_reservation(&theater).await?;
    let topic = format!("{}reservations", theater.config.prefix);

    // These rows get their `seq` now, and one transaction commits last, the other never.
    let mut late = Writer::begin(&theater, &event).await?;
    let mut never = Writer::begin(&theater, &event).await?;
    // A row for the relay of each shard.
    let (mut late_ids, mut never_ids) = (Vec::new(), Vec::new());
    for shard in 0..EVENT_SHARDS {
        late_ids.push(late.write(shard).await?);
        never_ids.push(never.write(shard).await?);
    }
    for _ in 0..20 {
        theater.api.reserve(movie, 1).await?;
    }
    eventually("later events are sent", SOON, async || {
        let sent = log::read(&theater.config.bootstrap, &topic).await?;
        let placed = sent.iter().filter(|entry| entry.event_type() == "ReservationPlaced").count();
        ensure!(placed == 21, "{placed} of 21");
        ensure!(count_ids(&sent, &late_ids) == 0, "an uncommitted row was sent");
        Ok(())
    })
    .await?;
    let last_seq =
        checks::count_rows(&theater.config.reservation_url, "select last_value from outbox_seq_seq").await?;
    ensure!(last_seq >= late.last_seq + 20, "the late rows have seq {} of {last_seq}", late.last_seq);

    late.execute("commit").await?;
    never.execute("rollback").await?;
    theater.api.reserve(movie, 1).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let sent = log::read(&theater.config.bootstrap, &topic).await?;
    ensure!(count_ids(&sent, &late_ids) == late_ids.len(), "a row that was committed late is missing");
    ensure!(count_ids(&sent, &never_ids) == 0, "a row that was rolled back was sent");
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}

fn count_ids(log: &[Entry], ids: &[String]) -> usize {
    log.iter().filter(|entry| entry.header("ce_id").is_some_and(|id| ids.contains(&id))).count()
}

/// Rows are sent in the order of `seq`, not in the order in which their transactions began or first wrote. (The rows of
/// one movie get their `seq` under the lock of the movie or of the reservation.) A relay that does not own a shard sends
/// none of its rows.
pub(crate) async fn a_shard_is_sent_by_its_owner_in_seq_order(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (movie, event) = cancelled_reservation(&theater).await?;
    let (url, topic) = (&theater.config.reservation_url, format!("{}reservations", theater.config.prefix));
    let before = log::read(&theater.config.bootstrap, &topic).await?.len();
    let mut shards = ShardLocks::take(url).await?;

    let mut early = Writer::begin(&theater, &event).await?;
    early.execute("select pg_current_xact_id()").await?;
    for _ in 0..3 {
        theater.api.reserve(movie, 1).await?;
    }
    let shard: i16 =
        sqlx::query_scalar("select min(shard) from outbox").fetch_one(&mut shards.connection).await?;
    early.write(shard).await?;
    early.execute("commit").await?;
    theater.api.reserve(movie, 1).await?;
    let in_order: Vec<String> = sqlx::query_scalar("select headers from outbox order by seq")
        .fetch_all(&mut shards.connection)
        .await?;
    ensure!(in_order.len() == 5, "{in_order:?}");

    shards.wait_for_lock_attempts().await?;
    let sent = log::read(&theater.config.bootstrap, &topic).await?;
    ensure!(sent.len() == before, "a relay without the shard's lock sent its rows");
    shards.connection.close().await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let log = log::read(&theater.config.bootstrap, &topic).await?;
    for (entry, headers) in log.iter().skip(before).zip(in_order) {
        let id = entry.header("ce_id").context("ce_id")?;
        ensure!(headers.contains(&id), "{id} was sent where {headers} comes next");
    }
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}

/// The relay's session is cut after Kafka has acknowledged a row and before it is deleted. The row is sent again, as the
/// same event.
pub(crate) async fn an_event_sent_again_keeps_its_identity(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (movie, _) = cancelled_reservation(&theater).await?;
    let url = &theater.config.reservation_url;
    let shards = ShardLocks::take(url).await?;
    let id = theater.api.reserve(movie, 1).await?;
    let mut lock = RowLock::acquire(url, "select from outbox for update").await?;
    shards.connection.close().await?;
    let mut connection = PgConnection::connect(url).await?;
    let copies = async || {
        let topic = format!("{}reservations", theater.config.prefix);
        let mut log = log::read(&theater.config.bootstrap, &topic).await?;
        log.retain(|entry| {
            entry.event_type() == "ReservationPlaced" && entry.json()["reservationId"] == json!(id)
        });
        anyhow::Ok(log)
    };
    for sent in 1..=3 {
        for pid in lock.wait_until_blocking(1, "delete from outbox").await? {
            let known = copies().await?.len();
            ensure!(known >= sent, "the relay deletes it after sending it {known} times, not {sent}");
            sqlx::query("select pg_terminate_backend($1, 5000)").bind(pid).execute(&mut connection).await?;
        }
    }
    lock.release().await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let copies = copies().await?;
    ensure!(copies.len() >= 4, "{} copies", copies.len());
    for copy in &copies {
        ensure!(
            Entry { offset: copies[0].offset, ..copy.clone() } == copies[0],
            "{copy:?} is not {:?}",
            copies[0]
        );
    }
    let reservation = theater.api.reservation(id).await?;
    ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}

/// The locks of all event shards, taken from their relays. Until the session ends, no relay may send.
struct ShardLocks {
    connection: PgConnection,
}

impl ShardLocks {
    async fn take(url: &str) -> anyhow::Result<Self> {
        let mut holder = PgConnection::connect(url).await?;
        let own: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut holder).await?;
        let mut terminator = PgConnection::connect(url).await?;
        let taken = async {
            for shard in 0..EVENT_SHARDS {
                let lock = sqlx::query("select pg_advisory_lock($1, $2)");
                lock.bind(LOCK_CLASS).bind(i32::from(shard)).execute(&mut holder).await?;
            }
            anyhow::Ok(())
        };
        // The waiting session gets a lock before the relay, whose session is terminated, tries again.
        let terminated = eventually("the shards are taken", SOON, async || {
            let owners: Vec<i32> = sqlx::query_scalar(
                "select pid from pg_locks
                 where locktype = 'advisory' and granted and classid::bigint = $1 and objid::bigint < $2
                   and database = (select oid from pg_database where datname = current_database())",
            )
            .bind(i64::from(LOCK_CLASS))
            .bind(i64::from(EVENT_SHARDS))
            .fetch_all(&mut terminator)
            .await?;
            for owner in owners.iter().filter(|owner| **owner != own) {
                sqlx::query("select pg_terminate_backend($1)").bind(owner).execute(&mut terminator).await?;
            }
            let taken = owners.iter().filter(|owner| **owner == own).count();
            ensure!(taken == usize::try_from(EVENT_SHARDS)?, "{owners:?}");
            Ok(())
        });
        tokio::try_join!(taken, terminated)?;
        Ok(Self { connection: holder })
    }

    /// Waits until every relay has tried to lock its shard again.
    async fn wait_for_lock_attempts(&mut self) -> anyhow::Result<()> {
        let attempts = "select count(*) from pg_stat_activity
             where datname = current_database() and application_name like '% relay _'
               and query = 'select pg_try_advisory_lock($1, $2)'
               and query_start > $1";
        let since: chrono::DateTime<chrono::Utc> =
            sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut self.connection).await?;
        eventually("the relays try to lock their shards", SOON, async || {
            let attempted: i64 =
                sqlx::query_scalar(attempts).bind(since).fetch_one(&mut self.connection).await?;
            ensure!(attempted == i64::from(EVENT_SHARDS), "{attempted} have tried");
            Ok(())
        })
        .await
    }
}

/// Places and cancels a reservation. Returns its movie and the event of the cancellation, which has no effect if it is
/// sent again.
async fn cancelled_reservation(theater: &Theater) -> anyhow::Result<(Uuid, Entry)> {
    let movie = theater.api.publish(100).await?;
    let first = theater.api.reserve(movie, 1).await?;
    theater.api.delete(&format!("/reservations/{first}")).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let log = log::read(&theater.config.bootstrap, &format!("{}reservations", theater.config.prefix)).await?;
    let event = log.into_iter().find(|entry| entry.event_type() == "ReservationCancelled");
    Ok((movie, event.context("cancelled")?))
}

/// A slow transaction that writes to the outbox of the reservation service.
struct Writer<'a> {
    connection: PgConnection,
    topic: String,
    event: &'a Entry,
    last_seq: i64,
}

impl<'a> Writer<'a> {
    async fn begin(theater: &Theater, event: &'a Entry) -> anyhow::Result<Self> {
        let connection = PgConnection::connect(&theater.config.reservation_url).await?;
        let topic = format!("{}reservations", theater.config.prefix);
        let mut writer = Self { connection, topic, event, last_seq: 0 };
        writer.execute("begin").await?;
        Ok(writer)
    }

    async fn execute(&mut self, sql: &'static str) -> anyhow::Result<()> {
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Writes the event under a new identity and returns that.
    async fn write(&mut self, shard: i16) -> anyhow::Result<String> {
        let id = Uuid::now_v7().to_string();
        let headers: Vec<_> = self
            .event
            .headers
            .iter()
            .filter_map(|(name, _)| {
                let value = if name == "ce_id" { Some(id.clone()) } else { self.event.header(name) };
                Some([name.clone(), value?])
            })
            .collect();
        self.last_seq = sqlx::query_scalar(
            "insert into outbox (shard, topic, key, headers, payload) values ($1, $2, $3, $4, $5)
             returning seq",
        )
        .bind(shard)
        .bind(&self.topic)
        .bind(self.event.key.as_deref())
        .bind(json!(headers).to_string())
        .bind(self.event.value.as_deref())
        .fetch_one(&mut self.connection)
        .await?;
        Ok(id)
    }
}
