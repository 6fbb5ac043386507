//! The notification service's settings.

use std::net::SocketAddr;

use service_kit::config::TelemetryConfig;
use service_kit::events::EventsConfig;

/// Tells customers how their reservations ended: one notification per outcome
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "notification", version)]
pub struct Config {
    #[command(flatten)]
    pub events: EventsConfig,

    /// Where HTTP is served; port 0 takes a free one
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0:8084")]
    pub bind_address: SocketAddr,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}
