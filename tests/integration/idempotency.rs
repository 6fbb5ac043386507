//! `Idempotency-Key`: one effect a key, and the first answer again, byte for byte, to whoever repeats the
//! call; whatever else has the key, is refused.

mod races;

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

pub(crate) use races::*;

const SOON: Duration = Duration::from_secs(30);

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";

/// What is wrong with a key.
const BOUND: &str = "Idempotency-Key must have between 1 and 255 printable ASCII characters";

/// A call that takes keys.
#[derive(Clone, Debug)]
struct Route {
    path: String,
    status: u16,
    body: Value,
    /// The same call to whoever reads it, in other bytes.
    alike: &'static str,
    /// Fields that make it another call.
    changes: Vec<(&'static str, Value)>,
    /// Fields that make it one that is refused, and with which status.
    refused: Vec<(&'static str, Value, u16)>,
}

fn routes(movie: Uuid) -> Vec<Route> {
    let id = || json!(Uuid::now_v7());
    vec![
        Route {
            path: "/movies".into(),
            status: 201,
            body: json!({"movieName": "LALALand", "qty": 45, "description": ""}),
            alike: "{ \"qty\" : \"45\",\n\"movieName\":\"LALAL\\u0061nd\" }",
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
            alike: "{\t\"count\": \"5\" }",
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
            alike: r#"{"date":"2026-12-24", "count": "1", "email":"jane@example.org",
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

/// Asks for a file, of which nothing else depends.
fn export(movie: Uuid) -> Route {
    Route {
        path: "/reservationLists/exports".into(),
        status: 202,
        body: json!({"movieId": movie}),
        alike: "{ \"movieId\"\n: \"MOVIE\", \"ignored\": 1}",
        changes: vec![("movieId", json!(Uuid::now_v7())), ("id", json!(Uuid::now_v7()))],
        refused: vec![("movieId", json!("7"), 400)],
    }
}

impl Route {
    fn call(&self, key: impl Into<Vec<u8>>, body: &Value) -> Call {
        Call::post(&self.path, body, self.status).with(KEY, key)
    }

    fn changed(&self, field: &str, value: &Value) -> Value {
        let mut body = self.body.clone();
        body[field] = value.clone();
        body
    }

    /// Plays a call that must be the first under its key.
    async fn first(&self, api: &Api, key: &str, body: &Value) -> anyhow::Result<Answer> {
        let answer = self.call(key, body).play(api).await?;
        ensure!(answer.header(REPLAYED).is_none(), "{key}: {answer:?}");
        Ok(answer)
    }

    /// Plays a call that must be answered as the first was.
    async fn again(&self, api: &Api, key: &str, body: &Value, first: &Answer) -> anyhow::Result<()> {
        same(first, &self.call(key, body).play(api).await?).with_context(|| format!("{} {key}", self.path))
    }
}

/// The same answer once more: status, every header but those that tell of the request itself, each byte.
fn same(first: &Answer, again: &Answer) -> anyhow::Result<()> {
    let own = |answer: &Answer| {
        let mut headers: HeaderMap = answer.headers.clone();
        for name in ["date", "x-request-id", REPLAYED] {
            headers.remove(name);
        }
        headers
    };
    ensure!(again.header(REPLAYED) == Some("true"), "not marked as repeated: {again:?}");
    ensure!(again.status == first.status && again.text == first.text, "{again:?}, not {first:?}");
    ensure!(own(again) == own(first), "{again:?}, not {first:?}");
    ensure!(again.header("location").is_some() && again.header("content-type") == Some("application/json"));
    Ok(())
}

pub(crate) async fn a_key_has_one_effect(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let exports = ("reservation-list", format!("--exports-dir={}", folder.path().display()));
    let theater = Theater::start(environment, Setup { settings: vec![exports], ..Setup::default() }).await?;
    let api = &theater.api;
    let movie = api.publish(1_000).await?;
    for route in routes(movie).into_iter().chain([export(movie)]) {
        keys_are_bounded(api, &route).await.with_context(|| route.path.clone())?;
        let first = route.first(api, "one", &route.body).await?;
        route.again(api, "one", &route.body, &first).await?;
        let alike = route.alike.replace("MOVIE", &movie.to_string());
        let alike = Call::new(reqwest::Method::POST, &route.path, route.status)
            .bytes(alike)
            .with("content-type", "application/json")
            .with(KEY, "one");
        same(&first, &alike.play(api).await?)?;
        for (field, value) in &route.changes {
            let other = Call::post(&route.path, &route.changed(field, value), 422).with(KEY, "one");
            let problem = other.says("this Idempotency-Key and another body").play(api).await?;
            ensure!(problem.json()?["type"] == "/problems/idempotency-key-reused", "{problem:?}");
        }
        what_was_refused_leaves_nothing(api, &route).await?;
        ids_and_keys_go_together(api, &route).await?;
        route.again(api, "one", &route.body, &first).await?;
    }
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, api).await?;
    // Those of `keys_are_bounded`, "one", of each refusal, and of the id: each once. And the first movie.
    ensure!(api.all("/movies").await?.len() == 1 + 3 + 1 + 2 + 1, "movies");
    let reservations = api.all("/reservations").await?.len();
    ensure!(reservations == 3 + 1 + 2 + 1, "{reservations} reservations");
    let deliveries = checks::count(&theater.stage.movie_url, "select count(*) from delivery").await?;
    ensure!(deliveries == 3 + 1 + 3 + 1, "{deliveries} deliveries");
    let exports = checks::count(&theater.stage.reservation_list_url, "select count(*) from export").await?;
    ensure!(exports == 3 + 1 + 1 + 1, "{exports} exports");
    for service in ["movie", "reservation", "reservation-list"] {
        let text =
            Api::new(format!("http://127.0.0.1:{}", theater.port(service)))?.get("/metrics").await?.text;
        let repeats = prometheus::parse(&text)?.sum("idempotent_replays_total", &[]);
        ensure!(repeats.is_some_and(|repeats| repeats >= 8.0), "{service} counts {repeats:?} repeats");
    }
    theater.stop().await
}

async fn keys_are_bounded(api: &Api, route: &Route) -> anyhow::Result<()> {
    let refused = |key: &[u8]| Call::post(&route.path, &route.body, 400).with(KEY, key).says(BOUND);
    let long = "k".repeat(256);
    let calls = [
        refused(b""),
        refused(b"   "),
        refused(long.as_bytes()),
        refused("schl\u{fc}ssel".as_bytes()),
        refused(b"\xff"),
        refused(b"tabs\tare not printable"),
        Call::post(&route.path, &route.body, 400).with(KEY, "k").with(KEY, "k").says("must be sent once"),
        Call::post(&route.path, &route.body, 400).with(KEY, "k").with(KEY, "l").says("must be sent once"),
    ];
    play(api, calls).await?;
    for key in [&long[..255], "!", "\"every ~printable~ one\": {a, b}; c=#%"] {
        let first = route.first(api, key, &route.body).await?;
        route.again(api, key, &route.body, &first).await?;
    }
    Ok(())
}

/// Not even the key: the next call may have it.
async fn what_was_refused_leaves_nothing(api: &Api, route: &Route) -> anyhow::Result<()> {
    for (index, (field, value, status)) in route.refused.iter().enumerate() {
        let key = format!("refused {index}");
        let refused = Call::post(&route.path, &route.changed(field, value), *status).with(KEY, key.as_str());
        for _ in 0..2 {
            let answer = Api::send(refused.request(api)).await?;
            ensure!(answer.status == *status && answer.header(REPLAYED).is_none(), "{key}: {answer:?}");
        }
        let first = route.first(api, &key, &route.body).await?;
        route.again(api, &key, &route.body, &first).await?;
    }
    Ok(())
}

/// A client-made id keeps what it means without a key.
async fn ids_and_keys_go_together(api: &Api, route: &Route) -> anyhow::Result<()> {
    let with_id = route.changed("id", &json!(Uuid::now_v7()));
    let first = route.first(api, "with id", &with_id).await?;
    route.again(api, "with id", &with_id, &first).await?;
    Call::post(&route.path, &route.changed("id", &json!(Uuid::now_v7())), 422)
        .with(KEY, "with id")
        .play(api)
        .await?;
    let plain = Call::post(&route.path, &with_id, route.status).play(api).await?;
    ensure!(plain.header(REPLAYED).is_none() && plain.header("location") == first.header("location"));
    let other = route.first(api, "with id, another", &with_id).await?;
    ensure!(other.header("location") == first.header("location"), "{other:?}");
    // The id is taken by another body: refused, and the key free.
    let (field, value) = &route.changes[0];
    let mut taken = route.changed(field, value);
    taken["id"] = with_id["id"].clone();
    Call::post(&route.path, &taken, 409).with(KEY, "taken").play(api).await?;
    route.first(api, "taken", &with_id).await?;
    Ok(())
}

pub(crate) async fn a_key_belongs_to_its_scope(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let (movie, other) = (api.publish(100).await?, api.publish(100).await?);
    // One key for everything: each route, movie and user has it for itself.
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
    // Whichever way the movie's id is written, its deliveries are one resource.
    let (tickets, body, first) = firsts[1].clone();
    let path = tickets.path.replace(&movie.to_string(), &movie.to_string().to_uppercase());
    Route { path, ..tickets }.again(api, "k", &body, &first).await?;

    // What has changed since is not what was answered then.
    let published = firsts[0].2.json()?["id"].as_str().context("id")?.to_owned();
    Call::patch(format!("/movies/{published}"), &json!({"movieName": "Another"}), 200)
        .with("if-match", "*")
        .play(api)
        .await?;
    checks::at_rest(&theater.stage, SOON).await?;
    ensure!(api.left(movie).await? < 105, "nothing was sold");
    for (route, body, first) in &firsts {
        route.again(api, "k", body, first).await?;
        ensure!(route.status != 202 || first.json()?["reserveStatus"] == "PENDING", "{first:?}");
    }
    ensure!(api.all("/reservations").await?.len() == users.len());
    checks::invariants(&theater.stage, api).await?;
    theater.stop().await
}

/// What is kept is the acceptance: each repeat waits for the outcome by its own preference.
pub(crate) async fn a_repeat_waits_by_itself(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let (api, movie) = (&theater.api, theater.api.publish(100).await?);
    let route = &routes(movie)[2];
    let waiting = |key: &str, status: u16| {
        let call = Call::post(&route.path, &route.body, status).with(KEY, key).with("prefer", "wait=10");
        call.header("preference-applied", "wait=10").header("cache-control", "no-store")
    };
    // The first waits, and its repeats don't; or the other way round.
    let first = waiting("waited", 201).play(api).await?;
    ensure!(first.header(REPLAYED).is_none() && first.json()?["reserveStatus"] == "CONFIRMED", "{first:?}");
    let accepted = route.call("waited", &route.body).play(api).await?;
    ensure!(accepted.json()?["reserveStatus"] == "PENDING", "{accepted:?}");
    ensure!(accepted.header("location") == first.header("location"), "{accepted:?}");
    same(&accepted, &accepted)?;
    route.again(api, "waited", &route.body, &accepted).await?;
    let accepted = route.first(api, "later", &route.body).await?;
    let outcome = waiting("later", 201).header(REPLAYED, "true").play(api).await?;
    ensure!(outcome.header("location") == accepted.header("location"), "{outcome:?}");
    let mut confirmed = accepted.json()?;
    confirmed["reserveStatus"] = json!("CONFIRMED");
    ensure!(outcome.json()? == confirmed, "{outcome:?}");
    route.again(api, "later", &route.body, &accepted).await?;
    ensure!(api.all("/reservations").await?.len() == 2);
    theater.stop().await
}

pub(crate) async fn acceptances_outlive_the_service_but_not_their_time(
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
        theater.start_again(service).await?;
    }
    for (first, route) in &firsts {
        route.again(&theater.api, "k", &route.body, first).await?;
    }
    // From now on they are kept for a second; those that stand for a day stay.
    for service in ["movie", "reservation"] {
        theater.stop_service(service).await?;
        theater.stage.settings.push((service, "--idempotency-ttl-secs=1".to_owned()));
        theater.start_again(service).await?;
    }
    let api = &theater.api;
    for (first, route) in &firsts {
        let brief = route.first(api, "brief", &route.body).await?;
        let location = |answer: &Answer| answer.header("location").map(str::to_owned);
        let next = eventually("the key is free again", SOON, async || {
            let answer = route.call("brief", &route.body).play(api).await?;
            ensure!(answer.header(REPLAYED).is_none(), "still repeated");
            Ok(answer)
        })
        .await?;
        // A delivery's location is its movie.
        let movies = route.path.contains("tickets");
        ensure!(movies || location(&next) != location(&brief), "{next:?}");
        // What has expired is as good as gone, for another body too, before it is deleted.
        route.first(api, "expired", &route.body).await?;
        let service = if route.status == 202 { "reservation" } else { "movie" };
        let mut connection = PgConnection::connect(theater.stage.database_url(service)).await?;
        sqlx::query("update idempotency set expires_at = now() where key = 'expired'")
            .execute(&mut connection)
            .await?;
        let (field, value) = &route.changes[0];
        route.first(api, "expired", &route.changed(field, value)).await?;
        route.again(api, "k", &route.body, first).await?;
    }
    for (service, kept) in [("movie", 2), ("reservation", 1)] {
        eventually("what has expired is deleted", SOON, async || {
            let url = theater.stage.database_url(service);
            let rows = checks::count(url, "select count(*) from idempotency").await?;
            ensure!(rows == kept, "{service} keeps {rows}");
            Ok(())
        })
        .await?;
    }
    theater.stop().await
}
