//! The vendor's calls.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn movies_are_published_and_shown(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let id = Uuid::now_v7();
    let sent = json!({"id": id, "movieName": "LALALand", "qty": 100, "description": "a musical"});
    let shown = json!({"id": id, "movieName": "LALALand", "qty": 100, "description": "a musical"});
    let path = format!("/movies/{id}");
    let created = |call: Call| {
        call.expect_header("location", path.clone())
            .expect_header("etag", "\"1\"")
            .expect_header("cache-control", "no-store")
    };
    let changed = |field: &str, value: Value| {
        let mut body = sent.clone();
        body[field] = value;
        Call::post("/movies", &body, 409).expect_detail("another body")
    };
    let calls = [
        created(Call::post("/movies", &sent, 201)).expect_body(shown.clone()),
        // A repeat has the same response. Bodies are compared by meaning, not by their bytes.
        created(Call::post("/movies", &sent, 201)).expect_body(shown.clone()),
        created(Call::post(
            "/movies",
            &json!({"qty": "100", "description": "a musical", "movieName": "LALALand", "id": id.to_string().to_uppercase()}),
            201,
        ))
        .expect_body(shown.clone()),
        changed("qty", json!(101)),
        changed("movieName", json!("La La Land")),
        changed("description", json!("")),
        Call::get(&path, 200).expect_header("etag", "\"1\"").expect_header("cache-control", "no-store").expect_body(shown.clone()),
        Call::get("/movies", 200)
            .expect_header("cache-control", "no-store")
            .expect_body(json!({"items": [shown], "next": null})),
        Call::get(format!("/movies/{}", Uuid::now_v7()), 404).expect_detail("there is no movie"),
    ];
    play(api, calls).await?;
    ensure!(Call::get("/movies", 200).play(api).await?.header("etag").is_none(), "a list has no ETag");
    the_server_fills_in_missing_fields(api).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, api).await?;
    theater.stop().await
}

/// Bodies without `id` and `description`, and with `qty` as a string, as httpie sends it.
async fn the_server_fills_in_missing_fields(api: &Api) -> anyhow::Result<()> {
    let bodies = [
        json!({"movieName": "Up", "qty": "45"}),
        json!({"movieName": "Up", "qty": 45, "id": null, "description": null}),
    ];
    for body in bodies {
        let answer = Call::post("/movies", &body, 201).play(api).await?;
        let shown = answer.json()?;
        let id: Uuid = shown["id"].as_str().unwrap_or_default().parse()?;
        ensure!(id.get_version_num() == 7, "{id}");
        ensure!(answer.header("location") == Some(&format!("/movies/{id}")), "{answer:?}");
        ensure!(shown == json!({"id": id, "movieName": "Up", "qty": 45, "description": ""}), "{shown}");
    }
    Ok(())
}

pub(crate) async fn tickets_are_delivered_and_movies_edited(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    let qty = deliver(api, movie).await?;
    edit(api, movie, qty).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, api).await?;
    theater.stop().await
}

