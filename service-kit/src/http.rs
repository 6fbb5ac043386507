//! The server around a service's routes: what every answer has in common.

use std::{
    cell::Cell,
    future::{Ready, ready},
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::{Duration, Instant},
};

use actix_http::{ConnectionType, HttpService, error::DispatchError};
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::{
    App, Error, FromRequest, HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _,
    body::{BoxBody, MessageBody},
    dev::{AppConfig, Payload, ServiceFactory, ServiceRequest, ServiceResponse},
    error::InternalError,
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
    middleware::{Next, from_fn},
    rt::net::TcpStream,
    web::{self, Data},
};
use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field};
use utoipa::ToSchema;
use uuid::Uuid;

mod heads;
mod methods;

pub use heads::{HeadBounds, TARGET_MAX};
pub use methods::method;

use crate::{
    health::Health,
    metrics::Metrics,
    openapi::OPERATIONS,
    prefer::Wait,
    problem::{PROBLEM_JSON, Problem},
    trace::{self, TRACEPARENT, TraceParent},
    wire::Wire,
};

/// Names one request in logs and answers; kept from hop to hop.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long a request may take, unless its handler [waits][TimeLimit::wait].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to send a connection's first request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than the gateway keeps an idle connection, so that it is never we who close one that it is about to use: that
/// shows as stray 502s.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a connection whose request was refused unread stays open for the client to read why.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How much longer than the wait that was asked for a request may take.
const WAIT_MARGIN: Duration = Duration::from_secs(1);

/// How long requests that were accepted may take to end after the server has stopped accepting: longer than the
/// gateway's for one that waits.
pub(crate) const STOP_LIMIT_SECS: u64 = 13;

/// Connections that one worker has open at once. More wait to be accepted: a flood of slow ones costs memory for
/// this many, and holds the door for no longer than [`HEAD_TIMEOUT`].
const CONNECTIONS_MAX: usize = 8192;

/// What browsers are told with every answer that doesn't say otherwise: it is data, to be shown nowhere and run by
/// nobody. HTTPS is the business of whatever ends TLS before the gateway, and so is Strict-Transport-Security.
pub(crate) const SECURITY: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];

/// Longest request id kept, in bytes.
const REQUEST_ID_MAX: usize = 128;

/// Binds `address`; port 0 takes a free one.
///
/// # Errors
///
/// Says which address, and when its port is in use.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// A service's HTTP server.
pub struct Server {
    pub listener: TcpListener,
    pub metrics: Metrics,
    pub health: Health,
    /// Threads that serve requests.
    pub workers: usize,
    /// After this a request is answered 503, and its handler is dropped.
    pub request_timeout: Duration,
    /// After this a connection that has sent no whole head is answered 408.
    pub head_timeout: Duration,
    /// What a head over these is answered 431.
    pub head_bounds: HeadBounds,
    /// Between `/readyz` failing and the end of accepting: until load balancers have noticed. Each answer of this time says
    /// that it is the last on its connection.
    pub drain_delay: Duration,
}

impl Server {
    /// With as many workers as processors, and the usual limits.
    #[must_use]
    pub fn new(listener: TcpListener, metrics: Metrics, health: Health) -> Self {
        Self {
            listener,
            metrics,
            health,
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            request_timeout: REQUEST_TIMEOUT,
            head_timeout: HEAD_TIMEOUT,
            head_bounds: HeadBounds::default(),
            drain_delay: Duration::ZERO,
        }
    }

    /// Serves `routes`, which is called once a worker, and what every service has, until `shutdown`; then
    /// ends what was accepted.
    ///
    /// # Errors
    ///
    /// When the listener fails.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        let Self { listener, metrics, health, workers, drain_delay, .. } = self;
        let stopping = Stopping(CancellationToken::new());
        let common = Common {
            metrics,
            health: health.clone(),
            stopping: stopping.clone(),
            request_timeout: self.request_timeout,
            head_timeout: self.head_timeout,
            head_bounds: self.head_bounds,
        };
        let server = serve(listener, workers, common, routes).context("cannot serve HTTP")?;
        let handle = server.handle();
        let stop = async {
            shutdown.cancelled().await;
            health.drain();
            tokio::time::sleep(drain_delay).await;
            stopping.0.cancel();
            handle.stop(true).await;
        };
        tokio::pin!(server);
        let served = tokio::select! {
            served = &mut server => served,
            () = stop => server.await,
        };
        served.context("the HTTP server failed")?;
        anyhow::ensure!(shutdown.is_cancelled(), "the HTTP server ended without being asked to");
        Ok(())
    }
}

