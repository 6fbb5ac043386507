//! The movie service's settings.

use std::net::SocketAddr;

use service_kit::config::TelemetryConfig;
use service_kit::messaging::{EventsConfig, IdempotencyConfig};

/// The catalogue and the stock: allocates tickets to reservations, rejects, releases
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "movie", version)]
pub struct Config {
    #[command(flatten)]
    pub events: EventsConfig,

    /// Where HTTP is served; port 0 takes a free one
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0:8083")]
    pub bind_address: SocketAddr,

    #[command(flatten)]
    pub idempotency: IdempotencyConfig,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}
