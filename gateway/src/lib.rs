//! The single entry point: forwards each request to a replica of the service that owns its path.
//!
//! The gateway keeps no state and knows no domain types. It adds what only a single entry point can add: one
//! address, limits on bodies and time, forwarding headers, a request id and a trace, the choice among replicas, and
//! a clear answer when one service is unavailable while the others go on working.
//!
//! # Layout
//!
//! * [`config`]: the settings
//! * `routes`: which paths belong to which service
//! * `proxy`: one request: send it, retry it if that is safe, stream the response back; `timeouts`: how long that takes
//! * [`upstream`]: the replicas of a service, used in turn; a failed replica is skipped for a while
//! * `connect`: connections to replicas
//! * `headers`: header fields added and removed on the way
//! * [`client_address`], `rate_limit`: the address of the client, and how many requests it may make
//! * [`cors`], `compress`: which web pages may call, and compressed responses
//! * `openapi_document`: the services' OpenAPI documents, merged into one; `docs`: the index and Swagger UI

use std::{net::TcpListener, time::Duration};

use service_kit::{http, http::health::Health, telemetry::metrics::Metrics};
use tokio_util::sync::CancellationToken;

pub mod client_address;
mod compress;
pub mod config;
mod connect;
pub mod cors;
mod docs;
mod headers;
mod openapi_document;
mod proxy;
mod rate_limit;
mod routes;
mod timeouts;
pub mod upstream;

pub use config::Config;
pub use timeouts::Timeouts;

/// The limits on a client's request head. A service accepts more, because the gateway adds some fields.
const HEADER_LIMITS: http::HeaderLimits = http::HeaderLimits { fields_max: 64, bytes_max: 32 * 1024 };

/// A gateway whose port is bound.
pub struct Application {
    listener: TcpListener,
    port: u16,
    gateway: routes::Gateway,
    metrics: Metrics,
    drain_delay: Duration,
}

impl Application {
    /// Binds the port. The services need not run yet.
    ///
    /// # Errors
    ///
    /// If the address can't be bound.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        Self::build_with(config, Timeouts::default())
    }

    /// As [`Application::build`], with other timeouts than the default ones.
    ///
    /// # Errors
    ///
    /// If the address can't be bound.
    pub fn build_with(config: Config, timeouts: Timeouts) -> anyhow::Result<Self> {
        let listener = http::bind(config.bind_address)?;
        let port = listener.local_addr()?.port();
        let (metrics, drain_delay) = (Metrics::new(), config.drain.delay());
        let gateway = routes::Gateway::new(config, timeouts, metrics.registry())?;
        Ok(Self { listener, port, gateway, metrics, drain_delay })
    }

    /// The bound port, also if the configured port is 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `shutdown`, then finishes the accepted requests.
    ///
    /// # Errors
    ///
    /// If the listener fails.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(port = self.port, "listening");
        let mut server = http::Server::new(self.listener, self.metrics, Health::new());
        server.drain_delay = self.drain_delay;
        // The proxy has shorter timeouts, and its own answers when they expire.
        server.request_timeout = self.gateway.timeouts().request() + Duration::from_secs(1);
        server.header_limits = HEADER_LIMITS;
        let gateway = self.gateway;
        server.run(shutdown, move |config| gateway.routes(config)).await
    }
}
