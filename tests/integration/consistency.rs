//! `Consistency-Token`: a list shows at least the state of which its caller has the token, even if the service lags.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use theater_tests::api::{Answer, reservation};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::calls::{Call, play};

const SOON: Duration = Duration::from_secs(20);

const TOKEN: &str = "consistency-token";

/// Reservations that are placed and then listed.
const PAIRS: usize = 1_000;

/// Every fifth is also listed without a token, and every tenth is cancelled and listed again.
const PLAIN_EVERY: usize = 5;
const CANCEL_EVERY: usize = 10;

/// For how long at a time the service can't write to the list. In between it can, for a moment.
const LOCKED_MS: [u64; 7] = [5, 10, 3, 15, 5, 25, 8];

pub(crate) async fn a_list_is_as_new_as_the_callers_token(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let mut theater = Theater::start(environment, setup).await?;
    let gateways = [theater.api.clone(), theater.start_gateway().await?];
    let movie = theater.api.publish(i64::try_from(PAIRS)?).await?;
    let stop = CancellationToken::new();
    let delay = tokio::spawn(delay_list_writes(theater.config.reservation_list_url.clone(), stop.clone()));
    let began = Instant::now();
    let mut behind = 0;
    for pair in 0..PAIRS {
        let [one, other] = [&gateways[pair % 2], &gateways[(pair + 1) % 2]];
        let id = Uuid::now_v7();
        let user = format!("user-{pair}");
        let mut body = reservation(id, movie, 1);
        body["userId"] = user.clone().into();
        let request = one.request(Method::POST, "/reservations").header("prefer", "wait=10").json(&body);
        let reserved = Api::send(request).await?;
        ensure!(reserved.status == 201 && reserved.json()?["reserveStatus"] == "CONFIRMED", "{reserved:?}");
        let path = format!("/reservationLists?userId={user}");
        if pair % PLAIN_EVERY == 0 {
            behind += usize::from(statuses(&other.get(&path).await?, id)?.is_empty());
        }
        let listed = statuses(&list(other, &path, token(&reserved)?).await?, id)?;
        ensure!(listed == ["CONFIRMED"], "pair {pair}: {listed:?}");
        if pair % CANCEL_EVERY == 0 {
            let cancelled = one.delete(&format!("/reservations/{id}")).await?;
            ensure!(cancelled.status == 202, "{cancelled:?}");
            let listed = statuses(&list(other, &path, token(&cancelled)?).await?, id)?;
            ensure!(listed.is_empty(), "pair {pair}: {listed:?} after its cancellation");
            let all = format!("{path}&status=all");
            let listed = statuses(&list(one, &all, token(&cancelled)?).await?, id)?;
            ensure!(listed == ["CANCELLED"], "pair {pair}: {listed:?} after its cancellation");
        }
    }
    eprintln!(
        "{PAIRS} pairs in {:.1} s; without a token {behind} of {} lists were behind",
        began.elapsed().as_secs_f64(),
        PAIRS / PLAIN_EVERY,
    );
    ensure!(behind > PAIRS / PLAIN_EVERY / 10, "only {behind} lists were behind: nothing was delayed");
    stop.cancel();
    delay.await??;
    theater.stop().await
}

/// Blocks writes to the list most of the time, by a table lock.
async fn delay_list_writes(url: String, stop: CancellationToken) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&url).await?;
    for millis in LOCKED_MS.into_iter().cycle() {
        if stop.is_cancelled() {
            break;
        }
        let mut transaction = connection.begin().await?;
        transaction.execute("lock table reservation in exclusive mode").await?;
        let seconds = Duration::from_millis(millis).as_secs_f64();
        sqlx::query("select pg_sleep($1)").bind(seconds).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    Ok(())
}

fn token(answer: &Answer) -> anyhow::Result<&str> {
    let token = answer.header(TOKEN).with_context(|| format!("no token: {answer:?}"))?;
    let safe = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    ensure!(safe && !token.is_empty(), "the token {token:?} is not safe in a URL");
    Ok(token)
}

