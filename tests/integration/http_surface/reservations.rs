//! The customer's calls, and the lists and notifications that they lead to.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn reservations_are_placed_and_shown(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let (movie, id) = (api.publish(100).await?, Uuid::now_v7());
    let path = format!("/reservations/{id}");
    // `count` as a string, as httpie sends it.
    let sent = json!({"id": id, "userId": 1, "userName": "Jane", "movieId": movie, "count": "45",
        "email": "jane@example.org", "date": "2026-12-24"});
    let mut shown = json!({"id": id, "userId": "1", "userName": "Jane", "movieId": movie, "count": 45,
        "email": "jane@example.org", "date": "2026-12-24", "reserveStatus": "PENDING"});
    let changed = |field: &str, value: Value| {
        let mut body = sent.clone();
        body[field] = value;
        Call::post("/reservations", &body, 409).expect_detail("another body")
    };
    Call::post("/reservations", &sent, 202)
        .expect_header("location", &path)
        .expect_header("cache-control", "no-store")
        .expect_body(shown.clone())
        .play(api)
        .await?;
    shown["reserveStatus"] = json!("CONFIRMED");
    wait_for_state(api, id, &shown).await?;
    let mut same = sent.clone();
    (same["userId"], same["count"]) = (json!("1"), json!(45));
    let calls = [
        // A repeat is answered with the current state of the reservation.
        Call::post("/reservations", &same, 202).expect_header("location", &path).expect_body(shown.clone()),
        changed("userId", json!("2")),
        changed("userName", json!("John")),
        changed("movieId", json!(Uuid::now_v7())),
        changed("count", json!(46)),
        changed("email", json!("john@example.org")),
        changed("date", json!("2026-12-25")),
        Call::get(&path, 200).expect_header("cache-control", "no-store").expect_body(shown.clone()),
        Call::get("/reservations", 200)
            .expect_header("cache-control", "no-store")
            .expect_body(json!({"items": [shown], "next": null})),
        Call::get(format!("/reservations/{}", Uuid::now_v7()), 404).expect_detail("there is no reservation"),
    ];
    play(api, calls).await?;
    ensure!(api.tickets_left(movie).await? == 55, "a repeat takes no tickets");
    the_server_fills_in_missing_fields(api, movie).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, api).await?;
    theater.stop().await
}

/// A body without `id`, `email` and `date`.
async fn the_server_fills_in_missing_fields(api: &Api, movie: Uuid) -> anyhow::Result<()> {
    let body = json!({"userId": "7", "userName": "Jane", "movieId": movie, "count": 1});
    let answer = Call::post("/reservations", &body, 202).play(api).await?;
    let shown = answer.json()?;
    let id: Uuid = shown["id"].as_str().context("id")?.parse()?;
    let date = shown["date"].as_str().context("date")?;
    ensure!(id.get_version_num() == 7, "{id}");
    ensure!(answer.header("location") == Some(&format!("/reservations/{id}")), "{answer:?}");
    let age = chrono::Utc::now() - chrono::DateTime::parse_from_rfc3339(date)?.to_utc();
    ensure!(age.num_seconds().abs() < 60 && date.ends_with('Z'), "{date}");
    let expected = json!({"id": id, "userId": "7", "userName": "Jane", "movieId": movie, "count": 1,
        "date": date, "reserveStatus": "PENDING"});
    ensure!(shown == expected, "{shown}");
    Ok(())
}

async fn wait_for_state(api: &Api, id: Uuid, shown: &Value) -> anyhow::Result<()> {
    eventually("the reservation is decided", SOON, async || {
        let reservation = api.reservation(id).await?;
        ensure!(reservation == *shown, "{reservation}");
        Ok(())
    })
    .await
}

pub(crate) async fn outcomes_are_listed_and_notified(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let movie = api.publish(10).await?;
    let nowhere = Uuid::now_v7();
    let body = |id: Uuid, movie: Uuid, count: i64| {
        json!({"id": id, "userId": "7", "userName": "Jane", "movieId": movie, "count": count,
            "date": "2026-12-24T20:00:00+01:00"})
    };
    let cases = [
        (Uuid::now_v7(), movie, 4, "CONFIRMED", None),
        (Uuid::now_v7(), movie, 11, "CANCELLED", Some("OUT_OF_STOCK")),
        (Uuid::now_v7(), nowhere, 1, "CANCELLED", Some("MOVIE_NOT_FOUND")),
    ];
    for (id, movie, count, status, reason) in cases {
        Call::post("/reservations", &body(id, movie, count), 202).play(api).await?;
        let mut shown = body(id, movie, count);
        shown["reserveStatus"] = json!(status);
        if let Some(reason) = reason {
            shown["cancelReason"] = json!(reason);
        }
        wait_for_state(api, id, &shown).await?;
        wait_until_listed_and_notified(api, id, &shown, (movie != nowhere).then_some("LALALand"), 1).await?;
    }
    let [(kept, ..), (refused, ..), _] = cases;
    let mut shown = body(kept, movie, 4);
    (shown["reserveStatus"], shown["cancelReason"]) = (json!("CANCELLED"), json!("CUSTOMER"));
    let path = format!("/reservations/{kept}");
    let calls = [
        Call::delete(&path, 202).expect_header("cache-control", "no-store").expect_body(shown.clone()),
        Call::delete(&path, 200).expect_header("cache-control", "no-store").expect_body(shown.clone()),
        Call::get(&path, 200).expect_body(shown.clone()),
        Call::delete(format!("/reservations/{refused}"), 200),
        Call::delete(format!("/reservations/{nowhere}"), 404).expect_detail("there is no reservation"),
        Call::get(format!("/notifications?reserveId={nowhere}"), 200)
            .expect_body(json!({"items": [], "next": null})),
    ];
    play(api, calls).await?;
    wait_until_listed_and_notified(api, kept, &shown, Some("LALALand"), 2).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, api).await?;
    ensure!(api.tickets_left(movie).await? == 10);
    theater.stop().await
}

