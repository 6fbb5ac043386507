//! Web pages of other origins: what a browser asks before it lets one call, and what it lets one read.

use anyhow::ensure;
use reqwest::Method;
use theater_tests::{Environment, Setup, Theater, api::Answer};

use super::send;

const OURS: &str = "https://app.example";

pub(crate) async fn pages_of_other_origins_call_if_they_may(environment: &Environment) -> anyhow::Result<()> {
    let settings = vec![("gateway", format!("--cors-origins={OURS},http://localhost:3000"))];
    let theater = Theater::start(environment, Setup { settings, ..Setup::default() }).await?;
    let api = &theater.api;
    let id = api.publish(1).await?;
    let allowed =
        |origin| -> Option<&str> { [OURS, "http://localhost:3000"].contains(&origin).then_some(origin) };
    for origin in
        [OURS, "http://localhost:3000", "https://other.example", "https://app.example.evil.example", "null"]
    {
        // Errors can be read as well.
        for (path, status) in
            [("/movies", 200), ("/movies/x", 400), ("/nothing", 404), (&format!("/movies/{id}"), 200)]
        {
            let answer = send(api, Method::GET, path, &[("origin", origin)]).await?;
            ensure!(answer.status == status, "{origin} {path}: {answer:?}");
            ensure!(
                answer.header("access-control-allow-origin") == allowed(origin),
                "{origin} {path}: {answer:?}"
            );
            let vary: Vec<_> =
                answer.headers.get_all("vary").iter().filter_map(|v| v.to_str().ok()).collect();
            ensure!(vary.join(",").to_ascii_lowercase().contains("origin"), "{origin} {path}: {answer:?}");
            ensure!(allowed(origin).is_none() || all_exposed(&answer), "{origin} {path}: {answer:?}");
        }
        for (method, headers, fine) in [
            ("POST", "content-type,idempotency-key,prefer", true),
            ("PATCH", "content-type,if-match", true),
            ("DELETE", "", true),
            ("GET", "consistency-token,last-event-id", true),
            ("PUT", "", false),
            ("POST", "x-other", false),
        ] {
            let mut asked = vec![("origin", origin), ("access-control-request-method", method)];
            if !headers.is_empty() {
                asked.push(("access-control-request-headers", headers));
            }
            // Whether there is such a movie is not asked: it is no request yet.
            let answer = send(api, Method::OPTIONS, "/movies/any", &asked).await?;
            let fine = fine && allowed(origin).is_some();
            ensure!(answer.status.is_success() == fine, "{origin} {method} {headers}: {answer:?}");
            if fine {
                ensure!(answer.header("access-control-allow-origin") == Some(origin), "{answer:?}");
                let methods = answer.header("access-control-allow-methods").unwrap_or_default();
                ensure!(methods.contains(method), "{answer:?}");
                ensure!(answer.header("access-control-max-age") == Some("3600"), "{answer:?}");
                let names =
                    answer.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
                ensure!(headers.split(',').all(|name| names.contains(name)), "{answer:?}");
            }
            ensure!(answer.header("access-control-allow-credentials").is_none(), "{answer:?}");
        }
    }
    // Without an origin nothing is different.
    let plain = send(api, Method::OPTIONS, "/movies", &[]).await?;
    ensure!(plain.status == 204 && plain.header("allow") == Some("GET, HEAD, POST, OPTIONS"), "{plain:?}");
    theater.stop().await
}

/// What a page may read beside the body.
fn all_exposed(answer: &Answer) -> bool {
    const NAMES: [&str; 10] = [
        "location",
        "etag",
        "content-disposition",
        "link",
        "retry-after",
        "preference-applied",
        "idempotent-replayed",
        "consistency-token",
        "ratelimit",
        "x-request-id",
    ];
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default().to_ascii_lowercase();
    let exposed: Vec<_> = exposed.split(',').map(str::trim).collect();
    NAMES.iter().all(|name| exposed.contains(name))
}
