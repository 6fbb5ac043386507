//! The gateway between a client's socket and upstreams that behave and misbehave.

#![expect(clippy::unwrap_used, reason = "a test helper that fails has failed its test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{HttpRequest, HttpResponse, web};
use clap::Parser as _;
use gateway::{Application, Config, Limits};
use serde_json::{Value, json};
use service_kit::{
    config::TelemetryConfig,
    http::health::Health,
    http::{Server, bind},
    telemetry::metrics::Metrics,
    telemetry::trace_context::TraceParent,
    telemetry::{self, Telemetry},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longer than anything here takes; a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(20);

const ID: &str = r#"{"id": "0192f0c1-2345-7abc-8def-0123456789ab"}"#;

/// Ends with the test.
struct Upstream {
    address: SocketAddr,
    hits: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Upstream {
    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// A service that answers with what it was asked.
fn echo(name: &'static str) -> Upstream {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::new(listener, Metrics::new(), Health::new());
    server.workers = 1;
    let stop = CancellationToken::new();
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    tokio::spawn(server.run(stop.clone(), move |config| {
        let hits = counted.clone();
        let answer = move |req: HttpRequest, body: web::Bytes| {
            hits.fetch_add(1, Ordering::SeqCst);
            let headers: Vec<_> = req
                .headers()
                .iter()
                .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap_or("?")]))
                .collect();
            let told = json!({
                "service": name,
                "method": req.method().as_str(),
                "target": req.uri().to_string(),
                "headers": headers,
                "body": String::from_utf8_lossy(&body),
            });
            std::future::ready(
                HttpResponse::Ok()
                    .insert_header(("location", "/movies/7"))
                    .insert_header(("link", "</movies?cursor=x>; rel=\"next\""))
                    .json(told),
            )
        };
        config.service(web::resource("/{all}*").route(web::to(answer)));
    }));
    Upstream { address, hits, _stop: stop.drop_guard() }
}

/// An upstream that reads a request's head, writes `answer`, and then, unless it is to `hold`, closes.
async fn scripted(answer: &'static [u8], hold: bool) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let (counted, stopped) = (hits.clone(), stop.clone());
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        let mut held = Vec::new();
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            read_head(&mut connection).await;
            counted.fetch_add(1, Ordering::SeqCst);
            connection.write_all(answer).await.unwrap();
            if hold {
                held.push(connection);
            }
        }
    }));
    Upstream { address, hits, _stop: stop.drop_guard() }
}

async fn read_head(connection: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(connection.read_buf(&mut head).await.unwrap(), 0, "the gateway sends a head");
    }
}

/// An address where nobody listens.
async fn away() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

struct Gateway {
    address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

const SHORT: Limits = Limits {
    connect: Duration::from_secs(1),
    answer: Duration::from_millis(100),
    piece: Duration::from_millis(100),
};

/// With `movies` behind `/movies`, and nobody behind the rest.
async fn gateway(movies: &[SocketAddr], limits: Limits) -> Gateway {
    let away = away().await;
    start([movies, &[away], &[away], &[away]], limits)
}

fn start(services: [&[SocketAddr]; 4], limits: Limits) -> Gateway {
    let flags = ["--movie-url", "--reservation-url", "--notification-url", "--reservation-list-url"];
    let mut args = vec!["gateway".to_owned(), "--bind-address".to_owned(), "127.0.0.1:0".to_owned()];
    for (flag, addresses) in flags.into_iter().zip(services) {
        let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
        args.extend([flag.to_owned(), urls.join(",")]);
    }
    let application = Application::build_with(Config::try_parse_from(args).unwrap(), limits).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], application.port()));
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(application.run(shutdown.clone()));
    Gateway { address, shutdown, served }
}

