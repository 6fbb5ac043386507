//! The server around a service's routes: what every answer has in common.

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

/// How long a client may take to send a connection's first request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than the gateway keeps an idle connection, so that it is never we who close one that it is about to use: that
/// shows as stray 502s.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a connection whose request was refused unread stays open for the client to read why.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long requests that were accepted may take to end after the server has stopped accepting: longer than the
/// gateway's for one that waits.
pub(crate) const STOP_LIMIT_SECS: u64 = 13;

/// Connections that one worker has open at once. More wait to be accepted: a flood of slow ones costs memory for
/// this many, and holds the door for no longer than [`HEAD_TIMEOUT`].
const CONNECTIONS_MAX: usize = 8192;

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
    pub header_limits: HeaderLimits,
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
            header_limits: HeaderLimits::default(),
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
            header_limits: self.header_limits,
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

/// As `actix_web::HttpServer` does it, which takes no connections but bare ones: ours go through [`ConnectionGuard`].
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
        let limits = common.header_limits;
        fn_service(move |io: TcpStream| async move {
            // Answers are small and written at once: waiting for more to send only delays them.
            io.set_nodelay(true)?;
            let peer = io.peer_addr().ok();
            Ok::<_, DispatchError>((ConnectionGuard::new(io, limits), peer))
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
        ready(Ok(req.app_data::<Data<Self>>().map(|stopping| stopping.as_ref().clone()).unwrap_or_default()))
    }
}

/// What the routes and middleware of all workers share.
#[derive(Clone)]
struct Common {
    metrics: Metrics,
    health: Health,
    stopping: Stopping,
    request_timeout: Duration,
    head_timeout: Duration,
    header_limits: HeaderLimits,
}

fn app<R: Fn(&mut web::ServiceConfig)>(
    common: &Common,
    routes: R,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse, Error = Error, InitError = ()>
    + use<R>,
> {
    let limit = common.request_timeout;
    let (metrics, health, limits) = (common.metrics.clone(), common.health.clone(), common.header_limits);
    App::new()
        .app_data(Data::new(common.stopping.clone()))
        .app_data(Data::new(common.health.clone()))
        .app_data(Data::new(common.metrics.clone()))
        // First, so that routes which take every path leave these alone.
        .configure(probes::configure)
        .configure(routes)
        .default_service(web::to(unknown_route))
        .wrap(from_fn(move |req, next| time_limit::enforce(limit, req, next)))
        .wrap(from_fn(methods::complete))
        .wrap(from_fn(move |req, next| {
            middleware::observe(metrics.clone(), health.clone(), limits, req, next)
        }))
}

/// The answer where nothing is.
pub async fn unknown_route() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found("there is no such resource"))
}
