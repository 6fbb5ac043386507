//! The gateway between a client's socket and services that behave and misbehave.

#![expect(clippy::unwrap_used, reason = "a test helper that fails has failed its test")]

use std::sync::{Arc, OnceLock};

use gateway::Timeouts;
use serde_json::json;
use service_kit::{
    config::TelemetryConfig,
    telemetry::trace_context::TraceParent,
    telemetry::{self, Telemetry},
};
use support::gateway::{Answer, DEADLINE, SHORT, gateway, start};
use support::upstream::{echo, read_head, scripted, unreachable_address};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

mod support {
    pub(crate) mod gateway;
    pub(crate) mod upstream;
}

const ID: &str = r#"{"id": "0192f0c1-2345-7abc-8def-0123456789ab"}"#;

#[tokio::test]
async fn each_path_is_forwarded_to_its_service() {
    let (movie, reservation) = (echo("movie"), echo("reservation"));
    let (notification, list) = (echo("notification"), echo("reservation-list"));
    let services = [[movie.address], [reservation.address], [notification.address], [list.address]];
    let gateway = start(services.each_ref().map(|service| &service[..]), Timeouts::default());
    for (path, service) in [
        ("/movies", "movie"),
        ("/movies/7/tickets", "movie"),
        ("/movies/", "movie"),
        ("/movies?q=a%20b&limit=2", "movie"),
        ("/movies/%2e%2E/a%2Fb?x=%ff", "movie"),
        ("/reservations/7/events", "reservation"),
        ("/notifications", "notification"),
        ("/reservationLists?userId=1", "reservation-list"),
        ("/reservationLists/exports/7/file", "reservation-list"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!((&answer.json()["service"], &answer.json()["target"]), (&json!(service), &json!(path)));
        assert_eq!(answer.header("location"), Some("/movies/7"));
        assert_eq!(answer.header("link"), Some("</movies?cursor=x>; rel=\"next\""));
    }
    for path in ["/movie", "/moviesx", "/movies-7", "/reservationlists", "/x/movies", "//movies", "/openapi"]
    {
        gateway.get(path).await.assert_problem(404, "no such resource");
    }
    assert_eq!(gateway.get("/").await.json()["movies"], "/movies");
    gateway.stop().await;
}

#[tokio::test]
async fn methods_and_bodies_are_forwarded() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Timeouts::default()).await;
    for (method, body) in [("POST", r#"{"a":"ü"}"#), ("PATCH", "x"), ("DELETE", ""), ("BREW", "")] {
        let answer = gateway.call(method, "/movies", "", body).await;
        assert_eq!((&answer.json()["method"], &answer.json()["body"]), (&json!(method), &json!(body)));
        let length = (!body.is_empty()).then(|| body.len().to_string());
        assert_eq!(answer.received("content-length"), length);
    }
    let chunked = b"POST /movies HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = Answer::parse(&gateway.raw(chunked).await);
    assert_eq!(
        (&answer.json()["body"], answer.received("content-length")),
        (&json!("abc"), Some("3".to_owned()))
    );
    assert_eq!(answer.received("transfer-encoding"), None);
    let empty = gateway.call("POST", "/movies", "content-length: 0\r\n", "").await;
    assert_eq!((&empty.json()["body"], empty.received("content-length")), (&json!(""), Some("0".to_owned())));
    // Upgrades are ignored: the request is answered as a plain GET.
    let upgrade = b"GET /movies HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = Answer::parse(&gateway.raw(upgrade).await);
    assert_eq!((answer.status, answer.received("upgrade"), answer.received("connection")), (200, None, None));
    gateway.stop().await;
}

#[tokio::test]
async fn headers_say_where_a_request_came_from() {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    TELEMETRY.get_or_init(|| telemetry::init("test", &TelemetryConfig::default()).unwrap());
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Timeouts::default()).await;
    let given = TraceParent::random();
    let headers = format!(
        "x-forwarded-for: 192.0.2.1\r\nx-request-id: r-1\r\ntraceparent: {given}\r\nx-gone: 1\r\nConnection: x-gone\r\n"
    );
    let answer = gateway.call("GET", "/movies", &headers, "").await;
    let received = |name| answer.received(name).unwrap_or_default();
    assert_eq!(received("x-forwarded-for"), "127.0.0.1");
    assert_eq!(
        (received("x-forwarded-proto"), received("x-forwarded-host")),
        ("http".into(), "theater.example".into())
    );
    assert_eq!(received("host"), movie.address.to_string());
    assert_eq!((received("x-request-id"), answer.header("x-request-id")), ("r-1".into(), Some("r-1")));
    assert_eq!(answer.received("x-gone"), None);
    let sent = TraceParent::parse(&received("traceparent")).unwrap();
    assert_eq!(sent.trace_id(), given.trace_id());
    assert_ne!(sent, given);
    let generated = gateway.get("/movies").await;
    assert_eq!(generated.received("x-request-id").as_deref(), generated.header("x-request-id"));
    gateway.stop().await;
}