impl Gateway {
    /// Sends `bytes`, and reads to the end of the connection.
    async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let mut answer = Vec::new();
        let both = async { tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut answer)) };
        let (_, read) = tokio::time::timeout(DEADLINE, both).await.expect("the connection is closed");
        read.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "").await
    }

    async fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: theater.example\r\nconnection: close\r\n");
        Answer::parse(&self.raw(format!("{head}{headers}{length}\r\n{body}").as_bytes()).await)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.served).await.expect("the gateway drains").unwrap().unwrap();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// A header that the echoing upstream has seen.
    fn seen(&self, name: &str) -> Option<String> {
        let told = self.json();
        let headers = told["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned())
    }

    #[track_caller]
    fn is_problem(&self, status: u16, detail: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], json!(status));
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
}

#[tokio::test]
async fn each_path_goes_to_its_service() {
    let (movie, reservation) = (echo("movie"), echo("reservation"));
    let (notification, list) = (echo("notification"), echo("reservation-list"));
    let services = [[movie.address], [reservation.address], [notification.address], [list.address]];
    let gateway = start(services.each_ref().map(|service| &service[..]), Limits::default());
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
        gateway.get(path).await.is_problem(404, "no such resource");
    }
    assert_eq!(gateway.get("/").await.json()["movies"], "/movies");
    gateway.stop().await;
}

#[tokio::test]
async fn methods_and_bodies_pass() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Limits::default()).await;
    for (method, body) in [("POST", r#"{"a":"ü"}"#), ("PATCH", "x"), ("DELETE", ""), ("BREW", "")] {
        let answer = gateway.call(method, "/movies", "", body).await;
        assert_eq!((&answer.json()["method"], &answer.json()["body"]), (&json!(method), &json!(body)));
        let length = (!body.is_empty()).then(|| body.len().to_string());
        assert_eq!(answer.seen("content-length"), length);
    }
    let chunked = b"POST /movies HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = Answer::parse(&gateway.raw(chunked).await);
    assert_eq!(
        (&answer.json()["body"], answer.seen("content-length")),
        (&json!("abc"), Some("3".to_owned()))
    );
    assert_eq!(answer.seen("transfer-encoding"), None);
    let empty = gateway.call("POST", "/movies", "content-length: 0\r\n", "").await;
    assert_eq!((&empty.json()["body"], empty.seen("content-length")), (&json!(""), Some("0".to_owned())));
    // Upgrades are not taken: the request is answered as the GET it is.
    let upgrade = b"GET /movies HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = Answer::parse(&gateway.raw(upgrade).await);
    assert_eq!((answer.status, answer.seen("upgrade"), answer.seen("connection")), (200, None, None));
    gateway.stop().await;
}

#[tokio::test]
async fn headers_tell_where_a_request_came_from() {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    TELEMETRY.get_or_init(|| telemetry::init("test", &TelemetryConfig::default()).unwrap());
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Limits::default()).await;
    let given = TraceParent::random();
    let headers = format!(
        "x-forwarded-for: 192.0.2.1\r\nx-request-id: r-1\r\ntraceparent: {given}\r\nx-gone: 1\r\nConnection: x-gone\r\n"
    );
    let answer = gateway.call("GET", "/movies", &headers, "").await;
    let seen = |name| answer.seen(name).unwrap_or_default();
    assert_eq!(seen("x-forwarded-for"), "127.0.0.1");
    assert_eq!(
        (seen("x-forwarded-proto"), seen("x-forwarded-host")),
        ("http".into(), "theater.example".into())
    );
    assert_eq!(seen("host"), movie.address.to_string());
    assert_eq!((seen("x-request-id"), answer.header("x-request-id")), ("r-1".into(), Some("r-1")));
    assert_eq!(answer.seen("x-gone"), None);
    let sent = TraceParent::parse(&seen("traceparent")).unwrap();
    assert_eq!(sent.trace_id(), given.trace_id());
    assert_ne!(sent, given);
    let made = gateway.get("/movies").await;
    assert_eq!(made.seen("x-request-id").as_deref(), made.header("x-request-id"));
    gateway.stop().await;
}

