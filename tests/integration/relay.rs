//! What the relay sends, in which order, and how often: a row is read in its place whenever it is committed, by the
//! shard's owner alone, and until it is deleted it is sent as it is.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use service_kit::messaging::outbox::EVENT_SHARDS;
use service_kit::messaging::outbox::relay::LOCK_CLASS;
use sqlx::{Connection, PgConnection};
use theater_tests::log::{self, Entry};
use theater_tests::{Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::holder::Holder;

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn what_commits_late_is_sent(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (movie, event) = cancelled(&theater).await?;
    let topic = format!("{}reservations", theater.stage.prefix);

    // Drawn now, committed last.
    let mut late = Writer::begin(&theater, &event).await?;
    let mut never = Writer::begin(&theater, &event).await?;
    // Every relay has to find one.
    let (mut late_ids, mut never_ids) = (Vec::new(), Vec::new());
    for shard in 0..EVENT_SHARDS {
        late_ids.push(late.write(shard).await?);
        never_ids.push(never.write(shard).await?);
    }
    for _ in 0..20 {
        theater.api.reserve(movie, 1).await?;
    }
    eventually("later events are sent", SOON, async || {
        let sent = log::read(&theater.stage.bootstrap, &topic).await?;
        let placed = sent.iter().filter(|entry| entry.event_type() == "ReservationPlaced").count();
        ensure!(placed == 21, "{placed} of 21");
        ensure!(count(&sent, &late_ids) == 0, "what is not committed was sent");
        Ok(())
    })
    .await?;
    let drawn =
        checks::count(&theater.stage.reservation_url, "select last_value from outbox_seq_seq").await?;
    ensure!(drawn >= late.last_seq + 20, "seq {} was to be low; {drawn} are drawn", late.last_seq);

    late.transaction("commit").await?;
    never.transaction("rollback").await?;
    theater.api.reserve(movie, 1).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let sent = log::read(&theater.stage.bootstrap, &topic).await?;
    ensure!(count(&sent, &late_ids) == late_ids.len(), "a row that was committed late is lost");
    ensure!(count(&sent, &never_ids) == 0, "a row that was rolled back was sent");
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}

fn count(log: &[Entry], ids: &[String]) -> usize {
    log.iter().filter(|entry| entry.header("ce_id").is_some_and(|id| ids.contains(&id))).count()
}

/// Neither who began first nor who wrote anything first is sent first, but whose row has the lower `seq`: for one
/// movie it was drawn under the movie's or the reservation's lock. And nobody sends what is not theirs to send.
pub(crate) async fn a_shard_is_sent_by_its_owner_in_the_order_of_its_rows(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (movie, event) = cancelled(&theater).await?;
    let (url, topic) = (&theater.stage.reservation_url, format!("{}reservations", theater.stage.prefix));
    let before = log::read(&theater.stage.bootstrap, &topic).await?.len();
    let mut shards = Shards::take(url).await?;

    let mut early = Writer::begin(&theater, &event).await?;
    early.transaction("select pg_current_xact_id()").await?;
    for _ in 0..3 {
        theater.api.reserve(movie, 1).await?;
    }
    let shard: i16 =
        sqlx::query_scalar("select min(shard) from outbox").fetch_one(&mut shards.connection).await?;
    early.write(shard).await?;
    early.transaction("commit").await?;
    theater.api.reserve(movie, 1).await?;
    let in_order: Vec<String> = sqlx::query_scalar("select headers from outbox order by seq")
        .fetch_all(&mut shards.connection)
        .await?;
    ensure!(in_order.len() == 5, "{in_order:?}");

    shards.asked_for_in_vain().await?;
    let sent = log::read(&theater.stage.bootstrap, &topic).await?;
    ensure!(sent.len() == before, "sent by who does not own the shard");
    shards.connection.close().await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let log = log::read(&theater.stage.bootstrap, &topic).await?;
    for (entry, headers) in log.iter().skip(before).zip(in_order) {
        let id = entry.header("ce_id").context("ce_id")?;
        ensure!(headers.contains(&id), "{id} was sent where {headers} comes next");
    }
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}

/// What was acknowledged, but not deleted before its relay's session was cut, is sent again: the same event.
pub(crate) async fn what_is_sent_again_is_the_same(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (movie, _) = cancelled(&theater).await?;
    let url = &theater.stage.reservation_url;
    let shards = Shards::take(url).await?;
    let id = theater.api.reserve(movie, 1).await?;
    let mut holder = Holder::of(url, "select from outbox for update").await?;
    shards.connection.close().await?;
    let mut connection = PgConnection::connect(url).await?;
    let copies = async || {
        let topic = format!("{}reservations", theater.stage.prefix);
        let mut log = log::read(&theater.stage.bootstrap, &topic).await?;
        log.retain(|entry| {
            entry.event_type() == "ReservationPlaced" && entry.json()["reservationId"] == json!(id)
        });
        anyhow::Ok(log)
    };
    for sent in 1..=3 {
        for pid in holder.holds_up(1, "delete from outbox").await? {
            let known = copies().await?.len();
            ensure!(known >= sent, "it is to be deleted, and was sent {known} times");
            sqlx::query("select pg_terminate_backend($1, 5000)").bind(pid).execute(&mut connection).await?;
        }
    }
    holder.release().await?;
    checks::at_rest(&theater.stage, SOON).await?;
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
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}

/// The locks of all event shards, taken from their relays: until the session ends, nothing may be sent.
struct Shards {
    connection: PgConnection,
}

impl Shards {
    async fn take(url: &str) -> anyhow::Result<Self> {
        let mut taking = PgConnection::connect(url).await?;
        let own: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut taking).await?;
        let mut ending = PgConnection::connect(url).await?;
        let taken = async {
            for shard in 0..EVENT_SHARDS {
                let lock = sqlx::query("select pg_advisory_lock($1, $2)");
                lock.bind(LOCK_CLASS).bind(i32::from(shard)).execute(&mut taking).await?;
            }
            anyhow::Ok(())
        };
        // Who waits for a lock has it before a relay asks again.
        let ended = eventually("the shards are taken", SOON, async || {
            let owners: Vec<i32> = sqlx::query_scalar(
                "select pid from pg_locks
                 where locktype = 'advisory' and granted and classid::bigint = $1 and objid::bigint < $2
                   and database = (select oid from pg_database where datname = current_database())",
            )
            .bind(i64::from(LOCK_CLASS))
            .bind(i64::from(EVENT_SHARDS))
            .fetch_all(&mut ending)
            .await?;
            for owner in owners.iter().filter(|owner| **owner != own) {
                sqlx::query("select pg_terminate_backend($1)").bind(owner).execute(&mut ending).await?;
            }
            let taken = owners.iter().filter(|owner| **owner == own).count();
            ensure!(taken == usize::try_from(EVENT_SHARDS)?, "{owners:?}");
            Ok(())
        });
        tokio::try_join!(taken, ended)?;
        Ok(Self { connection: taking })
    }

    /// Every relay has asked for its shard since this was called.
    async fn asked_for_in_vain(&mut self) -> anyhow::Result<()> {
        let asking = "select count(*) from pg_stat_activity
             where datname = current_database() and application_name like '% relay _'
               and query = 'select pg_try_advisory_lock($1, $2)'
               and query_start > $1";
        let since: chrono::DateTime<chrono::Utc> =
            sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut self.connection).await?;
        eventually("the relays ask for their shards", SOON, async || {
            let asked: i64 = sqlx::query_scalar(asking).bind(since).fetch_one(&mut self.connection).await?;
            ensure!(asked == i64::from(EVENT_SHARDS), "{asked} have asked");
            Ok(())
        })
        .await
    }
}