#[tokio::test]
async fn responses_are_returned_unchanged() {
    let answers: [(&'static [u8], &str, &[u8]); 4] = [
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\0", "content-length", b"\x1f\x8b\0"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}", "content-type", b"{}"),
        (b"HTTP/1.1 200 OK\r\nconnection: close, x-gone\r\nx-gone: 1\r\nkeep-alive: 5\r\nx-kept: 1\r\ntransfer-encoding: chunked\r\n\r\n6\r\npieces\r\n0\r\n\r\n", "x-kept", b"6\r\npieces\r\n0\r\n\r\n"),
        (b"HTTP/1.1 302 Found\r\nlocation: /movies/7\r\ncontent-length: 0\r\n\r\n", "location", b""),
    ];
    for (answer, kept, body) in answers {
        let movie = scripted(answer, false).await;
        let gateway = gateway(&[movie.address], Timeouts::default()).await;
        let relayed = gateway.get("/movies").await;
        assert!(relayed.header(kept).is_some(), "{relayed:?}");
        assert!(relayed.header("x-gone").is_none() && relayed.header("keep-alive").is_none(), "{relayed:?}");
        assert_eq!(relayed.body, body);
        gateway.stop().await;
    }
    let movie = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", true).await;
    let gateway = gateway(&[movie.address], Timeouts::default()).await;
    let head = gateway.call("HEAD", "/movies", "", "").await;
    assert_eq!((head.header("content-length"), head.body.as_slice()), (Some("1000"), &b""[..]));
    gateway.stop().await;
}

