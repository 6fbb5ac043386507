//! The one entrance: sends each request to a replica of the service that it is for.
//!
//! It holds no state and knows no domain. What it adds is what a single entrance can: one address, limits on
//! bodies and time, forwarded headers, a request id and a trace, the choice among replicas, and a clear answer
//! when a service is away while the others go on working.
//!
//! # Layout
//!
//! * [`config`]: its settings
//! * `routes`: which paths belong to which service
//! * [`upstream`]: a service's replicas, used in turn; one that is away is passed over
//! * `proxy`: one request: send, perhaps repeat, stream the answer back
//! * `describe`: the API's description, of what the services say of themselves; `docs`: the same for people
//! * `client`, `rate`: whose request it is, and how many that client may make
//! * `cors`, `compress`: which web pages may call, and answers made smaller
//! * `connect`: connections to upstreams
//! * `headers`: what is added and removed on the way

use std::{net::TcpListener, time::Duration};

use service_kit::{http, http::health::Health, telemetry::metrics::Metrics};
use tokio_util::sync::CancellationToken;

pub mod client;
mod compress;
pub mod config;
mod connect;
pub mod cors;
mod describe;
mod docs;
mod headers;
mod proxy;
mod rate;
mod routes;
pub mod upstream;

pub use config::Config;
pub use proxy::Limits;

/// What a client's head may have; some fields more are added on the way.
const HEADER_LIMITS: http::HeaderLimits = http::HeaderLimits { fields_max: 64, bytes_max: 32 * 1024 };

/// A gateway that has its port.
pub struct Application {
    listener: TcpListener,
    port: u16,
    gateway: routes::Gateway,
    metrics: Metrics,
    drain_delay: Duration,
}

impl Application {
    /// Binds the port. The services need not be there yet.
    ///
    /// # Errors
    ///
    /// When the address can't be bound.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        Self::build_with(config, Limits::default())
    }

    /// As [`Application::build`], with limits other than the usual.
    ///
    /// # Errors
    ///
    /// When the address can't be bound.
    pub fn build_with(config: Config, limits: Limits) -> anyhow::Result<Self> {
        let listener = http::bind(config.bind_address)?;
        let port = listener.local_addr()?.port();
        let (metrics, drain_delay) = (Metrics::new(), config.drain.delay());
        let gateway = routes::Gateway::new(config, limits, metrics.registry())?;
        Ok(Self { listener, port, gateway, metrics, drain_delay })
    }

    /// The port bound, also when the configuration said 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `shutdown`, then ends what was accepted.
    ///
    /// # Errors
    ///
    /// When the listener fails.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(port = self.port, "listening");
        let mut server = http::Server::new(self.listener, self.metrics, Health::new());
        server.drain_delay = self.drain_delay;
        // The proxy has its own, tighter limits, and its own answers when they are reached.
        server.request_timeout = self.gateway.limits().request() + Duration::from_secs(1);
        // Fewer than a service takes, which must take ours too.
        server.header_limits = HEADER_LIMITS;
        let gateway = self.gateway;
        server.run(shutdown, move |config| gateway.routes(config)).await
    }
}
