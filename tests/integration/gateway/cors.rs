//! CORS: preflight requests of web pages of other origins, and the response headers that they may read.

use anyhow::ensure;
use reqwest::Method;
use theater_tests::{Environment, Setup, Theater, api::Answer};

use super::send;

const ALLOWED_ORIGIN: &str = "https://app.example";

pub(crate) async fn cors_admits_configured_origins_only(environment: &Environment) -> anyhow::Result<()> {
    let settings = vec![("gateway", format!("--cors-origins={ALLOWED_ORIGIN},http://localhost:3000"))];
    let theater = Theater::start(environment, Setup { settings, ..Setup::default() }).await?;
    let api = &theater.api;
    let id = api.publish(1).await?;
    let allowed = |origin| -> Option<&str> {
        [ALLOWED_ORIGIN, "http://localhost:3000"].contains(&origin).then_some(origin)
    };
    for origin in [
        ALLOWED_ORIGIN,
        "http://localhost:3000",
        "https://other.example",
        "https://app.example.evil.example",
        "null",
    ] {
        // Pages may read error responses, too.
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
            ensure!(allowed(origin).is_none() || exposes_all_headers(&answer), "{origin} {path}: {answer:?}");
        }
        for (method, headers, permitted) in [
            ("POST", "content-type,idempotency-key,prefer", true),
            ("PATCH", "content-type,if-match", true),
            ("DELETE", "", true),
            ("GET", "consistency-token,last-event-id", true),
            ("PUT", "", false),
            ("POST", "x-other", false),
        ] {
            let mut preflight = vec![("origin", origin), ("access-control-request-method", method)];
            if !headers.is_empty() {
                preflight.push(("access-control-request-headers", headers));
            }
            // A preflight request does not check whether the movie exists.
            let answer = send(api, Method::OPTIONS, "/movies/any", &preflight).await?;
            let permitted = permitted && allowed(origin).is_some();
            ensure!(answer.status.is_success() == permitted, "{origin} {method} {headers}: {answer:?}");
            if permitted {
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
    // A request without an origin is answered as always.
    let plain = send(api, Method::OPTIONS, "/movies", &[]).await?;
    ensure!(plain.status == 204 && plain.header("allow") == Some("GET, HEAD, POST, OPTIONS"), "{plain:?}");
    theater.stop().await
}

/// Whether a page may read all of the API's response headers.
fn exposes_all_headers(answer: &Answer) -> bool {
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