/// Deliveries and repeats of them. Returns the tickets left.
async fn deliver(api: &Api, movie: Uuid) -> anyhow::Result<i64> {
    let (path, delivery) = (format!("/movies/{movie}/tickets"), Uuid::now_v7());
    let left = |qty: i64| json!({"id": movie, "movieName": "LALALand", "qty": qty, "description": ""});
    let body = json!({"id": delivery, "count": 20});
    let other = api.publish(1).await?;
    let unknown = format!("/movies/{}/tickets", Uuid::now_v7());
    let calls = [
        Call::post(&path, &body, 201)
            .expect_header("location", format!("/movies/{movie}"))
            .expect_header("etag", "\"1\"")
            .expect_header("cache-control", "no-store")
            .expect_body(left(120)),
        Call::post(&path, &body, 201).expect_body(left(120)),
        Call::post(&path, &json!({"id": delivery, "count": "20"}), 201).expect_body(left(120)),
        Call::post(&path, &json!({"id": delivery, "count": 21}), 409).expect_detail("another body"),
        Call::post(format!("/movies/{other}/tickets"), &body, 409).expect_detail("another body"),
        // Without an id, each call is a separate delivery.
        Call::post(&path, &json!({"count": "5"}), 201).expect_body(left(125)),
        Call::post(&path, &json!({"count": 5}), 201).expect_body(left(130)),
        Call::post(&unknown, &json!({"count": 1}), 404).expect_detail("there is no movie"),
        Call::post(&path, &json!({"count": 999_871}), 422).expect_error(
            "/count",
            "must be at most 999870: 130 tickets are left, and at most 1000000 may be",
        ),
        Call::post(&path, &json!({"count": 999_870}), 201).expect_body(left(1_000_000)),
        Call::post(&path, &json!({"count": 1}), 422).expect_error(
            "/count",
            "must be at most 0: 1000000 tickets are left, and at most 1000000 may be",
        ),
        // A repeat succeeds although the stock is full by now: it delivers nothing.
        Call::post(&path, &body, 201).expect_body(left(1_000_000)),
    ];
    play(api, calls).await?;
    Ok(1_000_000)
}

/// Edits under `If-Match`. The ETag counts edits, not deliveries or sales.
async fn edit(api: &Api, movie: Uuid, qty: i64) -> anyhow::Result<()> {
    let path = format!("/movies/{movie}");
    let shown = |name: &str, description: &str, qty: i64| json!({"id": movie, "movieName": name, "qty": qty, "description": description});
    let rename = |name: &str, status| Call::patch(&path, &json!({"movieName": name}), status);
    let calls = [
        Call::get(&path, 200).expect_header("etag", "\"1\""),
        rename("Up", 428).expect_detail("If-Match is required"),
        rename("Up", 412).send_header("if-match", "\"2\""),
        rename("Up", 412).send_header("if-match", "W/\"1\""),
        rename("Up", 412).send_header("if-match", "\"nonsense\""),
        Call::get(&path, 200).expect_body(shown("LALALand", "", qty)),
        rename("Up", 200)
            .send_header("if-match", "\"1\"")
            .expect_header("etag", "\"2\"")
            .expect_header("cache-control", "no-store")
            .expect_body(shown("Up", "", qty)),
        rename("Down", 412).send_header("if-match", "\"1\"").expect_detail("edited since"),
        Call::patch(&path, &json!({"description": "balloons"}), 200)
            .send_header("if-match", "\"7\", \"2\"")
            .expect_header("etag", "\"3\"")
            .expect_body(shown("Up", "balloons", qty)),
        // A PATCH that changes nothing is not counted.
        rename("Up", 200).send_header("if-match", "\"3\"").expect_header("etag", "\"3\""),
        Call::patch(&path, &json!({}), 200).send_header("if-match", "\"3\"").expect_header("etag", "\"3\""),
        rename("LALALand", 200).send_header("if-match", "*").expect_header("etag", "\"4\""),
        Call::patch(format!("/movies/{}", Uuid::now_v7()), &json!({}), 404).send_header("if-match", "*"),
    ];
    play(api, calls).await?;
    api.reserve(movie, 3).await?;
    eventually("three are sold", SOON, async || {
        ensure!(api.tickets_left(movie).await? == qty - 3);
        Ok(())
    })
    .await?;
    let sold = shown("LALALand", "balloons", qty - 3);
    let back = shown("LALALand", "sold out soon", qty - 3);
    let calls = [
        Call::get(&path, 200).expect_header("etag", "\"4\"").expect_body(sold),
        Call::patch(&path, &json!({"description": "sold out soon"}), 200)
            .send_header("if-match", "\"4\"")
            .expect_header("etag", "\"5\"")
            .expect_body(back),
    ];
    play(api, calls).await
}