#[tokio::test]
async fn responses_are_not_buffered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway(&[listener.local_addr().unwrap()], Timeouts::default()).await;
    let first_arrived = Arc::new(Semaphore::new(0));
    let awaited = first_arrived.clone();
    let upstream = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        read_head(&mut connection).await;
        connection
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            .await
            .unwrap();
        awaited.acquire().await.unwrap().forget();
        connection.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    });
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    // Compression would hold the first chunk back until it has enough bytes.
    client
        .write_all(b"GET /movies HTTP/1.1\r\nhost: t\r\nconnection: close\r\naccept-encoding: gzip, br, identity;q=0\r\n\r\n")
        .await
        .unwrap();
    let mut received = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        while !received.windows(3).any(|window| window == b"one") {
            assert_ne!(client.read_buf(&mut received).await.unwrap(), 0);
        }
        first_arrived.add_permits(1);
        client.read_to_end(&mut received).await.unwrap();
    })
    .await
    .expect("the first chunk arrives before the second is sent");
    assert!(received.ends_with(b"3\r\ntwo\r\n0\r\n\r\n"));
    upstream.await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn large_bodies_never_reach_a_service() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Timeouts::default()).await;
    assert_eq!(gateway.call("POST", "/movies", "", &"x".repeat(65_536)).await.status, 200);
    assert_eq!(movie.hits(), 1);
    gateway.call("POST", "/movies", "", &"x".repeat(65_537)).await.assert_problem(413, "at most 65536 bytes");
    let chunk = format!("186a0\r\n{}\r\n0\r\n\r\n", "x".repeat(100_000));
    let head = "POST /movies HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    Answer::parse(&gateway.raw(format!("{head}{chunk}").as_bytes()).await).assert_problem(413, "65536");
    assert_eq!(movie.hits(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn an_unavailable_service_does_not_affect_the_others() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Timeouts::default()).await;
    for (method, body) in [("GET", ""), ("POST", "{}"), ("POST", ID)] {
        let answer = gateway.call(method, "/reservations", "", body).await;
        answer.assert_problem(503, "the reservation service cannot be reached");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(gateway.get("/movies").await.status, 200);
    }
    assert_eq!(gateway.get("/readyz").await.status, 200);
    let metrics = gateway.get("/metrics").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains(r#"gateway_upstream_failures_total{kind="unreachable",service="reservation"}"#));
    assert!(metrics.contains(r#"http_response_status_code="503",http_route="/reservations""#), "{metrics}");
    gateway.stop().await;
}

#[tokio::test]
async fn an_unreachable_replica_is_skipped_for_every_method() {
    let (one, other) = (echo("movie"), echo("movie"));
    let gateway =
        gateway(&[one.address, unreachable_address().await, other.address], Timeouts::default()).await;
    for method in ["GET", "POST", "DELETE", "PATCH"].repeat(6) {
        assert_eq!(gateway.call(method, "/movies", "", "{}").await.status, 200);
    }
    assert_eq!(one.hits() + other.hits(), 24);
    assert!(one.hits() > 0 && other.hits() > 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_is_retried_once_after_a_cut_connection_if_that_is_safe() {
    let key = "idempotency-key: k\r\n";
    for (method, headers, body, attempts) in [
        ("GET", "", "", 2),
        ("HEAD", "", "", 2),
        ("POST", "", ID, 2),
        ("POST", key, "{}", 2),
        ("POST", "", "{}", 1),
        ("DELETE", key, "", 1),
        ("PATCH", key, ID, 1),
    ] {
        let cuts = scripted(b"", false).await;
        let gateway = gateway(&[cuts.address], Timeouts::default()).await;
        let answer = gateway.call(method, "/movies", headers, body).await;
        assert_eq!(answer.status, 502);
        if method != "HEAD" {
            answer
                .assert_problem(502, "the movie service cut the connection; the call may have taken effect");
        }
        assert_eq!(cuts.hits(), attempts, "{method} {headers}{body}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn the_retry_goes_to_another_replica() {
    for _ in 0..4 {
        let (cuts, fine) = (scripted(b"HTTP/1.1 200 O", false).await, echo("movie"));
        let gateway = gateway(&[cuts.address, fine.address], Timeouts::default()).await;
        let answer = gateway.call("POST", "/movies", "", ID).await;
        assert_eq!((answer.status, &answer.json()["body"]), (200, &json!(ID)));
        assert_eq!((cuts.hits(), fine.hits()), (1, 1));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_replica_that_did_not_read_a_request_is_skipped_for_every_method() {
    const UNREAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for method in ["GET", "POST", "DELETE"] {
        let (thawed, fine) = (scripted(UNREAD, false).await, echo("movie"));
        let gateway = gateway(&[thawed.address, fine.address], Timeouts::default()).await;
        for _ in 0..2 {
            assert_eq!(gateway.call(method, "/movies", "", "").await.status, 200);
        }
        assert_eq!((thawed.hits(), fine.hits()), (1, 2));
        gateway.stop().await;
    }
    let thawed = scripted(UNREAD, false).await;
    let gateway = gateway(&[thawed.address], Timeouts::default()).await;
    gateway
        .call("DELETE", "/movies", "", "")
        .await
        .assert_problem(503, "the movie service cannot be reached");
    gateway.stop().await;
}

#[tokio::test]
async fn a_service_that_does_not_answer_causes_a_timeout() {
    let silent = scripted(b"", true).await;
    let gateway = gateway(&[silent.address], SHORT).await;
    for (method, body) in [("GET", ""), ("POST", "{}"), ("POST", ID)] {
        let answer = gateway.call(method, "/movies", "", body).await;
        answer.assert_problem(504, "did not answer within 100ms; the call may have taken effect");
    }
    assert_eq!(silent.hits(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn a_broken_response_is_reported() {
    for answer in [&b"220 smtp.example ESMTP\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
        let broken = scripted(answer, false).await;
        let gateway = gateway(&[broken.address], Timeouts::default()).await;
        gateway.get("/movies").await.assert_problem(502, "the movie service's answer is not HTTP");
        assert_eq!(broken.hits(), 1);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_truncated_response_ends_the_connection() {
    for hold in [false, true] {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none",
        ] {
            let short = scripted(answer, hold).await;
            let gateway = gateway(&[short.address], SHORT).await;
            let relayed = gateway.raw(b"GET /movies HTTP/1.1\r\nhost: t\r\n\r\n").await;
            // The client can see it: there is no last chunk, or there are too few bytes, or none at all.
            let is_visible =
                relayed.is_empty() || relayed.ends_with(b"\r\none") || relayed.ends_with(b"3\r\none\r\n");
            assert!(is_visible, "held: {hold}: {}", String::from_utf8_lossy(&relayed));
            gateway.stop().await;
        }
    }
}

#[tokio::test]
async fn smuggled_requests_are_refused() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Timeouts::default()).await;
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /movies HTTP/1.1\r\n\r\n",
        "content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /movies HTTP/1.1\r\nhost: t\r\n{framing}");
        let answer = gateway.raw(request.as_bytes()).await;
        Answer::parse(&answer).assert_problem(400, "not a valid HTTP/1.1 request");
        assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 400").count(), 1);
    }
    assert_eq!(movie.hits(), 0);
    gateway.stop().await;
}