/// Waits until the list shows the outcome of `reservation`, and until it has `times` notifications, the newest of that
/// outcome.
async fn wait_until_listed_and_notified(
    api: &Api,
    id: Uuid,
    reservation: &Value,
    movie_name: Option<&str>,
    times: usize,
) -> anyhow::Result<()> {
    let copy = |into: &mut Value, fields: &[&str]| {
        for field in fields {
            into[*field] = reservation[*field].clone();
        }
        if let Some(name) = movie_name {
            into["movieName"] = json!(name);
        }
    };
    let mut row = json!({"reserveId": id});
    copy(&mut row, &["reserveStatus", "userId", "movieId", "count", "date"]);
    eventually("it is listed", SOON, async || {
        let listed = api.list_all("/reservationLists?status=all&userId=7").await?;
        ensure!(listed.contains(&row), "{listed:?}, without {row}");
        let confirmed = api.list_all("/reservationLists?userId=7").await?;
        ensure!(confirmed.contains(&row) == (row["reserveStatus"] == "CONFIRMED"), "{confirmed:?}");
        Ok(())
    })
    .await?;
    eventually("it is notified", SOON, async || {
        let notified = api.list_all(&format!("/notifications?reserveId={id}")).await?;
        ensure!(notified.len() == times, "{notified:?}");
        let mut expected = json!({"reserveId": id});
        copy(&mut expected, &["reserveStatus", "userId", "userName", "movieId", "count"]);
        // Fields that the service generates: any value of the right type.
        for field in ["id", "message", "sentAt"] {
            ensure!(notified[0][field].is_string(), "{}", notified[0]);
            expected[field] = notified[0][field].clone();
        }
        ensure!(notified[0] == expected, "{}, not {expected}", notified[0]);
        Uuid::parse_str(notified[0]["id"].as_str().unwrap_or_default())?;
        let sent_at = notified[0]["sentAt"].as_str().unwrap_or_default();
        ensure!(chrono::DateTime::parse_from_rfc3339(sent_at).is_ok(), "{sent_at}");
        Ok(())
    })
    .await
}

pub(crate) async fn collections_are_filtered(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    // Ids that must be escaped, one that contains another, and one that a `like` filter would take for all.
    let users = ["1", "11", "%", "ann+bob & c/d?=#", "Jürgen 😀"];
    let mut placed = Vec::new();
    for user in users.into_iter().cycle().take(2 * users.len()) {
        let id = Uuid::now_v7();
        let body = json!({"id": id, "userId": user, "userName": "x", "movieId": movie, "count": 1});
        Call::post("/reservations", &body, 202).play(api).await?;
        placed.push((user, id.to_string()));
    }
    let cancelled = &placed[0].1;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    Call::delete(format!("/reservations/{cancelled}"), 202).play(api).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;

    let ids = async |path: &str, user: Option<&str>, field: &str| {
        let mut request = api.request(reqwest::Method::GET, path);
        if let Some(user) = user {
            request = request.query(&[("userId", user)]);
        }
        let answer = Api::send(request).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let items = answer.json()?["items"].take();
        let items = items.as_array().context("items")?.clone();
        let mut ids: Vec<_> =
            items.iter().filter_map(|item| item[field].as_str().map(str::to_owned)).collect();
        ids.sort();
        anyhow::Ok(ids)
    };
    for user in users.into_iter().map(Some).chain([None, Some("nobody")]) {
        let matches = |of: &str| user.is_none_or(|user| of == user);
        let mut all: Vec<_> = placed.iter().filter(|(of, _)| matches(of)).map(|(_, id)| id.clone()).collect();
        all.sort();
        let confirmed: Vec<_> = all.iter().filter(|id| *id != cancelled).cloned().collect();
        // The cancelled one has two notifications: it was confirmed before.
        let mut notified: Vec<_> =
            all.iter().chain(all.iter().filter(|id| *id == cancelled)).cloned().collect();
        notified.sort();
        ensure!(ids("/reservations", user, "id").await? == all, "reservations of {user:?}");
        ensure!(ids("/reservationLists", user, "reserveId").await? == confirmed, "list of {user:?}");
        let status = ids("/reservationLists?status=confirmed", user, "reserveId").await?;
        ensure!(status == confirmed, "confirmed ones of {user:?}");
        let status = ids("/reservationLists?status=all", user, "reserveId").await?;
        ensure!(status == all, "all of {user:?}");
        ensure!(ids("/notifications", user, "reserveId").await? == notified, "notifications of {user:?}");
    }
    // Both filters at once.
    let path = format!("/notifications?reserveId={cancelled}");
    ensure!(ids(&path, Some("1"), "reserveId").await?.len() == 2);
    ensure!(ids(&path, Some("11"), "reserveId").await?.is_empty());
    theater.stop().await
}
