//! The HTTP server: binds, serves a service's routes and the common ones, and drains.

use std::{
    future::{Ready, ready},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use actix_http::{HttpService, error::DispatchError};
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::{
    App, Error, FromRequest, HttpRequest, HttpResponse,
    dev::{AppConfig, Payload, ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    rt::net::TcpStream,
    web::{self, Data},
};
use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    http::{
        connection_guard::ConnectionGuard,
        header_limits::HeaderLimits,
        health::Health,
        methods, middleware, probes,
        problem::Problem,
        time_limit::{self, REQUEST_TIMEOUT},
    },
    telemetry::metrics::Metrics,
};

/// How long a client may take to send the head of a connection's first request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than the gateway keeps an idle connection, so that a service never closes one that the gateway is about to
/// use. That would cause occasional 502s.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a connection stays open after a response to a request that was not read to its end, so that the client can
/// read the response.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long accepted requests may still run after the server has stopped accepting: longer than the gateway's limit for
/// a request that waits.
pub(crate) const STOP_LIMIT_SECS: u64 = 13;

/// How many connections one worker has open at once; further ones wait to be accepted. A flood of slow connections
/// costs memory for this many, and blocks others for at most [`HEAD_TIMEOUT`].
const CONNECTIONS_MAX: usize = 8192;

/// Binds `address`; port 0 selects a free port.
///
/// # Errors
///
/// If the port is in use or the address is not available; the error names the address.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// A service's HTTP server.
pub struct Server {
    pub listener: TcpListener,
    pub metrics: Metrics,
    pub health: Health,
    /// How many threads serve requests.
    pub workers: usize,
    /// A request that takes longer gets 503, and its handler is dropped.
    pub request_timeout: Duration,
    /// A connection that takes longer to send its first head gets 408.
    pub head_timeout: Duration,
    /// A request whose head exceeds these gets 431.
    pub header_limits: HeaderLimits,
    /// The time between the failure of `/readyz` and the end of accepting, in which load balancers notice it. Each
    /// response in this time closes its connection.
    pub drain_delay: Duration,
}

impl Server {
    /// With one worker per processor, and the default limits.
    #[must_use]
    pub fn new(listener: TcpListener, metrics: Metrics, health: Health) -> Self {
        Self {
            listener,
            metrics,
            health,
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            request_timeout: REQUEST_TIMEOUT,
            head_timeout: HEAD_TIMEOUT,
            header_limits: HeaderLimits::default(),
            drain_delay: Duration::ZERO,
        }
    }

    /// Serves `routes` and the routes that every service has, until `shutdown`. Then finishes the accepted requests.
    /// `routes` is called once per worker.
    ///
    /// # Errors
    ///
    /// If the listener fails.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        let Self { listener, metrics, health, workers, drain_delay, .. } = self;
        let stopping = Stopping(CancellationToken::new());
        let shared = SharedState {
            metrics,
            health: health.clone(),
            stopping: stopping.clone(),
            request_timeout: self.request_timeout,
            head_timeout: self.head_timeout,
            header_limits: self.header_limits,
        };
        let server = start(listener, workers, shared, routes).context("cannot serve HTTP")?;
        let handle = server.handle();
        let stop = async {
            shutdown.cancelled().await;
            health.drain();
            tokio::time::sleep(drain_delay).await;
            stopping.0.cancel();
            handle.stop(true).await;
        };
        tokio::pin!(server);
        let result = tokio::select! {
            result = &mut server => result,
            () = stop => server.await,
        };
        result.context("the HTTP server failed")?;
        anyhow::ensure!(shutdown.is_cancelled(), "the HTTP server ended without being asked to");
        Ok(())
    }
}

/// Does what `actix_web::HttpServer` does, which can't wrap a connection's socket: here [`ConnectionGuard`] does.
fn start(
    listener: TcpListener,
    workers: usize,
    shared: SharedState,
    routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> std::io::Result<actix_server::Server> {
    let builder = actix_server::Server::build();
    let draining = builder.graceful_shutdown_signal();
    let builder = builder.workers(workers).max_concurrent_connections(CONNECTIONS_MAX).disable_signals();
    let server = builder.shutdown_timeout(STOP_LIMIT_SECS).listen("http", listener, move || {
        let draining = draining.clone();
        let app = app(&shared, routes.clone()).into_factory().map_err(|error| error.error_response());
        let service = HttpService::build()
            // Closes idle connections as soon as the drain begins; otherwise the stop would wait for them.
            .graceful_shutdown_signal(move || {
                let draining = draining.clone();
                async move { draining.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            // When the client disconnects, its handler or its stream ends at once.
            .h1_allow_half_closed(false)
            .client_request_timeout(shared.head_timeout)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .h1(map_config(app, |()| AppConfig::default()));
        let limits = shared.header_limits;
        fn_service(move |io: TcpStream| async move {
            // Responses are small and written at once: waiting for more data would only delay them.
            io.set_nodelay(true)?;
            let peer = io.peer_addr().ok();
            Ok::<_, DispatchError>((ConnectionGuard::new(io, limits), peer))
        })
        .and_then(service)
    })?;
    Ok(server.run())
}

/// Cancelled when the server stops: a handler that only waits for an outcome responds then. An extractor.
#[derive(Clone, Default)]
pub struct Stopping(pub CancellationToken);

impl FromRequest for Stopping {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        // A test of routes has no server, and so no token.
        ready(Ok(req.app_data::<Data<Self>>().map(|stopping| stopping.as_ref().clone()).unwrap_or_default()))
    }
}

/// The state that the routes and the middleware of all workers share.
#[derive(Clone)]
struct SharedState {
    metrics: Metrics,
    health: Health,
    stopping: Stopping,
    request_timeout: Duration,
    head_timeout: Duration,
    header_limits: HeaderLimits,
}

fn app<R: Fn(&mut web::ServiceConfig)>(
    shared: &SharedState,
    routes: R,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse, Error = Error, InitError = ()>
    + use<R>,
> {
    let limit = shared.request_timeout;
    let (metrics, health, limits) = (shared.metrics.clone(), shared.health.clone(), shared.header_limits);
    App::new()
        .app_data(Data::new(shared.stopping.clone()))
        .app_data(Data::new(shared.health.clone()))
        .app_data(Data::new(shared.metrics.clone()))
        // First, so that a service's catch-all route doesn't shadow them.
        .configure(probes::configure)
        .configure(routes)
        .default_service(web::to(unknown_route))
        .wrap(from_fn(move |req, next| time_limit::enforce(limit, req, next)))
        .wrap(from_fn(methods::add_head_and_options))
        .wrap(from_fn(move |req, next| {
            middleware::observe(metrics.clone(), health.clone(), limits, req, next)
        }))
}

/// The handler of paths that match no route.
pub async fn unknown_route() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found("there is no such resource"))
}
