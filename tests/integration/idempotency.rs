//! `Idempotency-Key`: a call has one effect for each key, and every repeat gets the first response again, byte for byte.
//! Another call with the same key is refused.
//!
//! - Here: repeats one after another, scopes, expiry.
//! - [`concurrency`]: repeats at the same time, in one replica and in two.

mod concurrency;

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use theater_tests::api::Answer;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};
use crate::prometheus;

pub(crate) use concurrency::*;

const SOON: Duration = Duration::from_secs(30);

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";

/// The detail of the problem for an invalid key.
const BOUND: &str = "Idempotency-Key must have between 1 and 255 printable ASCII characters";

/// A call that takes idempotency keys.
#[derive(Clone, Debug)]
struct Route {
    path: String,
    status: u16,
    body: Value,
    /// A body with the same meaning and other bytes.
    equivalent_body: &'static str,
    /// Fields whose values make it another call.
    changes: Vec<(&'static str, Value)>,
    /// Fields whose values make it an invalid call, and its status.
    refused: Vec<(&'static str, Value, u16)>,
}

fn routes(movie: Uuid) -> Vec<Route> {
    let id = || json!(Uuid::now_v7());
    vec![
        Route {
            path: "/movies".into(),
            status: 201,
            body: json!({"movieName": "LALALand", "qty": 45, "description": ""}),
            equivalent_body: "{ \"qty\" : \"45\",\n\"movieName\":\"LALAL\\u0061nd\" }",
            changes: vec![
                ("qty", json!(46)),
                ("movieName", json!("x")),
                ("description", json!("x")),
                ("id", id()),
            ],
            refused: vec![("qty", json!("many"), 400), ("qty", json!(-1), 422)],
        },
        Route {
            path: format!("/movies/{movie}/tickets"),
            status: 201,
            body: json!({"count": 5}),
            equivalent_body: "{\t\"count\": \"5\" }",
            changes: vec![("count", json!(6)), ("id", id())],
            refused: vec![
                ("count", json!(null), 400),
                ("count", json!(0), 422),
                ("count", json!(999_999), 422),
            ],
        },
        Route {
            path: "/reservations".into(),
            status: 202,
            body: json!({"userId": "7", "userName": "Jane", "movieId": movie, "count": 1,
                "email": "jane@example.org", "date": "2026-12-24"}),
            equivalent_body: r#"{"date":"2026-12-24", "count": "1", "email":"jane@example.org",
                "movieId":"MOVIE", "userName":"Jane", "userId": 7}"#,
            changes: vec![
                ("userName", json!("John")),
                ("movieId", id()),
                ("count", json!(2)),
                ("email", json!("john@example.org")),
                ("email", json!(null)),
                ("date", json!("2026-12-25")),
                ("date", json!(null)),
                ("id", id()),
            ],
            refused: vec![("date", json!("soon"), 400), ("count", json!(0), 422)],
        },
    ]
}

/// The request of an export, on which nothing else depends.
fn export_route(movie: Uuid) -> Route {
    Route {
        path: "/reservationLists/exports".into(),
        status: 202,
        body: json!({"movieId": movie}),
        equivalent_body: "{ \"movieId\"\n: \"MOVIE\", \"ignored\": 1}",
        changes: vec![("movieId", json!(Uuid::now_v7())), ("id", json!(Uuid::now_v7()))],
        refused: vec![("movieId", json!("7"), 400)],
    }
}

impl Route {
    fn call(&self, key: impl Into<Vec<u8>>, body: &Value) -> Call {
        Call::post(&self.path, body, self.status).send_header(KEY, key)
    }

    fn changed(&self, field: &str, value: &Value) -> Value {
        let mut body = self.body.clone();
        body[field] = value.clone();
        body
    }

    /// Makes a call that must be the first with its key.
    async fn first(&self, api: &Api, key: &str, body: &Value) -> anyhow::Result<Answer> {
        let answer = self.call(key, body).play(api).await?;
        ensure!(answer.header(REPLAYED).is_none(), "{key}: {answer:?}");
        Ok(answer)
    }