#[tokio::test]
async fn answers_pass_as_they_are() {
    let answers: [(&'static [u8], &str, &[u8]); 4] = [
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\0", "content-length", b"\x1f\x8b\0"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}", "content-type", b"{}"),
        (b"HTTP/1.1 200 OK\r\nconnection: close, x-gone\r\nx-gone: 1\r\nkeep-alive: 5\r\nx-kept: 1\r\ntransfer-encoding: chunked\r\n\r\n6\r\npieces\r\n0\r\n\r\n", "x-kept", b"6\r\npieces\r\n0\r\n\r\n"),
        (b"HTTP/1.1 302 Found\r\nlocation: /movies/7\r\ncontent-length: 0\r\n\r\n", "location", b""),
    ];
    for (answer, kept, body) in answers {
        let movie = scripted(answer, false).await;
        let gateway = gateway(&[movie.address], Limits::default()).await;
        let relayed = gateway.get("/movies").await;
        assert!(relayed.header(kept).is_some(), "{relayed:?}");
        assert!(relayed.header("x-gone").is_none() && relayed.header("keep-alive").is_none(), "{relayed:?}");
        assert_eq!(relayed.body, body);
        gateway.stop().await;
    }
    let movie = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", true).await;
    let gateway = gateway(&[movie.address], Limits::default()).await;
    let head = gateway.call("HEAD", "/movies", "", "").await;
    assert_eq!((head.header("content-length"), head.body.as_slice()), (Some("1000"), &b""[..]));
    gateway.stop().await;
}

