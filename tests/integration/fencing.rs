//! A partition with two owners: whatever each of them believes, every record has its effect once, and the position
//! only moves forward.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};
use sqlx::{Connection, PgConnection};
use theater_tests::checks::{self, Outcomes};
use theater_tests::log;
use theater_tests::theater::Stage;
use theater_tests::{Environment, Setup, Theater, eventually};
use uuid::Uuid;

use crate::holder::Holder;
use crate::look::{SERVICES, metric};

const SOON: Duration = Duration::from_secs(60);

const DECISIONS: &str = "select count(*) from decision";
const NEXT: &str = "select sum(next)::bigint from consumer_offset";

pub(crate) async fn an_owner_who_lost_it_writes_nothing(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 1, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let (api, url) = (&theater.api, &theater.stage.movie_url);
    let movie = api.publish(10).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let next = checks::count(url, NEXT).await?;

    // In the middle of a batch the partition passes to another one, who has done with this record.
    let mut holder = Holder::of(url, "select from movie for update").await?;
    let first = api.reserve(movie, 1).await?;
    holder.holds_up(1, "select seq, id").await?;
    holder.execute("update consumer_offset set next = next + 1").await?;
    holder.release().await?;
    let fenced = async || metric(theater.port("movie"), "consumer_fenced_total", "").await;
    eventually("the batch has ended", SOON, async || {
        ensure!(fenced().await? > 0.0 || checks::count(url, DECISIONS).await? > 0, "not yet");
        Ok(())
    })
    .await?;
    ensure!(checks::count(url, DECISIONS).await? == 0, "it wrote though it had lost the partition");
    ensure!(fenced().await? == 1.0 && checks::count(url, NEXT).await? == next + 1, "the position");

    // Neither does it go on from what it believes: the position is what is stored.
    Holder::of(url, "update consumer_offset set next = next - 1").await?.release().await?;
    let second = api.reserve(movie, 1).await?;
    for id in [first, second] {
        confirmed(&theater, id).await?;
    }
    ensure!(fenced().await? == 2.0, "{}", fenced().await?);
    checks::at_rest(&theater.stage, SOON).await?;
    ensure!(api.left(movie).await? == 8);
    checks::invariants(&theater.stage, api).await?;
    theater.stop().await
}

async fn confirmed(theater: &Theater, id: Uuid) -> anyhow::Result<()> {
    eventually("it is confirmed", SOON, async || {
        let reservation = theater.api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await
}

/// Keeps every move of a position.
const MOVES: &str = "
    create table position_move (from_next bigint, to_next bigint);
    create function keep_move() returns trigger language plpgsql as
        $$ begin insert into position_move values (old.next, new.next); return new; end $$;
    create trigger keep_move after update on consumer_offset for each row execute function keep_move();
";

/// A second replica of everything in groups of their own, so that each partition has two owners all the time.
pub(crate) async fn two_owners_of_everything(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { partitions: 2, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let mut ports = Vec::new();
    for service in SERVICES {
        let group = format!("--kafka-config=group.id={}second-{service}", theater.stage.prefix);
        theater.stage.settings.push((service, group));
        ports.extend([theater.port(service), theater.start_service(service).await?]);
        let mut connection = PgConnection::connect(theater.stage.database_url(service)).await?;
        sqlx::raw_sql(MOVES).execute(&mut connection).await?;
    }
    let (api, movie) = (&theater.api, theater.api.publish(200).await?);
    stream::iter(0..300).map(|_| api.reserve(movie, 1)).buffer_unordered(50).try_collect::<Vec<_>>().await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let cancelled = HashMap::from([("OUT_OF_STOCK".to_owned(), 100)]);
    let outcomes = checks::outcomes(api, movie).await?;
    ensure!(outcomes == Outcomes { confirmed: 200, cancelled, pending: 0 }, "{outcomes:?}");
    checks::invariants(&theater.stage, api).await?;

    let mut fenced = 0.0;
    for port in ports {
        fenced += metric(port, "consumer_fenced_total", "").await?;
    }
    ensure!(fenced > 0.0, "the owners never met");
    for service in SERVICES {
        let url = theater.stage.database_url(service);
        let moves = checks::count(url, "select count(*) from position_move").await?;
        let back =
            checks::count(url, "select count(*) from position_move where to_next <= from_next").await?;
        ensure!(moves > 0 && back == 0, "{service}'s position moved {moves} times, {back} times back");
    }
    told_once(&theater.stage).await?;
    theater.stop().await
}

/// Of each event there is one: its repeats have its identity.
async fn told_once(stage: &Stage) -> anyhow::Result<()> {
    for topic in ["reservations", "movies"] {
        let entries = log::read(&stage.bootstrap, &format!("{}{topic}", stage.prefix)).await?;
        log::happened(&entries, |event| event["reservationId"].to_string())?;
    }
    Ok(())
}
