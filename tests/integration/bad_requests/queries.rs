//! Invalid paths, query parameters, cursors and methods.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::json;
use theater_tests::{Api, eventually};
use uuid::Uuid;

use crate::calls::Call;

const SOON: Duration = Duration::from_secs(20);

const COLLECTIONS: [&str; 4] = ["/movies", "/reservations", "/notifications", "/reservationLists"];

/// Invalid filters, and unknown parameters.
pub(super) fn filters(id: Uuid) -> Vec<Call> {
    let of_users = ["/reservations", "/notifications", "/reservationLists"];
    let mut calls = Vec::new();
    for path in of_users {
        let long = "x".repeat(201);
        for value in ["", &long] {
            calls.push(
                Call::get(format!("{path}?userId={value}"), 422)
                    .expect_error("/userId", "must have between 1 and 200 characters"),
            );
        }
        calls.push(Call::get(format!("{path}?userId={}", "x".repeat(200)), 200));
    }
    for path in COLLECTIONS {
        let (known, pointer) = if path == "/movies" { ("limit", "/limit") } else { ("userId", "/userId") };
        for (value, detail) in [
            ("a%00b", "must not contain NUL"),
            ("%ff", "must be UTF-8"),
            ("%", "must be percent-encoded"),
            ("%z1", "must be percent-encoded"),
        ] {
            calls.push(Call::get(format!("{path}?{known}={value}"), 400).expect_error(pointer, detail));
        }
        calls.push(
            Call::get(format!("{path}?{known}=1&{known}=2"), 400)
                .expect_error(pointer, "must stand only once"),
        );
        calls.push(
            Call::get(format!("{path}?%ff=1"), 400)
                .expect_error("/", "a query parameter's name must be UTF-8"),
        );
        for unknown in ["userid=1", "movieId=1", "offset=1", "limit%00=1"] {
            let call = Call::get(format!("{path}?{unknown}"), 400);
            let name = unknown.split(['=', '%']).next().unwrap_or_default();
            calls.push(match unknown {
                "limit%00=1" => call.expect_error("/", "a query parameter's name must not contain NUL"),
                _ => call.expect_error(format!("/{name}"), "cursor, limit"),
            });
        }
    }
    for value in ["", "7", "%00", &id.simple().to_string()] {
        let detail = if value == "%00" { "must not contain NUL" } else { "must be a UUID" };
        calls.push(
            Call::get(format!("/notifications?reserveId={value}"), 400).expect_error("/reserveId", detail),
        );
    }
    for value in ["", "CONFIRMED", "cancelled", "all%20"] {
        let call = Call::get(format!("/reservationLists?status={value}"), 400);
        calls.push(call.expect_error("/status", "must be confirmed or all"));
    }
    calls
}

/// Invalid limits and cursors. Publishes and reserves, because the collections need rows to return cursors.
pub(super) async fn pages(api: &Api) -> anyhow::Result<Vec<Call>> {
    api.publish(1).await?;
    let page = Call::get("/movies?limit=1", 200).play(api).await?.json()?;
    let movie_cursor = page["next"].as_str().context("no cursor")?.to_owned();
    let long = "A".repeat(8_000);
    let mut calls = Vec::new();
    for path in COLLECTIONS {
        for limit in ["0", "201", "-1", "99999999999999999999", "-99999999999999999999"] {
            let call = Call::get(format!("{path}?limit={limit}"), 422);
            calls.push(call.expect_error("/limit", "must be between 1 and 200"));
        }
        for limit in ["", "ten", "1.5", "1e2", "0x10", "%201", "%d9%a1"] {
            let call = Call::get(format!("{path}?limit={limit}"), 400);
            calls.push(call.expect_error("/limit", "expected a whole number"));
        }
        for limit in ["1", "200"] {
            calls.push(Call::get(format!("{path}?limit={limit}"), 200));
        }
        let mut cursors = vec!["", "x", "1", "null", "bW92aWU6", "bW92aWU6LTE%3D", "%25", &long];
        if path != "/movies" {
            cursors.push(&movie_cursor);
        }
        for cursor in cursors {
            let call = Call::get(format!("{path}?cursor={cursor}"), 400);
            calls.push(call.expect_error("/cursor", "must be a cursor that this collection gave out"));
        }
    }
    calls.extend(foreign_cursors(api).await?);
    Ok(calls)
}