/// A movie, and the last event of a reservation of it: again, it changes nothing.
async fn cancelled(theater: &Theater) -> anyhow::Result<(Uuid, Entry)> {
    let movie = theater.api.publish(100).await?;
    let first = theater.api.reserve(movie, 1).await?;
    theater.api.delete(&format!("/reservations/{first}")).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let log = log::read(&theater.stage.bootstrap, &format!("{}reservations", theater.stage.prefix)).await?;
    let event = log.into_iter().find(|entry| entry.event_type() == "ReservationCancelled");
    Ok((movie, event.context("cancelled")?))
}

/// A transaction of the reservation service that takes its time.
struct Writer<'a> {
    connection: PgConnection,
    topic: String,
    event: &'a Entry,
    last_seq: i64,
}

impl<'a> Writer<'a> {
    async fn begin(theater: &Theater, event: &'a Entry) -> anyhow::Result<Self> {
        let connection = PgConnection::connect(&theater.stage.reservation_url).await?;
        let topic = format!("{}reservations", theater.stage.prefix);
        let mut writer = Self { connection, topic, event, last_seq: 0 };
        writer.transaction("begin").await?;
        Ok(writer)
    }

    async fn transaction(&mut self, what: &'static str) -> anyhow::Result<()> {
        sqlx::raw_sql(what).execute(&mut self.connection).await?;
        Ok(())
    }

    /// The event under an identity of its own, which is answered.
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
