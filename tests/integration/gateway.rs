//! What the gateway adds to every call.
//!
//! - Here: HEAD, OPTIONS and security headers.
//! - [`compression`]: compressed responses.
//! - [`cors`]: requests of web pages of other origins.
//! - [`limits`]: rate limit, sizes of request heads, slow clients.

mod compression;
mod cors;
mod limits;

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::json;
use theater_tests::{Api, Environment, Setup, Theater, api::Answer, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};

pub(crate) use compression::responses_are_compressed;
pub(crate) use cors::cors_admits_configured_origins_only;
pub(crate) use limits::{
    request_heads_are_bounded, requests_are_limited_per_client_address, slow_clients_do_not_delay_others,
};

const SOON: Duration = Duration::from_secs(20);

const SECURITY: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Headers that are absent unless they are configured or requested.
const ABSENT: [&str; 5] =
    ["access-control-allow-origin", "ratelimit", "ratelimit-policy", "server", "content-encoding"];

/// Starts a theater and fills each collection. Returns it with one movie and one reservation.
async fn theater_with_rows(environment: &Environment, setup: Setup) -> anyhow::Result<(Theater, Uuid, Uuid)> {
    let theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(100).await?;
    let mut reservation = Uuid::nil();
    for _ in 0..8 {
        reservation = theater.api.reserve(movie, 1).await?;
    }
    eventually("everything is listed and notified", SOON, async || {
        for path in ["/notifications", "/reservationLists"] {
            let rows = theater.api.list_all(path).await?.len();
            ensure!(rows == 8, "{path}: {rows}");
        }
        Ok(())
    })
    .await?;
    Ok((theater, movie, reservation))
}

async fn send(api: &Api, method: Method, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let mut request = api.request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Api::send(request).await.with_context(|| path.to_owned())
}

/// All headers except those that differ from response to response.
fn constant_headers(answer: &Answer) -> Vec<(String, String)> {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    headers
}

pub(crate) async fn head_options_and_security_headers(environment: &Environment) -> anyhow::Result<()> {
    let (mut theater, movie, reservation) = theater_with_rows(environment, Setup::default()).await?;
    let api = theater.api.clone();
    let paths = [
        ("/".to_owned(), "GET, HEAD, OPTIONS"),
        ("/movies".to_owned(), "GET, HEAD, POST, OPTIONS"),
        ("/movies?limit=1".to_owned(), "GET, HEAD, POST, OPTIONS"),
        (format!("/movies/{movie}"), "GET, HEAD, PATCH, OPTIONS"),
        (format!("/movies/{movie}/tickets"), "POST, OPTIONS"),
        ("/reservations?limit=1".to_owned(), "GET, HEAD, POST, OPTIONS"),
        (format!("/reservations/{reservation}"), "GET, HEAD, DELETE, OPTIONS"),
        ("/notifications".to_owned(), "GET, HEAD, OPTIONS"),
        ("/reservationLists".to_owned(), "GET, HEAD, OPTIONS"),
        ("/openapi.json".to_owned(), "GET, HEAD, OPTIONS"),
        ("/docs/".to_owned(), "GET, HEAD, OPTIONS"),
        ("/livez".to_owned(), "GET, HEAD, OPTIONS"),
        ("/readyz".to_owned(), "GET, HEAD, OPTIONS"),
    ];
    for (path, allow) in &paths {
        let options = Call::new(Method::OPTIONS, path, 204).expect_header("allow", *allow).play(&api).await?;
        ensure!(options.text.is_empty(), "{path}: {options:?}");
        let refused = Call::new(Method::PUT, path, 405).expect_header("allow", *allow).expect_detail(*allow);
        refused.json(&json!({})).play(&api).await?;
    }
    let other = ["/nothing", "/movies/x", "/movies?x=1"].map(str::to_owned);
    for path in paths.iter().map(|(path, _)| path).chain(&other) {
        let get = send(&api, Method::GET, path, &[]).await?;
        let head = send(&api, Method::HEAD, path, &[]).await?;
        ensure!(head.status == get.status && head.text.is_empty(), "{path}: {head:?}");
        ensure!(constant_headers(&head) == constant_headers(&get), "{path}: {head:?}, not {get:?}");
        ensure!(get.header("content-length") == Some(&get.text.len().to_string()), "{path}: {get:?}");
    }
    Call::new(Method::OPTIONS, "/nothing", 404).play(&api).await?;

    let large = Call::post("/movies", &json!({"description": "x".repeat(70_000)}), 413);
    let answers = [
        Call::get("/movies", 200),
        Call::get("/movies/x", 400).expect_error("/id", "must be a UUID"),
        Call::get("/nothing", 404),
        Call::delete("/movies", 405),
        large,
        Call::get("/notifications", 503).expect_header("retry-after", "1"),
    ];
    theater.stop_service("notification").await?;
    for call in answers {
        let answer = call.play(&api).await?;
        for (name, value) in SECURITY {
            let found: Vec<_> = answer.headers.get_all(name).iter().collect();
            ensure!(found == [value], "{name} is {found:?}: {answer:?}");
        }
        for name in ABSENT {
            ensure!(answer.header(name).is_none(), "{name}: {answer:?}");
        }
    }
    let compressed = Call::post("/movies", &json!({}), 415).send_header("content-encoding", "gzip");
    play(
        &api,
        [compressed.expect_detail("without Content-Encoding").expect_header("accept-encoding", "identity")],
    )
    .await?;
    theater.stop().await
}