/// Cursors of the same collection with another filter.
async fn foreign_cursors(api: &Api) -> anyhow::Result<Vec<Call>> {
    let movie = api.publish(2).await?;
    let reserved = [api.reserve(movie, 1).await?, api.reserve(movie, 1).await?];
    eventually("there are two rows of each collection", SOON, async || {
        for path in COLLECTIONS {
            let page = Call::get(format!("{path}?limit=1"), 200).play(api).await?.json()?;
            ensure!(page["next"].is_string(), "{path}: {page}");
        }
        Ok(())
    })
    .await?;
    let reserved_id = reserved[0];
    let collections = [
        ("/reservations", vec!["", "userId=7", "userId=8"]),
        ("/notifications", vec!["", "userId=7", "userId=8", &format!("reserveId={reserved_id}")]),
        ("/reservationLists", vec!["", "userId=7", "status=all", "status=all&userId=7"]),
    ]
    .map(|(path, filters)| (path, filters.into_iter().map(str::to_owned).collect::<Vec<_>>()));
    let mut calls = Vec::new();
    for (path, filters) in collections {
        for from in &filters {
            let page = Call::get(format!("{path}?limit=1&{from}"), 200).play(api).await?.json()?;
            // With fewer than two rows there is no cursor.
            let Some(cursor) = page["next"].as_str() else { continue };
            for to in &filters {
                let target = format!("{path}?{to}&cursor={cursor}");
                calls.push(match from == to {
                    true => Call::get(target, 200),
                    false => Call::get(target, 400)
                        .expect_error("/cursor", "must be a cursor that this collection gave out"),
                });
            }
        }
    }
    ensure!(calls.len() >= 3 + 4 + 4, "too few cursors: {}", calls.len());
    // An explicit default equals an absent parameter.
    let page = Call::get("/reservationLists?limit=1", 200).play(api).await?.json()?;
    let cursor = page["next"].as_str().context("no cursor")?;
    calls.push(Call::get(format!("/reservationLists?status=confirmed&cursor={cursor}"), 200));
    Ok(calls)
}

/// Paths with an invalid id.
pub(super) fn ids() -> Vec<Call> {
    let simple = Uuid::now_v7().simple().to_string();
    let long = "1".repeat(8_000);
    let mut calls = Vec::new();
    for id in ["7", "%00", "%ff", "%20", "..%2f..", "%zz", "null", &simple, &long] {
        let refused = |call: Call| call.expect_error("/id", "must be a UUID");
        calls.push(refused(Call::get(format!("/movies/{id}"), 400)));
        calls.push(refused(
            Call::patch(format!("/movies/{id}"), &json!({}), 400).send_header("if-match", "*"),
        ));
        calls.push(refused(Call::post(format!("/movies/{id}/tickets"), &json!({"count": 1}), 400)));
        calls.push(refused(Call::get(format!("/reservations/{id}"), 400)));
        calls.push(refused(Call::delete(format!("/reservations/{id}"), 400)));
        calls.push(refused(Call::get(format!("/reservationLists/exports/{id}"), 400)));
        calls.push(refused(Call::get(format!("/reservationLists/exports/{id}/file"), 400)));
    }
    calls
}

/// Methods that a resource does not support.
pub(super) fn methods(id: Uuid) -> Vec<Call> {
    let resources = [
        ("/movies".to_owned(), "GET, HEAD, POST, OPTIONS"),
        (format!("/movies/{id}"), "GET, HEAD, PATCH, OPTIONS"),
        (format!("/movies/{id}/tickets"), "POST, OPTIONS"),
        ("/reservations".to_owned(), "GET, HEAD, POST, OPTIONS"),
        (format!("/reservations/{id}"), "GET, HEAD, DELETE, OPTIONS"),
        ("/notifications".to_owned(), "GET, HEAD, OPTIONS"),
        ("/reservationLists".to_owned(), "GET, HEAD, OPTIONS"),
        ("/reservationLists/exports".to_owned(), "POST, OPTIONS"),
        (format!("/reservationLists/exports/{id}"), "GET, HEAD, OPTIONS"),
        (format!("/reservationLists/exports/{id}/file"), "GET, HEAD, OPTIONS"),
        ("/livez".to_owned(), "GET, HEAD, OPTIONS"),
        ("/readyz".to_owned(), "GET, HEAD, OPTIONS"),
        ("/metrics".to_owned(), "GET, HEAD, OPTIONS"),
    ];
    let brew = Method::from_bytes(b"BREW").unwrap_or_default();
    let methods = [Method::PUT, Method::DELETE, Method::PATCH, Method::POST, Method::TRACE, brew];
    let mut calls = Vec::new();
    for (path, allow) in resources {
        for method in
            methods.iter().filter(|method| !allow.split(", ").any(|allowed| allowed == method.as_str()))
        {
            let call =
                Call::new(method.clone(), &path, 405).expect_header("allow", allow).expect_detail(allow);
            calls.push(call.clone());
            // A body changes nothing.
            calls.push(call.json(&json!({"count": 1})));
        }
        calls.push(Call::new(Method::OPTIONS, &path, 204).expect_header("allow", allow));
    }
    calls
}

/// Paths that no service has.
pub(super) fn routes() -> Vec<Call> {
    let paths = [
        "/nothing",
        "/movie",
        "/MOVIES",
        "//movies",
        "/movies/",
        "/movies/x/y/z",
        "/reservations/x/nothing",
        "/reservationlists",
        "/reservationLists/x",
        "/notifications/x",
        "/livez/",
        "/metrics/x",
        "/%00",
        "/%ff%fe",
        "/.git/config",
        "/..%2f..%2fetc%2fpasswd",
        "/actuator/health",
    ];
    let mut calls = Vec::new();
    for path in paths {
        calls.push(Call::get(path, 404));
        calls.push(Call::post(path, &json!({}), 404));
    }
    calls
}
