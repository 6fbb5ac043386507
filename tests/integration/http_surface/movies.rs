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
        call.header("location", path.clone()).header("etag", "\"1\"").header("cache-control", "no-store")
    };
    let changed = |field: &str, value: Value| {
        let mut body = sent.clone();
        body[field] = value;
        Call::post("/movies", &body, 409).says("another body")
    };
    let calls = [
        created(Call::post("/movies", &sent, 201)).shows(shown.clone()),
        // The same once more answers the same; what it means counts, not how it is written.
        created(Call::post("/movies", &sent, 201)).shows(shown.clone()),
        created(Call::post(
            "/movies",
            &json!({"qty": "100", "description": "a musical", "movieName": "LALALand", "id": id.to_string().to_uppercase()}),
            201,
        ))
        .shows(shown.clone()),
        changed("qty", json!(101)),
        changed("movieName", json!("La La Land")),
        changed("description", json!("")),
        Call::get(&path, 200).header("etag", "\"1\"").header("cache-control", "no-store").shows(shown.clone()),
        Call::get("/movies", 200)
            .header("cache-control", "no-store")
            .shows(json!({"items": [shown], "next": null})),
        Call::get(format!("/movies/{}", Uuid::now_v7()), 404).says("there is no movie"),
    ];
    play(api, calls).await?;
    ensure!(Call::get("/movies", 200).play(api).await?.header("etag").is_none(), "a list has no edition");
    server_makes_what_is_left_out(api).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, api).await?;
    theater.stop().await
}

/// Without `id` and `description`, and with `qty` as httpie sends it.
async fn server_makes_what_is_left_out(api: &Api) -> anyhow::Result<()> {
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

pub(crate) async fn movies_are_delivered_and_edited(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    let qty = delivered(api, movie).await?;
    edited(api, movie, qty).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, api).await?;
    theater.stop().await
}

/// Deliveries, also of one twice; answers what is left.
async fn delivered(api: &Api, movie: Uuid) -> anyhow::Result<i64> {
    let (path, delivery) = (format!("/movies/{movie}/tickets"), Uuid::now_v7());
    let left = |qty: i64| json!({"id": movie, "movieName": "LALALand", "qty": qty, "description": ""});
    let body = json!({"id": delivery, "count": 20});
    let other = api.publish(1).await?;
    let unknown = format!("/movies/{}/tickets", Uuid::now_v7());
    let calls = [
        Call::post(&path, &body, 201)
            .header("location", format!("/movies/{movie}"))
            .header("etag", "\"1\"")
            .header("cache-control", "no-store")
            .shows(left(120)),
        Call::post(&path, &body, 201).shows(left(120)),
        Call::post(&path, &json!({"id": delivery, "count": "20"}), 201).shows(left(120)),
        Call::post(&path, &json!({"id": delivery, "count": 21}), 409).says("another body"),
        Call::post(format!("/movies/{other}/tickets"), &body, 409).says("another body"),
        // Without an id each call is a delivery of its own.
        Call::post(&path, &json!({"count": "5"}), 201).shows(left(125)),
        Call::post(&path, &json!({"count": 5}), 201).shows(left(130)),
        Call::post(&unknown, &json!({"count": 1}), 404).says("there is no movie"),
        Call::post(&path, &json!({"count": 999_871}), 422)
            .names("/count", "must be at most 999870: 130 tickets are left, and at most 1000000 may be"),
        Call::post(&path, &json!({"count": 999_870}), 201).shows(left(1_000_000)),
        Call::post(&path, &json!({"count": 1}), 422)
            .names("/count", "must be at most 0: 1000000 tickets are left, and at most 1000000 may be"),
        // It was delivered when there was room: that is no delivery now.
        Call::post(&path, &body, 201).shows(left(1_000_000)),
    ];
    play(api, calls).await?;
    Ok(1_000_000)
}

/// Edits under `If-Match`; the edition counts them, not deliveries or sales.
async fn edited(api: &Api, movie: Uuid, qty: i64) -> anyhow::Result<()> {
    let path = format!("/movies/{movie}");
    let shown = |name: &str, description: &str, qty: i64| json!({"id": movie, "movieName": name, "qty": qty, "description": description});
    let rename = |name: &str, status| Call::patch(&path, &json!({"movieName": name}), status);
    let calls = [
        Call::get(&path, 200).header("etag", "\"1\""),
        rename("Up", 428).says("If-Match is required"),
        rename("Up", 412).with("if-match", "\"2\""),
        rename("Up", 412).with("if-match", "W/\"1\""),
        rename("Up", 412).with("if-match", "\"nonsense\""),
        Call::get(&path, 200).shows(shown("LALALand", "", qty)),
        rename("Up", 200)
            .with("if-match", "\"1\"")
            .header("etag", "\"2\"")
            .header("cache-control", "no-store")
            .shows(shown("Up", "", qty)),
        rename("Down", 412).with("if-match", "\"1\"").says("edited since"),
        Call::patch(&path, &json!({"description": "balloons"}), 200)
            .with("if-match", "\"7\", \"2\"")
            .header("etag", "\"3\"")
            .shows(shown("Up", "balloons", qty)),
        // What changes nothing is no edit.
        rename("Up", 200).with("if-match", "\"3\"").header("etag", "\"3\""),
        Call::patch(&path, &json!({}), 200).with("if-match", "\"3\"").header("etag", "\"3\""),
        rename("LALALand", 200).with("if-match", "*").header("etag", "\"4\""),
        Call::patch(format!("/movies/{}", Uuid::now_v7()), &json!({}), 404).with("if-match", "*"),
    ];
    play(api, calls).await?;
    api.reserve(movie, 3).await?;
    eventually("three are sold", SOON, async || {
        ensure!(api.left(movie).await? == qty - 3);
        Ok(())
    })
    .await?;
    let sold = shown("LALALand", "balloons", qty - 3);
    let back = shown("LALALand", "sold out soon", qty - 3);
    let calls = [
        Call::get(&path, 200).header("etag", "\"4\"").shows(sold),
        Call::patch(&path, &json!({"description": "sold out soon"}), 200)
            .with("if-match", "\"4\"")
            .header("etag", "\"5\"")
            .shows(back),
    ];
    play(api, calls).await
}
