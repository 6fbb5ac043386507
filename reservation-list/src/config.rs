//! The reservation-list service's settings.

use std::net::SocketAddr;

use service_kit::config::TelemetryConfig;
use service_kit::events::EventsConfig;

/// The read side: what a customer has reserved
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "reservation-list", version)]
pub struct Config {
    #[command(flatten)]
    pub events: EventsConfig,

    /// Where HTTP is served; port 0 takes a free one
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0:8085")]
    pub bind_address: SocketAddr,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}
