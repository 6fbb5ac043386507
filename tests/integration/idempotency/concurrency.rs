//! Repeats of a call at the same time: in one batch, in two batches, in two replicas.

use std::collections::HashMap;

use super::{KEY, REPLAYED, Route, SOON, expect_replay, routes};
use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use theater_tests::api::Answer;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};

/// The calls of one replica meet in its intake queue, which batches many of them.
pub(crate) async fn concurrent_repeats_in_one_replica(environment: &Environment) -> anyhow::Result<()> {
    concurrent_repeats(environment, 1).await
}

pub(crate) async fn concurrent_repeats_in_two_replicas(environment: &Environment) -> anyhow::Result<()> {
    concurrent_repeats(environment, 2).await
}

const KEYS: usize = 60;
const REPEATS: usize = 5;

async fn concurrent_repeats(environment: &Environment, replicas: usize) -> anyhow::Result<()> {
    let setup = Setup { replicas, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let (api, movie) = (&theater.api, theater.api.publish(1_000).await?);
    for route in routes(movie) {
        let calls =
            (0..KEYS * REPEATS).map(|call| call_until_answered(api, &route, format!("{}", call / REPEATS)));
        // In order, so that all repeats of one key run at the same time.
        let answers: Vec<_> = stream::iter(calls).buffered(20 * REPEATS).try_collect().await?;
        for answers in answers.chunks(REPEATS) {
            one_effect(answers).with_context(|| route.path.clone())?;
        }
        let mut counts: HashMap<_, usize> = HashMap::new();
        for answer in &answers {
            *counts.entry(answer.text.clone()).or_default() += 1;
        }
        ensure!(counts.len() == KEYS && counts.values().all(|times| *times == REPEATS), "{counts:?}");
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    ensure!(api.list_all("/movies").await?.len() == KEYS + 1, "movies");
    ensure!(api.list_all("/reservations").await?.len() == KEYS, "reservations");
    // 1 000, plus 5 for each delivery, minus 1 for each reservation.
    let left = api.tickets_left(movie).await?;
    ensure!(left == 1_000 + 4 * i64::try_from(KEYS)?, "{left} are left");
    checks::invariants(&theater.config, api).await?;
    theater.stop().await
}

/// Repeats a call while it is answered with 503. That happens after too many conflicts.
async fn call_until_answered(api: &Api, route: &Route, key: String) -> anyhow::Result<Answer> {
    eventually("an answer", SOON, async || {
        let request = api.request(reqwest::Method::POST, &route.path).header(KEY, &key).json(&route.body);
        let answer = Api::send(request).await?;
        ensure!(answer.status == route.status, "{answer:?}");
        Ok(answer)
    })
    .await
}

/// One of the responses is the original, and the others are its replays.
fn one_effect(answers: &[Answer]) -> anyhow::Result<()> {
    let (replays, originals): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.header(REPLAYED).is_some());
    ensure!(originals.len() == 1, "{} took effect: {originals:?}", originals.len());
    replays.into_iter().try_for_each(|replay| expect_replay(originals[0], replay))
}

/// Both replicas have found the key free and wait for the same lock, when the first one goes on.
pub(crate) async fn two_replicas_find_the_same_key_free(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let (api, config) = (&theater.api, &theater.config);
    let movie = api.publish(1_000).await?;
    checks::wait_until_at_rest(config, SOON).await?;
    for (route, database, lock) in [
        // In this mode, statements that only lock rows go on, and writes wait.
        (0, &config.movie_url, "lock table movie in share row exclusive mode"),
        (1, &config.movie_url, "lock table movie in share row exclusive mode"),
        (2, &config.reservation_url, "lock table reservation in share row exclusive mode"),
    ] {
        let route = &routes(movie)[route];
        let other = route.changed(route.changes[0].0, &route.changes[0].1);
        for (key, second) in [("same", &route.body), ("other", &other)] {
            let calls = [&route.body, second].map(|body| send(api, route, key, body));
            let answers = both_wait_for_lock(database, lock, calls).await?;
            if key == "same" {
                one_effect(&answers).with_context(|| route.path.clone())?;
            } else {
                let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
                statuses.sort_unstable();
                ensure!(statuses == [route.status, 422], "{}: {answers:?}", route.path);
            }
        }
    }
    // A delivery that the stock can take only once: the call that had to wait gets the replay, not a refusal.
    let route = &routes(api.publish(999_993).await?)[1];
    let body = json!({"count": 7});
    let calls = [(), ()].map(|()| send(api, route, "full", &body));
    let answers =
        both_wait_for_lock(&config.movie_url, "lock table movie in share row exclusive mode", calls).await?;
    one_effect(&answers).context("a full movie")?;

    checks::wait_until_at_rest(config, SOON).await?;
    ensure!(api.list_all("/movies").await?.len() == 4, "movies");
    ensure!(api.list_all("/reservations").await?.len() == 2, "reservations");
    ensure!(checks::count_rows(&config.movie_url, "select count(*) from delivery").await? == 3, "deliveries");
    checks::invariants(config, api).await?;
    theater.stop().await
}

/// Makes two calls that both wait for a lock before either goes on.
async fn both_wait_for_lock(
    database: &str,
    lock: &'static str,
    calls: [impl Future<Output = anyhow::Result<Answer>>; 2],
) -> anyhow::Result<Vec<Answer>> {
    let mut holder = PgConnection::connect(database).await?;
    sqlx::raw_sql("begin").execute(&mut holder).await?;
    sqlx::raw_sql(lock).execute(&mut holder).await?;
    let release = async {
        eventually("both wait", SOON, async || {
            let waiting = checks::count_rows(
                database,
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'",
            );
            ensure!(waiting.await? >= 2, "not yet");
            Ok(())
        })
        .await?;
        sqlx::raw_sql("commit").execute(&mut holder).await?;
        anyhow::Ok(())
    };
    let (answers, ()) = tokio::try_join!(try_join_all(calls), release)?;
    Ok(answers)
}

async fn send(api: &Api, route: &Route, key: &str, body: &Value) -> anyhow::Result<Answer> {
    Api::send(api.request(reqwest::Method::POST, &route.path).header(KEY, key).json(body)).await
}

const ROUNDS: usize = 2;
const BATCH: usize = 100;

/// Slows inserts down, so that two statements are in the middle of their rows at the same time.
const SLOW_INSERTS: &str = "
    create function slowly() returns trigger language plpgsql as
        $$ begin perform pg_sleep(0.005); return new; end $$;
    create trigger slowly before insert on idempotency for each row execute function slowly();
";

/// Two batches in two replicas have the same keys in opposite orders. They must not deadlock.
pub(crate) async fn opposite_key_orders_do_not_deadlock(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(1_000).await?;
    let (_, ports) =
        theater.ports.iter().find(|(service, _)| *service == "reservation").context("reservation")?;
    let mut connection = PgConnection::connect(&theater.config.reservation_url).await?;
    sqlx::raw_sql(SLOW_INSERTS).execute(&mut connection).await?;
    let apis = ports.iter().map(|port| Api::new(format!("http://127.0.0.1:{port}")));
    let apis = apis.collect::<anyhow::Result<Vec<_>>>()?;
    let route = &routes(movie)[2];
    for round in 0..ROUNDS {
        let directions = [(0..BATCH).collect::<Vec<_>>(), (0..BATCH).rev().collect()];
        let calls = apis.iter().zip(directions).flat_map(|(api, keys)| {
            keys.into_iter().map(move |key| call_until_answered(api, route, format!("{round}-{key}")))
        });
        try_join_all(calls).await?;
    }
    let placed = theater.api.list_all("/reservations").await?.len();
    ensure!(placed == ROUNDS * BATCH, "{placed} reservations");
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, &theater.api).await?;
    let deadlocks = checks::count_rows(
        &theater.config.reservation_url,
        "select deadlocks from pg_stat_database where datname = current_database()",
    );
    ensure!(deadlocks.await? == 0, "there were deadlocks");
    theater.stop().await
}
