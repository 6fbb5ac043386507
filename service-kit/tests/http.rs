//! The server as a client sees it: through a socket, byte by byte where it matters.

#![expect(clippy::unwrap_used, reason = "a test helper that fails has failed its test")]

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    config::TelemetryConfig,
    http::body::Json,
    http::health::Health,
    http::pagination,
    http::problem::Problem,
    http::validation::{Number, Validator},
    http::{Server, bind},
    telemetry,
    telemetry::metrics::Metrics,
    telemetry::trace_context,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(20);

static HELD: Semaphore = Semaphore::const_new(0);
static ENTERED: Semaphore = Semaphore::const_new(0);

#[derive(Deserialize)]
struct Order {
    count: Number,
}

async fn order(Json(order): Json<Order>) -> Result<HttpResponse, Problem> {
    let mut bounds = Validator::new();
    let count = bounds.number("/count", order.count, 1, 100);
    bounds.check()?;
    Ok(HttpResponse::Created().json(count))
}

async fn show(req: HttpRequest) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(pagination::path_id(&req, "id")?))
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/orders").get(HttpResponse::Ok).post(order))
        .service(web::resource("/orders/{id}").get(show))
        .service(web::resource("/trace").get(async || trace_context::current().to_string()))
        .service(web::resource("/endless").get(async || {
            HttpResponse::Ok().streaming(futures_util::stream::pending::<Result<web::Bytes, Problem>>())
        }))
        .service(web::resource("/never").get(std::future::pending::<HttpResponse>))
        .service(web::resource("/number/{n}").get(async |n: web::Path<u8>| n.to_string()))
        .service(web::resource("/held").get(async || {
            ENTERED.add_permits(1);
            HELD.acquire().await.map(|permit| permit.forget()).map_err(|_| Problem::internal())?;
            Ok::<_, Problem>(HttpResponse::Ok().body("held"))
        }));
}

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

fn start(change: impl FnOnce(&mut Server)) -> Running {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::new(listener, Metrics::new(), Health::new());
    server.workers = 1;
    change(&mut server);
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(server.run(shutdown.clone(), routes));
    Running { address, shutdown, served }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `bytes`, and reads to the end of the connection.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close before it has read everything.
        let (mut reading, mut writing) = stream.split();
        let mut answer = Vec::new();
        let both = async { tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut answer)) };
        let (_, read) = tokio::time::timeout(DEADLINE, both).await.expect("the connection is closed");
        read.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "").await
    }

    async fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}");
        Answer::parse(&self.raw(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.served).await.expect("the server drains").unwrap().unwrap();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The problem, which must be whole.
    fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        assert_eq!(problem["status"], json!(self.status));
        assert!(problem["type"].as_str().unwrap().starts_with("/problems/"));
        problem
    }
}

