//! Two owners of one partition write at the same time. The one whose position is stale is fenced: it writes nothing. So
//! every record has its effect once, and the stored position only moves forward.
//!
//! The rule is `service-kit/src/messaging/consumer/offset.rs`: a transaction moves the position from where it read it,
//! and is rolled back if the position has moved since.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};
use sqlx::{Connection, PgConnection};
use theater_tests::checks::{self, Outcomes};
use theater_tests::log;
use theater_tests::theater::TheaterConfig;
use theater_tests::{Environment, Setup, Theater, eventually};
use uuid::Uuid;

use crate::row_lock::RowLock;
use crate::snapshot::{SERVICES, metric};

const SOON: Duration = Duration::from_secs(60);

const DECISIONS: &str = "select count(*) from decision";
const NEXT: &str = "select sum(next)::bigint from consumer_offset";

pub(crate) async fn a_former_owner_writes_nothing(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let (api, url) = (&theater.api, &theater.config.movie_url);
    let movie = api.publish(10).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let next = checks::count_rows(url, NEXT).await?;

    // In the middle of a batch another owner takes the partition and applies this record.
    let mut lock = RowLock::acquire(url, "select from movie for update").await?;
    let first = api.reserve(movie, 1).await?;
    lock.wait_until_blocking(1, "select seq, id").await?;
    lock.execute("update consumer_offset set next = next + 1").await?;
    lock.release().await?;
    let fenced = async || metric(theater.port("movie"), "consumer_fenced_total", "").await;
    eventually("the batch has been applied or fenced", SOON, async || {
        ensure!(fenced().await? > 0.0 || checks::count_rows(url, DECISIONS).await? > 0, "not yet");
        Ok(())
    })
    .await?;
    ensure!(checks::count_rows(url, DECISIONS).await? == 0, "the former owner wrote a decision");
    ensure!(fenced().await? == 1.0 && checks::count_rows(url, NEXT).await? == next + 1, "the position");

    // The fenced consumer goes on from the stored position, not from its own: the stored one is moved back, and both
    // records are applied.
    RowLock::acquire(url, "update consumer_offset set next = next - 1").await?.release().await?;
    let second = api.reserve(movie, 1).await?;
    for id in [first, second] {
        wait_for_confirmation(&theater, id).await?;
    }
    ensure!(fenced().await? == 2.0, "{}", fenced().await?);
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    ensure!(api.tickets_left(movie).await? == 8);
    checks::invariants(&theater.config, api).await?;
    theater.stop().await
}

async fn wait_for_confirmation(theater: &Theater, id: Uuid) -> anyhow::Result<()> {
    eventually("it is confirmed", SOON, async || {
        let reservation = theater.api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await
}

/// Records every move of a position.
const RECORD_MOVES: &str = "
    create table position_move (from_next bigint, to_next bigint);
    create function keep_move() returns trigger language plpgsql as
        $$ begin insert into position_move values (old.next, new.next); return new; end $$;
    create trigger keep_move after update on consumer_offset for each row execute function keep_move();
";

/// Runs a second replica of every service in consumer groups of its own, so that each partition has two owners all the
/// time.
pub(crate) async fn two_owners_of_every_partition(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 2, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let mut ports = Vec::new();
    for service in SERVICES {
        let group = format!("--kafka-config=group.id={}second-{service}", theater.config.prefix);
        theater.config.settings.push((service, group));
        ports.extend([theater.port(service), theater.start_service(service).await?]);
        let mut connection = PgConnection::connect(theater.config.database_url(service)).await?;
        sqlx::raw_sql(RECORD_MOVES).execute(&mut connection).await?;
    }
    let (api, movie) = (&theater.api, theater.api.publish(200).await?);
    stream::iter(0..300).map(|_| api.reserve(movie, 1)).buffer_unordered(50).try_collect::<Vec<_>>().await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let cancelled = HashMap::from([("OUT_OF_STOCK".to_owned(), 100)]);
    let outcomes = checks::outcomes(api, movie).await?;
    ensure!(outcomes == Outcomes { confirmed: 200, cancelled, pending: 0 }, "{outcomes:?}");
    checks::invariants(&theater.config, api).await?;

    let mut fenced = 0.0;
    for port in ports {
        fenced += metric(port, "consumer_fenced_total", "").await?;
    }
    ensure!(fenced > 0.0, "the owners never met");
    for service in SERVICES {
        let url = theater.config.database_url(service);
        let moves = checks::count_rows(url, "select count(*) from position_move").await?;
        let back =
            checks::count_rows(url, "select count(*) from position_move where to_next <= from_next").await?;
        ensure!(moves > 0 && back == 0, "{service}'s position moved {moves} times, {back} times back");
    }
    each_event_has_one_identity(&theater.config).await?;
    theater.stop().await
}

/// Repeats of an event have the same identity.
async fn each_event_has_one_identity(config: &TheaterConfig) -> anyhow::Result<()> {
    for topic in ["reservations", "movies"] {
        let entries = log::read(&config.bootstrap, &format!("{}{topic}", config.prefix)).await?;
        log::distinct_events(&entries, |event| event["reservationId"].to_string())?;
    }
    Ok(())
}