/// As `actix_web::HttpServer` does it, which takes no connections but bare ones: ours go through [`Wire`].
fn serve(
    listener: TcpListener,
    workers: usize,
    common: Common,
    routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> std::io::Result<actix_server::Server> {
    let builder = actix_server::Server::build();
    let draining = builder.graceful_shutdown_signal();
    let builder = builder.workers(workers).max_concurrent_connections(CONNECTIONS_MAX).disable_signals();
    let server = builder.shutdown_timeout(STOP_LIMIT_SECS).listen("http", listener, move || {
        let draining = draining.clone();
        let app = app(&common, routes.clone()).into_factory().map_err(|error| error.error_response());
        let service = HttpService::build()
            // Closes idle connections as soon as the drain begins; a stop would wait for them otherwise.
            .graceful_shutdown_signal(move || {
                let draining = draining.clone();
                async move { draining.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            // A client that has hung up waits for nothing: its handler, or its stream, ends at once.
            .h1_allow_half_closed(false)
            .client_request_timeout(common.head_timeout)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .h1(map_config(app, |()| AppConfig::default()));
        let bounds = common.head_bounds;
        fn_service(move |io: TcpStream| async move {
            // Answers are small and written at once: waiting for more to send only delays them.
            io.set_nodelay(true)?;
            let peer = io.peer_addr().ok();
            Ok::<_, DispatchError>((Wire::new(io, bounds), peer))
        })
        .and_then(service)
    })?;
    Ok(server.run())
}

/// Tells handlers that the server stops: whoever only waits is to be answered now. An extractor.
#[derive(Clone, Default)]
pub struct Stopping(pub CancellationToken);

impl FromRequest for Stopping {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        // There is none without a server, in a test of routes.
        ready(Ok(req.app_data::<Data<Common>>().map(|common| common.stopping.clone()).unwrap_or_default()))
    }
}

/// How long this request may take, from its head on. An extractor, for handlers that wait.
#[derive(Clone)]
pub struct TimeLimit {
    began: Instant,
    limit: Rc<Cell<Duration>>,
}

impl TimeLimit {
    fn new(limit: Duration) -> Self {
        Self { began: Instant::now(), limit: Rc::new(Cell::new(limit)) }
    }

    /// Makes room for a wait, and answers when it is over: it began with the request.
    #[must_use]
    pub fn wait(&self, wait: Wait) -> Instant {
        self.limit.set(self.limit.get().max(wait.duration() + WAIT_MARGIN));
        self.began + wait.duration()
    }

    /// Waits until the time is over, and answers how long that was.
    async fn over(&self) -> Duration {
        loop {
            let limit = self.limit.get();
            tokio::time::sleep_until((self.began + limit).into()).await;
            if self.limit.get() == limit {
                return limit;
            }
        }
    }
}

impl FromRequest for TimeLimit {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let given = req.extensions().get::<Self>().cloned();
        ready(Ok(given.unwrap_or_else(|| Self::new(REQUEST_TIMEOUT))))
    }
}

/// What the routes and middleware of all workers share.
#[derive(Clone)]
pub(crate) struct Common {
    metrics: Metrics,
    health: Health,
    stopping: Stopping,
    request_timeout: Duration,
    head_timeout: Duration,
    head_bounds: HeadBounds,
}

fn app<R: Fn(&mut web::ServiceConfig)>(
    common: &Common,
    routes: R,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse, Error = Error, InitError = ()>
    + use<R>,
> {
    let limit = common.request_timeout;
    let (metrics, health, bounds) = (common.metrics.clone(), common.health.clone(), common.head_bounds);
    App::new()
        .app_data(Data::new(common.clone()))
        // First, so that routes which take every path leave these alone.
        .service(web::resource("/livez").get(livez))
        .service(web::resource("/readyz").get(readyz))
        .service(web::resource("/metrics").get(render_metrics))
        .configure(routes)
        .default_service(web::to(unknown_route))
        .wrap(from_fn(move |req, next| limited(limit, req, next)))
        .wrap(from_fn(methods::completed))
        .wrap(from_fn(move |req, next| observed(metrics.clone(), health.clone(), bounds, req, next)))
}

/// What a probe is told.
#[derive(Serialize, ToSchema)]
pub(crate) struct State {
    status: &'static str,
}

/// Whether the process lives
///
/// Looks at no dependency: a broker that is away restarts nothing.
#[utoipa::path(
    get, path = "/livez", operation_id = "live", tag = OPERATIONS,
    responses((status = 200, description = "It does", body = State, example = json!({"status": "alive"}))),
)]
pub(crate) async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(State { status: "alive" })
}

/// Whether it should be sent requests
///
/// By its own pool and whether it drains.
#[utoipa::path(
    get, path = "/readyz", operation_id = "ready", tag = OPERATIONS,
    responses(
        (status = 200, description = "It should", body = State, example = json!({"status": "ready"})),
        (status = 503, description = "Not now, and why"),
    ),
)]
pub(crate) async fn readyz(common: Data<Common>) -> Result<HttpResponse, Problem> {
    common.health.ready().await.map_err(Problem::unavailable)?;
    Ok(HttpResponse::Ok().json(State { status: "ready" }))
}