#[tokio::test]
async fn malformed_requests_are_told_so() {
    let server = start(|_| {});
    let huge = format!("GET / HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nhost: t\r\n{}\r\n", "x: y\r\n".repeat(200));
    let long = format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(300_000));
    let cases: [(&str, u16, &[u8]); 18] = [
        ("no HTTP", 400, b"hello there\r\n\r\n"),
        ("TLS", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("no version", 400, b"GET /\r\n\r\n"),
        ("wrong version", 400, b"GET / HTTP/9.9\r\nhost: t\r\n\r\n"),
        ("no host", 400, b"GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", 400, b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("NUL in a header", 400, b"GET / HTTP/1.1\r\nhost: t\r\nx: a\0b\r\n\r\n"),
        ("NUL in the path", 400, b"GET /\0 HTTP/1.1\r\nhost: t\r\n\r\n"),
        ("space before the colon", 400, b"GET / HTTP/1.1\r\nhost: t\r\nx : y\r\n\r\n"),
        ("folded header", 400, b"GET / HTTP/1.1\r\nhost: t\r\nx: y\r\n z\r\n\r\n"),
        ("bad header name", 400, b"GET / HTTP/1.1\r\nhost: t\r\n\xff\xfe: y\r\n\r\n"),
        ("both lengths", 400, b"POST /orders HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", 400, b"POST /orders HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        ("signed length", 400, b"POST /orders HTTP/1.1\r\nhost: t\r\ncontent-length: +1\r\n\r\na"),
        ("chunked twice", 400, b"POST /orders HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("large header", 431, huge.as_bytes()),
        ("many headers", 431, many.as_bytes()),
        ("long path", 414, long.as_bytes()),
    ];
    for (name, status, bytes) in cases {
        let answer = Answer::parse(&server.raw(bytes).await);
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        answer.problem();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_broken_chunk_gets_one_answer_and_the_end() {
    let server = start(|_| {});
    let head = "POST /orders HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let smuggled = "GET /orders HTTP/1.1\r\nhost: t\r\n\r\n";
    let text = server.raw(format!("{head}zz\r\n{smuggled}").as_bytes()).await;
    assert_eq!((text.matches("HTTP/1.1 400").count(), text.matches("HTTP/1.1").count()), (1, 1), "{text}");
    Answer::parse(&text).problem();
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_a_timeout() {
    let server = start(|server| server.head_timeout = Duration::from_millis(50));
    let answer = Answer::parse(&server.raw(b"GET / HTTP/1.1\r\nhost: t\r\nx: ").await);
    assert_eq!(answer.status, 408);
    answer.problem();
    server.stop().await;
}

#[tokio::test]
async fn large_bodies_are_refused_and_the_answer_can_be_read() {
    let server = start(|_| {});
    let head = "POST /orders HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let text = format!("\"{}\"", "x".repeat(10_000_000));
    let sized = format!("{head}content-length: {}\r\n\r\n{text}", text.len());
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    for request in [sized, chunked] {
        let answer = Answer::parse(&server.raw(request.as_bytes()).await);
        assert_eq!(answer.status, 413);
        assert_eq!(answer.problem()["detail"], "a body has at most 65536 bytes");
    }
    server.stop().await;
}

#[tokio::test]
async fn routes_answer_in_problems() {
    let server = start(|_| {});
    let json_type = "content-type: application/json\r\n";
    let created = server.call("POST", "/orders", json_type, r#"{"count":"45"}"#).await;
    assert_eq!((created.status, created.body.as_str()), (201, "45"));

    let out_of_bounds = server.call("POST", "/orders", json_type, r#"{"count":101}"#).await;
    assert_eq!(out_of_bounds.status, 422);
    assert_eq!(
        out_of_bounds.problem()["errors"],
        json!([{"pointer": "/count", "detail": "must be between 1 and 100"}])
    );

    let not_allowed = server.call("DELETE", "/orders", "", "").await;
    assert_eq!((not_allowed.status, not_allowed.header("allow")), (405, Some("get, head, post, options")));
    not_allowed.problem();

    for (path, status) in [
        ("/orders/7", 400),
        ("/orders/%00", 400),
        ("/orders/%ff", 400),
        ("/", 404),
        ("/orders/", 404),
        ("/number/x", 404),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        answer.problem();
    }
    for (method, path) in [
        ("GET", "*"),
        ("CONNECT", "example.org:443"),
        ("GET", "orders"),
        ("GET", "http://other/x"),
        ("BREW", "/x"),
    ] {
        let answer = server.call(method, path, "", "").await;
        assert!((400..500).contains(&answer.status), "{method} {path}: {answer:?}");
        answer.problem();
    }
    server.stop().await;
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let server = start(|_| {});
    for path in
        ["/orders", "/orders/7", "/orders/0192f0c1-2345-7abc-8def-0123456789ab", "/livez", "/readyz", "/x"]
    {
        let (get, head) = (server.get(path).await, server.call("HEAD", path, "", "").await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        let named = |answer: &Answer| -> Vec<String> {
            let changing = ["date", "x-request-id"].map(str::to_owned);
            answer
                .head
                .lines()
                .filter(|line| !changing.iter().any(|name| line.starts_with(name)))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(named(&head), named(&get), "{path}");
    }
    // What would stream for ever ends at once.
    let head = server.call("HEAD", "/endless", "", "").await;
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    server.stop().await;
}

#[tokio::test]
async fn options_tells_what_a_resource_takes() {
    let server = start(|_| {});
    for (path, allow) in [
        ("/orders", "get, head, post, options"),
        ("/orders/7", "get, head, options"),
        ("/livez", "get, head, options"),
    ] {
        let answer = server.call("OPTIONS", path, "", "").await;
        assert_eq!((answer.status, answer.header("allow"), answer.body.as_str()), (204, Some(allow), ""));
        for method in ["DELETE", "TRACE", "BREW"] {
            let refused = server.call(method, path, "", "").await;
            assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)));
            assert_eq!(
                refused.problem()["detail"],
                format!("this resource takes {}", allow.to_ascii_uppercase())
            );
        }
    }
    assert_eq!(server.call("OPTIONS", "/nothing", "", "").await.status, 404);
    assert_eq!(server.call("OPTIONS", "*", "", "").await.status, 204);
    server.stop().await;
}

#[tokio::test]
async fn every_answer_tells_browsers_what_it_is_not() {
    let server = start(|_| {});
    let broken = Answer::parse(&server.raw(b"hello there\r\n\r\n").await);
    for answer in [server.get("/orders").await, server.get("/x").await, broken] {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{answer:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn slow_handlers_are_cut_off() {
    let server = start(|server| server.request_timeout = Duration::from_millis(50));
    let answer = server.get("/never").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    answer.problem();
    server.stop().await;
}

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let server = start(|_| {});
    let kept = server.call("GET", "/orders", "x-request-id: abc-1\r\n", "").await;
    assert_eq!(kept.header("x-request-id"), Some("abc-1"));
    for unfit in
        [String::new(), "x-request-id: a b\r\n".to_owned(), format!("x-request-id: {}\r\n", "x".repeat(129))]
    {
        let made = server.call("GET", "/nowhere", &unfit, "").await;
        assert_eq!(made.header("x-request-id").unwrap().len(), 36, "{made:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_continues_the_trace_of_its_client() {
    let _telemetry = telemetry::init("test", &TelemetryConfig::default()).unwrap();
    let server = start(|_| {});
    let given = trace_context::TraceParent::random();
    let answer = server.call("GET", "/trace", &format!("traceparent: {given}\r\n"), "").await;
    let seen = trace_context::TraceParent::parse(&answer.body).unwrap();
    assert_eq!(seen.trace_id(), given.trace_id());
    assert_ne!(seen, given);
    let other = trace_context::TraceParent::parse(&server.get("/trace").await.body).unwrap();
    assert_ne!(other.trace_id(), given.trace_id());
    server.stop().await;
}

#[tokio::test]
async fn metrics_know_routes_and_not_paths() {
    let server = start(|_| {});
    server.get("/orders/7").await;
    server.get("/secret/path").await;
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
    for line in [
        r#"_count{http_request_method="GET",http_response_status_code="400",http_route="/orders/{id}"} 1"#,
        r#"_count{http_request_method="GET",http_response_status_code="404",http_route="unmatched"} 1"#,
    ] {
        assert!(metrics.body.contains(line), "{}", metrics.body);
    }
    assert!(!metrics.body.contains("secret"));
    server.stop().await;
}

#[tokio::test]
async fn what_was_accepted_is_answered_before_the_end() {
    let health = Health::new();
    let probe = health.clone();
    let server = start(|server| server.health = health);
    assert_eq!((server.get("/livez").await.status, server.get("/readyz").await.status), (200, 200));

    let mut idle = server.connect().await;
    idle.write_all(b"GET /orders HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    idle.read_u8().await.unwrap();
    let mut busy = server.connect().await;
    busy.write_all(b"GET /held HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    ENTERED.acquire().await.unwrap().forget();

    server.shutdown.cancel();
    // The idle connection ends while the busy one is still waiting for its answer.
    tokio::time::timeout(DEADLINE, idle.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    assert_eq!(probe.ready().await, Err("draining"));
    assert!(!server.served.is_finished());
    HELD.add_permits(1);
    let mut text = String::new();
    tokio::time::timeout(DEADLINE, busy.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(Answer::parse(&text).body, "held");
    server.stop().await;
}

/// Reads one answer of a connection that may go on.
async fn answer(stream: &mut BufStream<TcpStream>) -> Answer {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    let mut answer = Answer::parse(&head);
    let mut body = vec![0; answer.header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    answer.body = String::from_utf8(body).unwrap();
    answer
}

/// A connection that is in use is never closed under its client: the last answer says that it is the last.
#[tokio::test]
async fn until_balancers_have_noticed_requests_are_taken_and_connections_renewed() {
    let health = Health::new();
    let probe = health.clone();
    let server = start(|server| {
        server.health = health;
        server.drain_delay = DEADLINE;
    });
    let mut kept = BufStream::new(server.connect().await);
    let ask = b"GET /number/7 HTTP/1.1\r\nhost: test\r\n\r\n";
    for (draining, connection) in [(false, None), (true, Some("close"))] {
        if draining {
            server.shutdown.cancel();
            tokio::time::timeout(DEADLINE, async {
                while !probe.draining() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("it drains");
        }
        kept.write_all(ask).await.unwrap();
        kept.flush().await.unwrap();
        let answer = answer(&mut kept).await;
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("7", connection), "{answer:?}");
    }
    assert_eq!(
        tokio::time::timeout(DEADLINE, kept.read_u8()).await.unwrap().unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    // Others are still let in.
    assert_eq!(server.get("/number/8").await.body, "8");
    server.served.abort();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = format!("{:#}", bind(address).unwrap_err());
    assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
}
