//! The same key at the same moment: in one batch, in two, in two replicas.

use std::collections::HashMap;

use super::{KEY, REPLAYED, Route, SOON, routes, same};
use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use theater_tests::api::Answer;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};

/// A replica's calls meet in its intake: many of them are one batch.
pub(crate) async fn many_at_once_in_one_replica(environment: &Environment) -> anyhow::Result<()> {
    many_at_once(environment, 1).await
}

pub(crate) async fn many_at_once_in_two_replicas(environment: &Environment) -> anyhow::Result<()> {
    many_at_once(environment, 2).await
}

const KEYS: usize = 60;
const REPEATS: usize = 5;

async fn many_at_once(environment: &Environment, replicas: usize) -> anyhow::Result<()> {
    let setup = Setup { replicas, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let (api, movie) = (&theater.api, theater.api.publish(1_000).await?);
    for route in routes(movie) {
        let calls = (0..KEYS * REPEATS).map(|call| answered(api, &route, format!("{}", call / REPEATS)));
        // In order, so that the repeats of one key are under way together.
        let answers: Vec<_> = stream::iter(calls).buffered(20 * REPEATS).try_collect().await?;
        for answers in answers.chunks(REPEATS) {
            one_effect(answers).with_context(|| route.path.clone())?;
        }
        let mut places: HashMap<_, usize> = HashMap::new();
        for answer in &answers {
            *places.entry(answer.text.clone()).or_default() += 1;
        }
        ensure!(places.len() == KEYS && places.values().all(|times| *times == REPEATS), "{places:?}");
    }
    checks::at_rest(&theater.stage, SOON).await?;
    ensure!(api.all("/movies").await?.len() == KEYS + 1, "movies");
    ensure!(api.all("/reservations").await?.len() == KEYS, "reservations");
    // 1 000, and 5 a delivery, and 1 less a reservation.
    let left = api.left(movie).await?;
    ensure!(left == 1_000 + 4 * i64::try_from(KEYS)?, "{left} are left");
    checks::invariants(&theater.stage, api).await?;
    theater.stop().await
}

/// Asks again after 503, as one whose transaction lost too many races is told.
async fn answered(api: &Api, route: &Route, key: String) -> anyhow::Result<Answer> {
    eventually("an answer", SOON, async || {
        let request = api.request(reqwest::Method::POST, &route.path).header(KEY, &key).json(&route.body);
        let answer = Api::send(request).await?;
        ensure!(answer.status == route.status, "{answer:?}");
        Ok(answer)
    })
    .await
}

/// One took effect, the others were answered as it was.
fn one_effect(answers: &[Answer]) -> anyhow::Result<()> {
    let (again, firsts): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.header(REPLAYED).is_some());
    ensure!(firsts.len() == 1, "{} took effect: {firsts:?}", firsts.len());
    again.into_iter().try_for_each(|again| same(firsts[0], again))
}

/// Both replicas have seen that the key is free, and wait for the same lock, when one of them goes on.
pub(crate) async fn both_replicas_past_the_look(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let (api, stage) = (&theater.api, &theater.stage);
    let movie = api.publish(1_000).await?;
    checks::at_rest(stage, SOON).await?;
    for (route, database, lock) in [
        // What reads rows to lock them may pass, what writes waits.
        (0, &stage.movie_url, "lock table movie in share row exclusive mode"),
        (1, &stage.movie_url, "lock table movie in share row exclusive mode"),
        (2, &stage.reservation_url, "lock table reservation in share row exclusive mode"),
    ] {
        let route = &routes(movie)[route];
        let other = route.changed(route.changes[0].0, &route.changes[0].1);
        for (key, second) in [("same", &route.body), ("other", &other)] {
            let calls = [&route.body, second].map(|body| plain(api, route, key, body));
            let answers = behind(database, lock, calls).await?;
            if key == "same" {
                one_effect(&answers).with_context(|| route.path.clone())?;
            } else {
                let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
                statuses.sort_unstable();
                ensure!(statuses == [route.status, 422], "{}: {answers:?}", route.path);
            }
        }
    }
    // A delivery that fits only once: who waited for it is not told that it is too much.
    let route = &routes(api.publish(999_993).await?)[1];
    let body = json!({"count": 7});
    let calls = [(), ()].map(|()| plain(api, route, "full", &body));
    let answers = behind(&stage.movie_url, "lock table movie in share row exclusive mode", calls).await?;
    one_effect(&answers).context("a full movie")?;

    checks::at_rest(stage, SOON).await?;
    ensure!(api.all("/movies").await?.len() == 4, "movies");
    ensure!(api.all("/reservations").await?.len() == 2, "reservations");
    ensure!(checks::count(&stage.movie_url, "select count(*) from delivery").await? == 3, "deliveries");
    checks::invariants(stage, api).await?;
    theater.stop().await
}

/// Two calls that wait for a lock before either goes on.
async fn behind(
    database: &str,
    lock: &'static str,
    calls: [impl Future<Output = anyhow::Result<Answer>>; 2],
) -> anyhow::Result<Vec<Answer>> {
    let mut holder = PgConnection::connect(database).await?;
    sqlx::raw_sql("begin").execute(&mut holder).await?;
    sqlx::raw_sql(lock).execute(&mut holder).await?;
    let release = async {
        eventually("both wait", SOON, async || {
            let waiting = checks::count(
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

async fn plain(api: &Api, route: &Route, key: &str, body: &Value) -> anyhow::Result<Answer> {
    Api::send(api.request(reqwest::Method::POST, &route.path).header(KEY, key).json(body)).await
}

const ROUNDS: usize = 2;
const BATCH: usize = 100;

/// Makes the rows come slowly, so that two statements are in the middle of theirs at the same time.
const SLOWLY: &str = "
    create function slowly() returns trigger language plpgsql as
        $$ begin perform pg_sleep(0.005); return new; end $$;
    create trigger slowly before insert on idempotency for each row execute function slowly();
";

/// Two batches of two replicas with the same keys, in opposite orders: neither waits for the other that waits
/// for it.
pub(crate) async fn opposite_orders_do_not_block(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(1_000).await?;
    let (_, ports) =
        theater.ports.iter().find(|(service, _)| *service == "reservation").context("reservation")?;
    let mut connection = PgConnection::connect(&theater.stage.reservation_url).await?;
    sqlx::raw_sql(SLOWLY).execute(&mut connection).await?;
    let apis = ports.iter().map(|port| Api::new(format!("http://127.0.0.1:{port}")));
    let apis = apis.collect::<anyhow::Result<Vec<_>>>()?;
    let route = &routes(movie)[2];
    for round in 0..ROUNDS {
        let directions = [(0..BATCH).collect::<Vec<_>>(), (0..BATCH).rev().collect()];
        let calls = apis.iter().zip(directions).flat_map(|(api, keys)| {
            keys.into_iter().map(move |key| answered(api, route, format!("{round}-{key}")))
        });
        try_join_all(calls).await?;
    }
    let placed = theater.api.all("/reservations").await?.len();
    ensure!(placed == ROUNDS * BATCH, "{placed} reservations");
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, &theater.api).await?;
    let deadlocks = checks::count(
        &theater.stage.reservation_url,
        "select deadlocks from pg_stat_database where datname = current_database()",
    );
    ensure!(deadlocks.await? == 0, "there were deadlocks");
    theater.stop().await
}