async fn list(api: &Api, path: &str, token: &str) -> anyhow::Result<Answer> {
    Api::send(api.request(Method::GET, path).header(TOKEN, token)).await
}

/// The statuses with which a list shows a reservation: at most one.
fn statuses(answer: &Answer, id: Uuid) -> anyhow::Result<Vec<String>> {
    ensure!(answer.status == 200, "{answer:?}");
    let id = id.to_string();
    let page = answer.json()?;
    let rows = page["items"].as_array().context("items")?.iter();
    let status = |row: &Value| row["reserveStatus"].as_str().map(str::to_owned);
    Ok(rows.filter(|row| row["reserveId"] == *id).filter_map(status).collect())
}

pub(crate) async fn a_list_that_cannot_catch_up_answers_503(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let api = &theater.api;
    let movie = api.publish(10).await?;
    let mut connection = PgConnection::connect(&theater.config.reservation_list_url).await?;
    let mut lock = connection.begin().await?;
    lock.execute("lock table reservation in exclusive mode").await?;

    // A token of the undecided reservation, too: only the outcome satisfies it, because undecided ones are not listed.
    let id = Uuid::now_v7();
    let path = format!("/reservations/{id}");
    let placed = Call::post("/reservations", &reservation(id, movie, 1), 202).play(api).await?;
    let confirmed = eventually("the reservation is confirmed", SOON, async || {
        let answer = api.get(&path).await?;
        ensure!(answer.json()?["reserveStatus"] == "CONFIRMED", "{answer:?}");
        Ok(answer)
    })
    .await?;
    let cancelled = Call::delete(&path, 202).play(api).await?;
    let again = Call::delete(&path, 200).play(api).await?;
    let tokens = [token(&placed)?, token(&confirmed)?, token(&cancelled)?];
    ensure!(tokens[2] == token(&again)?, "another token for the same");

    let lists = "/reservationLists?userId=7&status=all";
    let began = Instant::now();
    let late = tokens.map(async |token| {
        let late = Call::get(lists, 503)
            .send_header(TOKEN, token)
            .expect_header("retry-after", "1")
            .expect_detail("does not show");
        late.play(api).await?;
        let took = began.elapsed();
        ensure!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&took), "it took {took:?}");
        Ok(())
    });
    let plain = Call::get(lists, 200).expect_body(json!({"items": [], "next": null}));
    tokio::try_join!(try_join_all(late), plain.play(api))?;
    lock.rollback().await?;
    for (token, status) in tokens.into_iter().zip(["", "", "CANCELLED"]) {
        let listed =
            eventually("the list catches up", SOON, async || statuses(&list(api, lists, token).await?, id))
                .await?;
        ensure!(listed.len() == 1 && listed[0].ends_with(status), "{listed:?}");
    }
    theater.stop().await
}

pub(crate) async fn an_invalid_token_is_refused(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let movie = api.publish(10).await?;
    let id = api.reserve(movie, 1).await?;
    // Wait until it is listed, which may take until all consumers have their partitions.
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let placed = api.get(&format!("/reservations/{id}")).await?;
    let token = token(&placed)?;
    let must_be = "must be a token that an answer about a reservation gave out";
    let calls =
        ["", "x", "\u{fc}", &token[1..], &token[..token.len() - 1], &token.to_lowercase()].map(|text| {
            Call::get("/reservationLists", 400)
                .send_header(TOKEN, text)
                .expect_error("/Consistency-Token", must_be)
        });
    play(api, calls).await?;
    let twice = Call::get("/reservationLists", 400).send_header(TOKEN, token).send_header(TOKEN, token);
    twice.expect_error("/Consistency-Token", "must stand only once").play(api).await?;
    // Other errors take precedence, and only the list reads the token.
    let calls = [
        Call::get("/reservationLists?limit=0", 422)
            .send_header(TOKEN, token)
            .expect_error("/limit", "between 1 and 200"),
        Call::get("/reservations", 200).send_header(TOKEN, "x"),
        Call::get("/reservationLists", 200).send_header(TOKEN, token),
    ];
    play(api, calls).await?;
    theater.stop().await
}