    /// Makes a call that must get the response of the first.
    async fn repeat(&self, api: &Api, key: &str, body: &Value, first: &Answer) -> anyhow::Result<()> {
        expect_replay(first, &self.call(key, body).play(api).await?)
            .with_context(|| format!("{} {key}", self.path))
    }
}

/// A replayed response equals the first one: status, body, and every header except those of the single request.
fn expect_replay(first: &Answer, again: &Answer) -> anyhow::Result<()> {
    let stored_headers = |answer: &Answer| {
        let mut headers: HeaderMap = answer.headers.clone();
        for name in ["date", "x-request-id", REPLAYED] {
            headers.remove(name);
        }
        headers
    };
    ensure!(again.header(REPLAYED) == Some("true"), "not marked as replayed: {again:?}");
    ensure!(again.status == first.status && again.text == first.text, "{again:?}, not {first:?}");
    ensure!(stored_headers(again) == stored_headers(first), "{again:?}, not {first:?}");
    ensure!(again.header("location").is_some() && again.header("content-type") == Some("application/json"));
    Ok(())
}

pub(crate) async fn a_key_has_one_effect(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let exports = ("reservation-list", format!("--exports-dir={}", folder.path().display()));
    let theater = Theater::start(environment, Setup { settings: vec![exports], ..Setup::default() }).await?;
    let api = &theater.api;
    let movie = api.publish(1_000).await?;
    for route in routes(movie).into_iter().chain([export_route(movie)]) {
        keys_are_bounded(api, &route).await.with_context(|| route.path.clone())?;
        let first = route.first(api, "one", &route.body).await?;
        route.repeat(api, "one", &route.body, &first).await?;
        let equivalent = route.equivalent_body.replace("MOVIE", &movie.to_string());
        let equivalent = Call::new(reqwest::Method::POST, &route.path, route.status)
            .bytes(equivalent)
            .send_header("content-type", "application/json")
            .send_header(KEY, "one");
        expect_replay(&first, &equivalent.play(api).await?)?;
        for (field, value) in &route.changes {
            let other = Call::post(&route.path, &route.changed(field, value), 422).send_header(KEY, "one");
            let problem = other.expect_detail("this Idempotency-Key and another body").play(api).await?;
            ensure!(problem.json()?["type"] == "/problems/idempotency-key-reused", "{problem:?}");
        }
        a_refused_call_leaves_its_key_free(api, &route).await?;
        keys_with_client_ids(api, &route).await?;
        route.repeat(api, "one", &route.body, &first).await?;
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, api).await?;
    // One for each valid key of `keys_are_bounded`, for "one", for each refused call, and for the id. Also the first movie.
    ensure!(api.list_all("/movies").await?.len() == 1 + 3 + 1 + 2 + 1, "movies");
    let reservations = api.list_all("/reservations").await?.len();
    ensure!(reservations == 3 + 1 + 2 + 1, "{reservations} reservations");
    let deliveries = checks::count_rows(&theater.config.movie_url, "select count(*) from delivery").await?;
    ensure!(deliveries == 3 + 1 + 3 + 1, "{deliveries} deliveries");
    let exports =
        checks::count_rows(&theater.config.reservation_list_url, "select count(*) from export").await?;
    ensure!(exports == 3 + 1 + 1 + 1, "{exports} exports");
    for service in ["movie", "reservation", "reservation-list"] {
        let text =
            Api::new(format!("http://127.0.0.1:{}", theater.port(service)))?.get("/metrics").await?.text;
        let repeats = prometheus::parse(&text)?.sum("idempotent_replays_total", &[]);
        ensure!(repeats.is_some_and(|repeats| repeats >= 8.0), "{service} counts {repeats:?} repeats");
    }
    theater.stop().await
}

/// Invalid keys are refused, and the longest and the oddest valid ones are accepted.
async fn keys_are_bounded(api: &Api, route: &Route) -> anyhow::Result<()> {
    let refused =
        |key: &[u8]| Call::post(&route.path, &route.body, 400).send_header(KEY, key).expect_detail(BOUND);
    let long = "k".repeat(256);
    let calls = [
        refused(b""),
        refused(b"   "),
        refused(long.as_bytes()),
        refused("schl\u{fc}ssel".as_bytes()),
        refused(b"\xff"),
        refused(b"tabs\tare not printable"),
        Call::post(&route.path, &route.body, 400)
            .send_header(KEY, "k")
            .send_header(KEY, "k")
            .expect_detail("must be sent once"),
        Call::post(&route.path, &route.body, 400)
            .send_header(KEY, "k")
            .send_header(KEY, "l")
            .expect_detail("must be sent once"),
    ];
    play(api, calls).await?;
    for key in [&long[..255], "!", "\"every ~printable~ one\": {a, b}; c=#%"] {
        let first = route.first(api, key, &route.body).await?;
        route.repeat(api, key, &route.body, &first).await?;
    }
    Ok(())
}

/// A refused call stores nothing, so the next call may use its key.
async fn a_refused_call_leaves_its_key_free(api: &Api, route: &Route) -> anyhow::Result<()> {
    for (index, (field, value, status)) in route.refused.iter().enumerate() {
        let key = format!("refused {index}");
        let refused =
            Call::post(&route.path, &route.changed(field, value), *status).send_header(KEY, key.as_str());
        for _ in 0..2 {
            let answer = Api::send(refused.request(api)).await?;
            ensure!(answer.status == *status && answer.header(REPLAYED).is_none(), "{key}: {answer:?}");
        }
        let first = route.first(api, &key, &route.body).await?;
        route.repeat(api, &key, &route.body, &first).await?;
    }
    Ok(())
}

/// A client-made id has the same meaning with a key as without.
async fn keys_with_client_ids(api: &Api, route: &Route) -> anyhow::Result<()> {
    let with_id = route.changed("id", &json!(Uuid::now_v7()));
    let first = route.first(api, "with id", &with_id).await?;
    route.repeat(api, "with id", &with_id, &first).await?;
    Call::post(&route.path, &route.changed("id", &json!(Uuid::now_v7())), 422)
        .send_header(KEY, "with id")
        .play(api)
        .await?;
    let plain = Call::post(&route.path, &with_id, route.status).play(api).await?;
    ensure!(plain.header(REPLAYED).is_none() && plain.header("location") == first.header("location"));
    let other = route.first(api, "with id, another", &with_id).await?;
    ensure!(other.header("location") == first.header("location"), "{other:?}");
    // A call whose id is used by another body is refused, and leaves its key free.
    let (field, value) = &route.changes[0];
    let mut conflicting = route.changed(field, value);
    conflicting["id"] = with_id["id"].clone();
    Call::post(&route.path, &conflicting, 409).send_header(KEY, "taken").play(api).await?;
    route.first(api, "taken", &with_id).await?;
    Ok(())
}

pub(crate) async fn a_key_is_scoped_to_route_resource_and_user(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let (movie, other) = (api.publish(100).await?, api.publish(100).await?);
    // The same key everywhere: each route, movie and user has its own scope.
    let mut firsts = Vec::new();
    let users = ["7", "8", "70", " 7", "Jürgen 😀", "7&userId=8"];
    for route in routes(movie)
        .into_iter()
        .chain(routes(other).into_iter().filter(|route| route.path.contains("tickets")))
    {
        let of_users: &[&str] = if route.status == 202 { &users } else { &[""] };
        for user in of_users {
            let body =
                if user.is_empty() { route.body.clone() } else { route.changed("userId", &json!(user)) };
            let first = route.first(api, "k", &body).await?;
            firsts.push((route.clone(), body, first));
        }
    }
    // The deliveries of a movie are one resource, in whatever case its id is written.
    let (tickets, body, first) = firsts[1].clone();
    let path = tickets.path.replace(&movie.to_string(), &movie.to_string().to_uppercase());
    Route { path, ..tickets }.repeat(api, "k", &body, &first).await?;

    // Later changes don't affect the stored responses.
    let published = firsts[0].2.json()?["id"].as_str().context("id")?.to_owned();
    Call::patch(format!("/movies/{published}"), &json!({"movieName": "Another"}), 200)
        .send_header("if-match", "*")
        .play(api)
        .await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    ensure!(api.tickets_left(movie).await? < 105, "nothing was sold");
    for (route, body, first) in &firsts {
        route.repeat(api, "k", body, first).await?;
        ensure!(route.status != 202 || first.json()?["reserveStatus"] == "PENDING", "{first:?}");
    }
    ensure!(api.list_all("/reservations").await?.len() == users.len());
    checks::invariants(&theater.config, api).await?;
    theater.stop().await
}

/// Only the acceptance is stored. So each repeat waits for the outcome, or not, by its own `Prefer` header.
pub(crate) async fn each_repeat_waits_by_its_own_preference(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (api, movie) = (&theater.api, theater.api.publish(100).await?);
    let route = &routes(movie)[2];
    let waiting = |key: &str, status: u16| {
        let call = Call::post(&route.path, &route.body, status)
            .send_header(KEY, key)
            .send_header("prefer", "wait=10");
        call.expect_header("preference-applied", "wait=10").expect_header("cache-control", "no-store")
    };
    // The first call waits and its repeats don't, and the other way round.
    let first = waiting("waited", 201).play(api).await?;
    ensure!(first.header(REPLAYED).is_none() && first.json()?["reserveStatus"] == "CONFIRMED", "{first:?}");
    let accepted = route.call("waited", &route.body).play(api).await?;
    ensure!(accepted.json()?["reserveStatus"] == "PENDING", "{accepted:?}");
    ensure!(accepted.header("location") == first.header("location"), "{accepted:?}");
    expect_replay(&accepted, &accepted)?;
    route.repeat(api, "waited", &route.body, &accepted).await?;
    let accepted = route.first(api, "later", &route.body).await?;
    let outcome = waiting("later", 201).expect_header(REPLAYED, "true").play(api).await?;
    ensure!(outcome.header("location") == accepted.header("location"), "{outcome:?}");
    let mut confirmed = accepted.json()?;
    confirmed["reserveStatus"] = json!("CONFIRMED");
    ensure!(outcome.json()? == confirmed, "{outcome:?}");
    route.repeat(api, "later", &route.body, &accepted).await?;
    ensure!(api.list_all("/reservations").await?.len() == 2);
    theater.stop().await
}

pub(crate) async fn stored_responses_survive_a_restart_and_expire(
    environment: &Environment,
) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup::default()).await?;
    let movie = theater.api.publish(100).await?;
    let mut firsts = Vec::new();
    for route in routes(movie) {
        firsts.push((route.first(&theater.api, "k", &route.body).await?, route));
    }
    for service in ["movie", "reservation"] {
        theater.stop_service(service).await?;
        theater.restart_service(service).await?;
    }
    for (first, route) in &firsts {
        route.repeat(&theater.api, "k", &route.body, first).await?;
    }
    // From now on new responses are stored for a second. Those stored before keep their expiry, in a day.
    for service in ["movie", "reservation"] {
        theater.stop_service(service).await?;
        theater.config.settings.push((service, "--idempotency-ttl-secs=1".to_owned()));
        theater.restart_service(service).await?;
    }
    let api = &theater.api;
    for (first, route) in &firsts {
        let short_lived = route.first(api, "short-lived", &route.body).await?;
        let location = |answer: &Answer| answer.header("location").map(str::to_owned);
        let next = eventually("the key is free again", SOON, async || {
            let answer = route.call("short-lived", &route.body).play(api).await?;
            ensure!(answer.header(REPLAYED).is_none(), "still replayed");
            Ok(answer)
        })
        .await?;
        // The location of a delivery is its movie, so it does not differ.
        let movies = route.path.contains("tickets");
        ensure!(movies || location(&next) != location(&short_lived), "{next:?}");
        // An expired key is free before its row is deleted, also for another body.
        route.first(api, "expired", &route.body).await?;
        let service = if route.status == 202 { "reservation" } else { "movie" };
        let mut connection = PgConnection::connect(theater.config.database_url(service)).await?;
        sqlx::query("update idempotency set expires_at = now() where key = 'expired'")
            .execute(&mut connection)
            .await?;
        let (field, value) = &route.changes[0];
        route.first(api, "expired", &route.changed(field, value)).await?;
        route.repeat(api, "k", &route.body, first).await?;
    }
    for (service, kept) in [("movie", 2), ("reservation", 1)] {
        eventually("expired rows are deleted", SOON, async || {
            let url = theater.config.database_url(service);
            let rows = checks::count_rows(url, "select count(*) from idempotency").await?;
            ensure!(rows == kept, "{service} keeps {rows}");
            Ok(())
        })
        .await?;
    }
    theater.stop().await
}