#[tokio::test]
async fn answers_are_not_buffered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway(&[listener.local_addr().unwrap()], Limits::default()).await;
    let seen = Arc::new(Semaphore::new(0));
    let awaited = seen.clone();
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
    // Compression would hold the first piece back until there is enough.
    client
        .write_all(b"GET /movies HTTP/1.1\r\nhost: t\r\nconnection: close\r\naccept-encoding: gzip, br, identity;q=0\r\n\r\n")
        .await
        .unwrap();
    let mut received = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        while !received.windows(3).any(|window| window == b"one") {
            assert_ne!(client.read_buf(&mut received).await.unwrap(), 0);
        }
        seen.add_permits(1);
        client.read_to_end(&mut received).await.unwrap();
    })
    .await
    .expect("the first piece arrives before the second is sent");
    assert!(received.ends_with(b"3\r\ntwo\r\n0\r\n\r\n"));
    upstream.await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn large_bodies_never_reach_a_service() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Limits::default()).await;
    assert_eq!(gateway.call("POST", "/movies", "", &"x".repeat(65_536)).await.status, 200);
    assert_eq!(movie.hits(), 1);
    gateway.call("POST", "/movies", "", &"x".repeat(65_537)).await.is_problem(413, "at most 65536 bytes");
    let chunk = format!("186a0\r\n{}\r\n0\r\n\r\n", "x".repeat(100_000));
    let head = "POST /movies HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    Answer::parse(&gateway.raw(format!("{head}{chunk}").as_bytes()).await).is_problem(413, "65536");
    assert_eq!(movie.hits(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_service_that_is_away_leaves_the_others_alone() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Limits::default()).await;
    for (method, body) in [("GET", ""), ("POST", "{}"), ("POST", ID)] {
        let answer = gateway.call(method, "/reservations", "", body).await;
        answer.is_problem(503, "the reservation service cannot be reached");
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
async fn a_replica_that_is_away_is_passed_over_whatever_the_method() {
    let (one, other) = (echo("movie"), echo("movie"));
    let gateway = gateway(&[one.address, away().await, other.address], Limits::default()).await;
    for method in ["GET", "POST", "DELETE", "PATCH"].repeat(6) {
        assert_eq!(gateway.call(method, "/movies", "", "{}").await.status, 200);
    }
    assert_eq!(one.hits() + other.hits(), 24);
    assert!(one.hits() > 0 && other.hits() > 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_cut_connection_is_repeated_once_and_only_if_that_is_safe() {
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
        let gateway = gateway(&[cuts.address], Limits::default()).await;
        let answer = gateway.call(method, "/movies", headers, body).await;
        assert_eq!(answer.status, 502);
        if method != "HEAD" {
            answer.is_problem(502, "the movie service cut the connection; the call may have taken effect");
        }
        assert_eq!(cuts.hits(), attempts, "{method} {headers}{body}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn the_repeat_goes_to_another_replica() {
    for _ in 0..4 {
        let (cuts, fine) = (scripted(b"HTTP/1.1 200 O", false).await, echo("movie"));
        let gateway = gateway(&[cuts.address, fine.address], Limits::default()).await;
        let answer = gateway.call("POST", "/movies", "", ID).await;
        assert_eq!((answer.status, &answer.json()["body"]), (200, &json!(ID)));
        assert_eq!((cuts.hits(), fine.hits()), (1, 1));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_replica_that_did_not_read_a_request_is_passed_over_whatever_the_method() {
    const UNREAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for method in ["GET", "POST", "DELETE"] {
        let (thawed, fine) = (scripted(UNREAD, false).await, echo("movie"));
        let gateway = gateway(&[thawed.address, fine.address], Limits::default()).await;
        for _ in 0..2 {
            assert_eq!(gateway.call(method, "/movies", "", "").await.status, 200);
        }
        assert_eq!((thawed.hits(), fine.hits()), (1, 2));
        gateway.stop().await;
    }
    let thawed = scripted(UNREAD, false).await;
    let gateway = gateway(&[thawed.address], Limits::default()).await;
    gateway.call("DELETE", "/movies", "", "").await.is_problem(503, "the movie service cannot be reached");
    gateway.stop().await;
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_a_timeout() {
    let silent = scripted(b"", true).await;
    let gateway = gateway(&[silent.address], SHORT).await;
    for (method, body) in [("GET", ""), ("POST", "{}"), ("POST", ID)] {
        let answer = gateway.call(method, "/movies", "", body).await;
        answer.is_problem(504, "did not answer within 100ms; the call may have taken effect");
    }
    assert_eq!(silent.hits(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn a_broken_answer_is_said_to_be_broken() {
    for answer in [&b"220 smtp.example ESMTP\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
        let broken = scripted(answer, false).await;
        let gateway = gateway(&[broken.address], Limits::default()).await;
        gateway.get("/movies").await.is_problem(502, "the movie service's answer is not HTTP");
        assert_eq!(broken.hits(), 1);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn an_answer_cut_short_ends_the_connection() {
    for hold in [false, true] {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none",
        ] {
            let short = scripted(answer, hold).await;
            let gateway = gateway(&[short.address], SHORT).await;
            let relayed = gateway.raw(b"GET /movies HTTP/1.1\r\nhost: t\r\n\r\n").await;
            // The client must be able to tell: no last chunk, or too few bytes, or nothing at all.
            let told =
                relayed.is_empty() || relayed.ends_with(b"\r\none") || relayed.ends_with(b"3\r\none\r\n");
            assert!(told, "held: {hold}: {}", String::from_utf8_lossy(&relayed));
            gateway.stop().await;
        }
    }
}

#[tokio::test]
async fn smuggling_shapes_stop_here() {
    let movie = echo("movie");
    let gateway = gateway(&[movie.address], Limits::default()).await;
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /movies HTTP/1.1\r\n\r\n",
        "content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /movies HTTP/1.1\r\nhost: t\r\n{framing}");
        let answer = gateway.raw(request.as_bytes()).await;
        Answer::parse(&answer).is_problem(400, "not a valid HTTP/1.1 request");
        assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 400").count(), 1);
    }
    assert_eq!(movie.hits(), 0);
    gateway.stop().await;
}
