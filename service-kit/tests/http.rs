//! Tests of the server through a socket, byte by byte where that matters.

#![expect(clippy::unwrap_used, reason = "a test helper that fails has failed its test")]

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    config::TelemetryConfig,
    http::body::Json,
    http::health::Health,
    http::parameters,
    http::problem::Problem,
    http::validation::{IntegerOrString, Validator},
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

/// The timeout of every wait: a test that reaches it fails.
const TIMEOUT: Duration = Duration::from_secs(20);

static HANDLER_RELEASED: Semaphore = Semaphore::const_new(0);
static HANDLER_ENTERED: Semaphore = Semaphore::const_new(0);

#[derive(Deserialize)]
struct Order {
    count: IntegerOrString,
}

async fn order(Json(order): Json<Order>) -> Result<HttpResponse, Problem> {
    let mut validator = Validator::new();
    let count = validator.number("/count", order.count, 1, 100);
    validator.finish()?;
    Ok(HttpResponse::Created().json(count))
}

async fn show(req: HttpRequest) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(parameters::path_id(&req, "id")?))
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
            HANDLER_ENTERED.add_permits(1);
            HANDLER_RELEASED
                .acquire()
                .await
                .map(|permit| permit.forget())
                .map_err(|_| Problem::internal())?;
            Ok::<_, Problem>(HttpResponse::Ok().body("held"))
        }));
}

struct RunningServer {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

fn start(configure: impl FnOnce(&mut Server)) -> RunningServer {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::new(listener, Metrics::new(), Health::new());
    server.workers = 1;
    configure(&mut server);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(server.run(shutdown.clone(), routes));
    RunningServer { address, shutdown, task }
}

impl RunningServer {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `bytes`, and reads until the connection is closed.
    async fn send_raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close the connection before it has read everything.
        let (mut reader, mut writer) = stream.split();
        let mut response = Vec::new();
        let both = async { tokio::join!(writer.write_all(bytes), reader.read_to_end(&mut response)) };
        let (_, read) = tokio::time::timeout(TIMEOUT, both).await.expect("the connection is closed");
        read.unwrap();
        String::from_utf8_lossy(&response).into_owned()
    }

    async fn get(&self, path: &str) -> Response {
        self.call("GET", path, "", "").await
    }

    async fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}");
        Response::parse(
            &self.send_raw(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await,
        )
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(TIMEOUT, self.task).await.expect("the server drains").unwrap().unwrap();
    }
}

#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as a problem; fails if it is none.
    fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        assert_eq!(problem["status"], json!(self.status));
        assert!(problem["type"].as_str().unwrap().starts_with("/problems/"));
        problem
    }
}

#[tokio::test]
async fn malformed_requests_get_a_problem() {
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
        let response = Response::parse(&server.send_raw(bytes).await);
        assert_eq!(response.status, status, "{name}: {response:?}");
        assert_eq!(response.header("connection"), Some("close"), "{name}");
        response.problem();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_broken_chunk_gets_one_response_and_closes_the_connection() {
    let server = start(|_| {});
    let head = "POST /orders HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let smuggled = "GET /orders HTTP/1.1\r\nhost: t\r\n\r\n";
    let text = server.send_raw(format!("{head}zz\r\n{smuggled}").as_bytes()).await;
    assert_eq!((text.matches("HTTP/1.1 400").count(), text.matches("HTTP/1.1").count()), (1, 1), "{text}");
    Response::parse(&text).problem();
    server.stop().await;
}

#[tokio::test]
async fn an_unfinished_head_is_a_timeout() {
    let server = start(|server| server.head_timeout = Duration::from_millis(50));
    let response = Response::parse(&server.send_raw(b"GET / HTTP/1.1\r\nhost: t\r\nx: ").await);
    assert_eq!(response.status, 408);
    response.problem();
    server.stop().await;
}

#[tokio::test]
async fn large_bodies_are_rejected_and_the_response_can_be_read() {
    let server = start(|_| {});
    let head = "POST /orders HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let text = format!("\"{}\"", "x".repeat(10_000_000));
    let sized = format!("{head}content-length: {}\r\n\r\n{text}", text.len());
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    for request in [sized, chunked] {
        let response = Response::parse(&server.send_raw(request.as_bytes()).await);
        assert_eq!(response.status, 413);
        assert_eq!(response.problem()["detail"], "a body has at most 65536 bytes");
    }
    server.stop().await;
}

