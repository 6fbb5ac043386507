//! What one transaction writes is seen all at once: a service is held up before each of its writes in turn, and
//! by then nothing of the others may be seen, nor be told to anybody.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use theater_tests::log;
use theater_tests::{Api, Environment, Setup, Theater, checks, records};
use uuid::Uuid;

use crate::holder::Holder;

const SOON: Duration = Duration::from_secs(60);

/// What reads to lock may pass, what writes waits.
const OUTBOX: &str = "lock table outbox in share row exclusive mode";
const POSITION: &str = "select from consumer_offset for update";
const GATE: &str = "select from gate for update";

/// Whoever left an event or a dead letter has to pass the gate with all else done: when it commits.
const GATED: &str = "
    create table gate as select true as here;
    create function pass_gate() returns trigger language plpgsql as
        $$ begin perform from gate for share; return null; end $$;
    create constraint trigger gated after insert on outbox deferrable initially deferred
        for each row execute function pass_gate();
";

fn setup() -> Setup {
    Setup { partitions: 1, deadline_secs: 300, ..Setup::default() }
}

/// What the movie service is asked in one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Placement,
    Broken,
}

/// What there is to be seen of the movie's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batches {
    decisions: i64,
    left: i64,
    next: i64,
    waiting: i64,
    told: usize,
    letters: usize,
}

/// Decisions, stock, outbox, dead letters and the position.
pub(crate) async fn what_a_batch_writes(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let stage = &theater.stage;
    let movie = theater.api.publish(100).await?;
    gated(&stage.movie_url).await?;
    let producer = records::producer(&stage.bootstrap)?;
    for (record, held, statement) in [
        (Record::Placement, "select from movie for update", "select seq, id"),
        (Record::Placement, "lock table decision in share row exclusive mode", "insert into decision"),
        (Record::Placement, OUTBOX, "insert into outbox"),
        (Record::Placement, POSITION, "update consumer_offset"),
        (Record::Placement, GATE, "commit"),
        (Record::Broken, OUTBOX, "insert into outbox"),
        (Record::Broken, POSITION, "update consumer_offset"),
        (Record::Broken, GATE, "commit"),
    ] {
        checks::at_rest(stage, SOON).await?;
        let before = batches(&theater).await?;
        let mut holder = Holder::of(&stage.movie_url, held).await?;
        match record {
            Record::Placement => drop(theater.api.reserve(movie, 1).await?),
            Record::Broken => {
                let broken = records::bare(&movie.to_string(), b"no event");
                records::produce(&producer, &format!("{}reservations", stage.prefix), &broken).await?;
            }
        }
        holder.holds_up(1, statement).await.with_context(|| format!("{record:?}"))?;
        let seen = batches(&theater).await?;
        ensure!(seen == before, "{record:?}: before `{statement}`, {before:?} became {seen:?}");
        holder.release().await?;

        checks::at_rest(stage, SOON).await?;
        let after = batches(&theater).await?;
        let (placed, broken) =
            (usize::from(record == Record::Placement), usize::from(record == Record::Broken));
        let expected = Batches {
            decisions: before.decisions + i64::try_from(placed)?,
            left: before.left - i64::try_from(placed)?,
            next: after.next,
            told: before.told + placed,
            letters: before.letters + broken,
            ..before
        };
        ensure!(after == expected && after.next > before.next, "{record:?}: {before:?} became {after:?}");
    }
    checks::invariants(stage, &theater.api).await?;
    theater.stop().await
}

async fn batches(theater: &Theater) -> anyhow::Result<Batches> {
    let stage = &theater.stage;
    let mut connection = PgConnection::connect(&stage.movie_url).await?;
    let (decisions, left, next, waiting) = sqlx::query_as(
        "select (select count(*) from decision), (select sum(qty)::bigint from movie),
                (select sum(next)::bigint from consumer_offset), (select count(*) from outbox)",
    )
    .fetch_one(&mut connection)
    .await?;
    let told = log::read(&stage.bootstrap, &format!("{}movies", stage.prefix)).await?.len();
    let letters = log::read(&stage.bootstrap, &format!("{}reservations.dlq", stage.prefix)).await?;
    let own = |letter: &&log::Entry| letter.header("dlq_consumer").as_deref() == Some("movie");
    Ok(Batches { decisions, left, next, waiting, told, letters: letters.iter().filter(own).count() })
}

async fn gated(url: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(GATED).execute(&mut PgConnection::connect(url).await?).await?;
    Ok(())
}

/// What there is to be seen of a reservation that is placed under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calls {
    reservations: i64,
    keys: i64,
    waiting: i64,
    placed: usize,
}

/// The reservation, its event and its key; and only then the answer.
pub(crate) async fn what_a_call_writes(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup()).await?;
    let stage = &theater.stage;
    let movie = theater.api.publish(100).await?;
    gated(&stage.reservation_url).await?;
    for (held, statement) in [
        ("lock table reservation in share row exclusive mode", "insert into reservation"),
        (OUTBOX, "insert into outbox"),
        ("lock table idempotency in share row exclusive mode", "insert into idempotency"),
        (GATE, "commit"),
    ] {
        checks::at_rest(stage, SOON).await?;
        let before = calls(&theater).await?;
        let mut holder = Holder::of(&stage.reservation_url, held).await?;
        let call = tokio::spawn(place(theater.api.clone(), movie, statement));
        holder.holds_up(1, statement).await?;
        let seen = calls(&theater).await?;
        ensure!(seen == before, "before `{statement}`, {before:?} became {seen:?}");
        ensure!(!call.is_finished(), "answered before `{statement}`");
        holder.release().await?;

        call.await??;
        checks::at_rest(stage, SOON).await?;
        let expected = Calls {
            reservations: before.reservations + 1,
            keys: before.keys + 1,
            placed: before.placed + 1,
            ..before
        };
        let after = calls(&theater).await?;
        ensure!(after == expected, "{before:?} became {after:?}");
    }
    checks::invariants(stage, &theater.api).await?;
    theater.stop().await
}

async fn place(api: Api, movie: Uuid, key: &str) -> anyhow::Result<()> {
    let body = json!({"userId": "7", "userName": "Jane", "movieId": movie, "count": 1});
    let request = api.request(reqwest::Method::POST, "/reservations").header("idempotency-key", key);
    let answer = Api::send(request.json(&body)).await?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(())
}

async fn calls(theater: &Theater) -> anyhow::Result<Calls> {
    let stage = &theater.stage;
    let mut connection = PgConnection::connect(&stage.reservation_url).await?;
    let (reservations, keys, waiting) = sqlx::query_as(
        "select (select count(*) from reservation), (select count(*) from idempotency),
                (select count(*) from outbox)",
    )
    .fetch_one(&mut connection)
    .await?;
    let log = log::read(&stage.bootstrap, &format!("{}reservations", stage.prefix)).await?;
    let placed = log.iter().filter(|entry| entry.event_type() == "ReservationPlaced").count();
    Ok(Calls { reservations, keys, waiting, placed })
}