/// The metrics of this process, for Prometheus
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = OPERATIONS,
    responses((status = 200, description = "In the text format", body = String, content_type = "text/plain")),
)]
pub(crate) async fn render_metrics(common: Data<Common>) -> HttpResponse {
    HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(common.metrics.render())
}

/// The answer where nothing is.
pub async fn unknown_route() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found("there is no such resource"))
}

/// Answers 503 when the handler takes longer than `limit`, or than the wait it was asked for. A body that is
/// streamed takes its time.
async fn limited(
    limit: Duration,
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, Error> {
    let limit = TimeLimit::new(limit);
    req.extensions_mut().insert(limit.clone());
    tokio::select! {
        biased;
        response = next.call(req) => response.map(ServiceResponse::map_into_boxed_body),
        limit = limit.over() => {
            tracing::warn!(limit_ms = limit.as_millis(), "request took too long");
            Err(Problem::unavailable(format!("no answer within {limit:?}; it may still take effect")).into())
        }
    }
}

/// Around everything: the request's span, its id, its metric, and every error as a problem. Of a head out of bounds
/// nothing more is seen.
async fn observed(
    metrics: Metrics,
    health: Health,
    bounds: HeadBounds,
    mut req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let start = Instant::now();
    let _active = metrics.begin_request();
    let method = req.method().clone();
    let route = req.match_pattern();
    let request_id = request_id(req.headers());
    let checked = bounds.check(req.head());
    // The handler, and the gateway's upstream, see the same id.
    req.headers_mut().insert(X_REQUEST_ID, request_id.clone());
    let span = span(&req, route.as_deref(), &request_id);

    let outcome = match checked {
        Ok(()) => next.call(req).instrument(span.clone()).await,
        Err(problem) => Ok(req.into_response(problem.error_response())),
    };
    explained(outcome, |response| {
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        for (name, value) in SECURITY {
            if !response.headers().contains_key(&name) {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        if health.draining() {
            // The client's next request is another's. One on a connection that we are about to close would be lost.
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        let (status, took) = (response.status(), start.elapsed());
        metrics.observe_request(&method, route.as_deref(), status, took);
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
        tracing::debug!(parent: &span, status = status.as_u16(), took_ms = took.as_millis(), "answered");
    })
}

/// Makes problems of the errors that actix answers by itself (bad paths, methods, payloads), and shows each
/// answer to `finish`.
fn explained(
    outcome: Result<ServiceResponse, Error>,
    finish: impl FnOnce(&mut HttpResponse),
) -> Result<ServiceResponse, Error> {
    match outcome {
        Ok(mut response) => {
            if let Some(problem) = explanation(response.response()) {
                response = replaced(response, problem.error_response());
            }
            finish(response.response_mut());
            Ok(response)
        }
        Err(error) => {
            let mut response = error.error_response();
            if let Some(problem) = explanation(&response) {
                response = problem.error_response();
            }
            finish(&mut response);
            Err(InternalError::from_response(error, response).into())
        }
    }
}

/// Another answer in place of one, with the headers that aren't about its body: some were put there on the way.
fn replaced(response: ServiceResponse, mut other: HttpResponse) -> ServiceResponse {
    let own = other.headers().clone();
    for (name, value) in response.headers() {
        if !own.contains_key(name) && !name.as_str().starts_with("content-") {
            other.headers_mut().append(name.clone(), value.clone());
        }
    }
    response.into_response(other)
}

/// The problem for an error answer that isn't one yet.
fn explanation(response: &HttpResponse) -> Option<Problem> {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let explained = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON);
    if !is_error || explained {
        return None;
    }
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let problem = match header(header::ALLOW) {
        Some(allow) => Problem::method_not_allowed(allow),
        None => {
            let detail = response.error().map(ToString::to_string).unwrap_or_default();
            Problem::for_status(status, detail)
        }
    };
    Some(match header(header::RETRY_AFTER) {
        Some(seconds) => problem.with_header(header::RETRY_AFTER, seconds),
        None => problem,
    })
}

/// The client's request id if it is fit for logs, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fit = |value: &&HeaderValue| {
        (1..=REQUEST_ID_MAX).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(X_REQUEST_ID).filter(fit).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).expect("a UUID is a valid header value")
    })
}

/// The request's span, a child of the client's. Probes and scrapes have none: they would be most of a trace store.
fn span(req: &ServiceRequest, route: Option<&str>, request_id: &HeaderValue) -> Span {
    if matches!(req.path(), "/livez" | "/readyz" | "/metrics") {
        return Span::none();
    }
    let method = req.method();
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {}", route.unwrap_or_default()).trim_end(),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = field::Empty,
        url.path = req.path(),
        request.id = request_id.to_str().unwrap_or_default(),
        trace.id = field::Empty,
    );
    let parent = req.headers().get(TRACEPARENT).and_then(|value| TraceParent::parse(value.to_str().ok()?));
    if let Some(parent) = parent {
        trace::set_parent(&span, &parent);
    }
    if let Some(own) = trace::of_span(&span) {
        span.record("trace.id", own.trace_id());
    }
    span
}
