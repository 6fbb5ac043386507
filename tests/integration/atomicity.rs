//! All writes of one transaction become visible at once. The tests block a service before each of its writes in turn;
//! none of the earlier writes may be visible then, no event may be sent, and no call may be answered.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use theater_tests::log;
use theater_tests::{Api, Environment, Setup, Theater, checks, records};
use uuid::Uuid;

use crate::row_lock::RowLock;

const SOON: Duration = Duration::from_secs(60);

/// In this mode, statements that only lock rows go on, and writes wait.
const OUTBOX: &str = "lock table outbox in share row exclusive mode";
const POSITION: &str = "select from consumer_offset for update";
const GATE: &str = "select from gate for update";

/// A deferred trigger on the outbox: a transaction that has inserted an event or a dead letter waits at the gate when it
/// commits.
const CREATE_GATE: &str = "
    create table gate as select true as here;
    create function pass_gate() returns trigger language plpgsql as
        $$ begin perform from gate for share; return null; end $$;
    create constraint trigger gated after insert on outbox deferrable initially deferred
        for each row execute function pass_gate();
";

fn setup() -> Setup {
    Setup { partitions: 1, deadline_secs: 300, ..Setup::default() }
}

/// A record for the movie service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Placement,
    Malformed,
}

/// The visible effects of the movie service's batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BatchEffects {
    decisions: i64,
    left: i64,
    next: i64,
    outbox: i64,
    events: usize,
    dead_letters: usize,
}

/// A batch of the movie service writes decisions, stock, outbox, dead letters and the position.
pub(crate) async fn a_batch_commits_all_at_once(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let config = &theater.config;
    let movie = theater.api.publish(100).await?;
    create_gate(&config.movie_url).await?;
    let producer = records::producer(&config.bootstrap)?;
    for (record, locks, statement) in [
        (Record::Placement, "select from movie for update", "select seq, id"),
        (Record::Placement, "lock table decision in share row exclusive mode", "insert into decision"),
        (Record::Placement, OUTBOX, "insert into outbox"),
        (Record::Placement, POSITION, "update consumer_offset"),
        (Record::Placement, GATE, "commit"),
        (Record::Malformed, OUTBOX, "insert into outbox"),
        (Record::Malformed, POSITION, "update consumer_offset"),
        (Record::Malformed, GATE, "commit"),
    ] {
        checks::wait_until_at_rest(config, SOON).await?;
        let before = batch_effects(&theater).await?;
        let mut lock = RowLock::acquire(&config.movie_url, locks).await?;
        match record {
            Record::Placement => drop(theater.api.reserve(movie, 1).await?),
            Record::Malformed => {
                let record = records::without_headers(&movie.to_string(), b"no event");
                records::produce(&producer, &format!("{}reservations", config.prefix), &record).await?;
            }
        }
        lock.wait_until_blocking(1, statement).await.with_context(|| format!("{record:?}"))?;
        let visible = batch_effects(&theater).await?;
        ensure!(visible == before, "{record:?}: before `{statement}`, {before:?} became {visible:?}");
        lock.release().await?;

        checks::wait_until_at_rest(config, SOON).await?;
        let after = batch_effects(&theater).await?;
        let (placed, malformed) =
            (usize::from(record == Record::Placement), usize::from(record == Record::Malformed));
        let expected = BatchEffects {
            decisions: before.decisions + i64::try_from(placed)?,
            left: before.left - i64::try_from(placed)?,
            next: after.next,
            events: before.events + placed,
            dead_letters: before.dead_letters + malformed,
            ..before
        };
        ensure!(after == expected && after.next > before.next, "{record:?}: {before:?} became {after:?}");
    }
    checks::invariants(config, &theater.api).await?;
    theater.stop().await
}

async fn batch_effects(theater: &Theater) -> anyhow::Result<BatchEffects> {
    let config = &theater.config;
    let mut connection = PgConnection::connect(&config.movie_url).await?;
    let (decisions, left, next, outbox) = sqlx::query_as(
        "select (select count(*) from decision), (select sum(qty)::bigint from movie),
                (select sum(next)::bigint from consumer_offset), (select count(*) from outbox)",
    )
    .fetch_one(&mut connection)
    .await?;
    let events = log::read(&config.bootstrap, &format!("{}movies", config.prefix)).await?.len();
    let dead_letters = log::read(&config.bootstrap, &format!("{}reservations.dlq", config.prefix)).await?;
    let own = |letter: &&log::Entry| letter.header("dlq_consumer").as_deref() == Some("movie");
    Ok(BatchEffects {
        decisions,
        left,
        next,
        outbox,
        events,
        dead_letters: dead_letters.iter().filter(own).count(),
    })
}

async fn create_gate(url: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(CREATE_GATE).execute(&mut PgConnection::connect(url).await?).await?;
    Ok(())
}

/// The visible effects of calls that place a reservation under an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CallEffects {
    reservations: i64,
    keys: i64,
    outbox: i64,
    events: usize,
}

/// A call writes the reservation, its event and its key, and is answered after the commit.
pub(crate) async fn a_call_commits_all_at_once(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let config = &theater.config;
    let movie = theater.api.publish(100).await?;
    create_gate(&config.reservation_url).await?;
    for (locks, statement) in [
        ("lock table reservation in share row exclusive mode", "insert into reservation"),
        (OUTBOX, "insert into outbox"),
        ("lock table idempotency in share row exclusive mode", "insert into idempotency"),
        (GATE, "commit"),
    ] {
        checks::wait_until_at_rest(config, SOON).await?;
        let before = call_effects(&theater).await?;
        let mut lock = RowLock::acquire(&config.reservation_url, locks).await?;
        let call = tokio::spawn(place(theater.api.clone(), movie, statement));
        lock.wait_until_blocking(1, statement).await?;
        let visible = call_effects(&theater).await?;
        ensure!(visible == before, "before `{statement}`, {before:?} became {visible:?}");
        ensure!(!call.is_finished(), "answered before `{statement}`");
        lock.release().await?;

        call.await??;
        checks::wait_until_at_rest(config, SOON).await?;
        let expected = CallEffects {
            reservations: before.reservations + 1,
            keys: before.keys + 1,
            events: before.events + 1,
            ..before
        };
        let after = call_effects(&theater).await?;
        ensure!(after == expected, "{before:?} became {after:?}");
    }
    checks::invariants(config, &theater.api).await?;
    theater.stop().await
}

async fn place(api: Api, movie: Uuid, key: &str) -> anyhow::Result<()> {
    let body = json!({"userId": "7", "userName": "Jane", "movieId": movie, "count": 1});
    let request = api.request(reqwest::Method::POST, "/reservations").header("idempotency-key", key);
    let answer = Api::send(request.json(&body)).await?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(())
}

async fn call_effects(theater: &Theater) -> anyhow::Result<CallEffects> {
    let config = &theater.config;
    let mut connection = PgConnection::connect(&config.reservation_url).await?;
    let (reservations, keys, outbox) = sqlx::query_as(
        "select (select count(*) from reservation), (select count(*) from idempotency),
                (select count(*) from outbox)",
    )
    .fetch_one(&mut connection)
    .await?;
    let log = log::read(&config.bootstrap, &format!("{}reservations", config.prefix)).await?;
    let events = log.iter().filter(|entry| entry.event_type() == "ReservationPlaced").count();
    Ok(CallEffects { reservations, keys, outbox, events })
}