#[tokio::test]
async fn errors_of_routes_are_problems() {
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
        let response = server.get(path).await;
        assert_eq!(response.status, status, "{path}");
        response.problem();
    }
    for (method, path) in [
        ("GET", "*"),
        ("CONNECT", "example.org:443"),
        ("GET", "orders"),
        ("GET", "http://other/x"),
        ("BREW", "/x"),
    ] {
        let response = server.call(method, path, "", "").await;
        assert!((400..500).contains(&response.status), "{method} {path}: {response:?}");
        response.problem();
    }
    server.stop().await;
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let server = start(|_| {});
    for path in
        ["/orders", "/orders/7", "/orders/0192f0c1-2345-7abc-8def-0123456789ab", "/livez", "/readyz", "/x"]
    {
        let (get, head) = (server.get(path).await, server.call("HEAD", path, "", "").await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        let stable_headers = |response: &Response| -> Vec<String> {
            let changing = ["date", "x-request-id"].map(str::to_owned);
            response
                .head
                .lines()
                .filter(|line| !changing.iter().any(|name| line.starts_with(name)))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(stable_headers(&head), stable_headers(&get), "{path}");
    }
    // The response to HEAD ends at once, even for an endless stream.
    let head = server.call("HEAD", "/endless", "", "").await;
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    server.stop().await;
}

#[tokio::test]
async fn options_lists_the_methods_of_a_resource() {
    let server = start(|_| {});
    for (path, allow) in [
        ("/orders", "get, head, post, options"),
        ("/orders/7", "get, head, options"),
        ("/livez", "get, head, options"),
    ] {
        let response = server.call("OPTIONS", path, "", "").await;
        assert_eq!(
            (response.status, response.header("allow"), response.body.as_str()),
            (204, Some(allow), "")
        );
        for method in ["DELETE", "TRACE", "BREW"] {
            let rejected = server.call(method, path, "", "").await;
            assert_eq!((rejected.status, rejected.header("allow")), (405, Some(allow)));
            assert_eq!(
                rejected.problem()["detail"],
                format!("this resource takes {}", allow.to_ascii_uppercase())
            );
        }
    }
    assert_eq!(server.call("OPTIONS", "/nothing", "", "").await.status, 404);
    assert_eq!(server.call("OPTIONS", "*", "", "").await.status, 204);
    server.stop().await;
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let server = start(|_| {});
    let broken = Response::parse(&server.send_raw(b"hello there\r\n\r\n").await);
    for response in [server.get("/orders").await, server.get("/x").await, broken] {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(response.header(name), Some(value), "{response:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn slow_handlers_time_out() {
    let server = start(|server| server.request_timeout = Duration::from_millis(50));
    let response = server.get("/never").await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    response.problem();
    server.stop().await;
}

#[tokio::test]
async fn request_ids_are_kept_or_generated() {
    let server = start(|_| {});
    let kept = server.call("GET", "/orders", "x-request-id: abc-1\r\n", "").await;
    assert_eq!(kept.header("x-request-id"), Some("abc-1"));
    for invalid in
        [String::new(), "x-request-id: a b\r\n".to_owned(), format!("x-request-id: {}\r\n", "x".repeat(129))]
    {
        let generated = server.call("GET", "/nowhere", &invalid, "").await;
        assert_eq!(generated.header("x-request-id").unwrap().len(), 36, "{generated:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_continues_the_trace_of_its_client() {
    let _telemetry = telemetry::init("test", &TelemetryConfig::default()).unwrap();
    let server = start(|_| {});
    let client = trace_context::TraceParent::random();
    let response = server.call("GET", "/trace", &format!("traceparent: {client}\r\n"), "").await;
    let handler = trace_context::TraceParent::parse(&response.body).unwrap();
    assert_eq!(handler.trace_id(), client.trace_id());
    assert_ne!(handler, client);
    let other = trace_context::TraceParent::parse(&server.get("/trace").await.body).unwrap();
    assert_ne!(other.trace_id(), client.trace_id());
    server.stop().await;
}

#[tokio::test]
async fn metrics_have_routes_and_no_paths() {
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
async fn accepted_requests_are_finished_before_the_server_stops() {
    let health = Health::new();
    let probe = health.clone();
    let server = start(|server| server.health = health);
    assert_eq!((server.get("/livez").await.status, server.get("/readyz").await.status), (200, 200));

    let mut idle = server.connect().await;
    idle.write_all(b"GET /orders HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    idle.read_u8().await.unwrap();
    let mut busy = server.connect().await;
    busy.write_all(b"GET /held HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    HANDLER_ENTERED.acquire().await.unwrap().forget();

    server.shutdown.cancel();
    // The idle connection is closed while the busy one still waits for its response.
    tokio::time::timeout(TIMEOUT, idle.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    assert_eq!(probe.ready().await, Err("draining"));
    assert!(!server.task.is_finished());
    HANDLER_RELEASED.add_permits(1);
    let mut text = String::new();
    tokio::time::timeout(TIMEOUT, busy.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(Response::parse(&text).body, "held");
    server.stop().await;
}

/// Reads one response of a connection that may stay open.
async fn read_response(stream: &mut BufStream<TcpStream>) -> Response {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    let mut response = Response::parse(&head);
    let mut body = vec![0; response.header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    response.body = String::from_utf8(body).unwrap();
    response
}

/// A connection in use is closed by its last response, so that no request is lost.
#[tokio::test]
async fn during_the_drain_delay_requests_are_accepted_and_connections_closed() {
    let health = Health::new();
    let probe = health.clone();
    let server = start(|server| {
        server.health = health;
        server.drain_delay = TIMEOUT;
    });
    let mut kept = BufStream::new(server.connect().await);
    let request = b"GET /number/7 HTTP/1.1\r\nhost: test\r\n\r\n";
    for (draining, connection) in [(false, None), (true, Some("close"))] {
        if draining {
            server.shutdown.cancel();
            tokio::time::timeout(TIMEOUT, async {
                while !probe.draining() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("it drains");
        }
        kept.write_all(request).await.unwrap();
        kept.flush().await.unwrap();
        let response = read_response(&mut kept).await;
        assert_eq!(
            (response.body.as_str(), response.header("connection")),
            ("7", connection),
            "{response:?}"
        );
    }
    assert_eq!(
        tokio::time::timeout(TIMEOUT, kept.read_u8()).await.unwrap().unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    // New connections are still accepted.
    assert_eq!(server.get("/number/8").await.body, "8");
    server.task.abort();
}

#[tokio::test]
async fn the_error_names_a_port_in_use() {
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap();
    let error = format!("{:#}", bind(address).unwrap_err());
    assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
}
