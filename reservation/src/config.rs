//! The reservation service's settings.

use std::net::SocketAddr;

use service_kit::config::TelemetryConfig;
use service_kit::messaging::{EventsConfig, IdempotencyConfig};

/// Reservations and their status: places, confirms, cancels, times out
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "reservation", version)]
pub struct Config {
    #[command(flatten)]
    pub events: EventsConfig,

    /// Where HTTP is served; port 0 takes a free one
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0:8082")]
    pub bind_address: SocketAddr,

    /// Seconds after which a reservation that is still undecided is cancelled
    #[arg(long, env = "RESERVATION_DEADLINE_SECS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub reservation_deadline_secs: u32,

    /// Streams of events that may be open at once; one more is refused
    #[arg(long, env = "EVENT_STREAMS_MAX", default_value_t = 1_024,
          value_parser = clap::value_parser!(u32).range(1..=3_072))]
    pub event_streams_max: u32,

    #[command(flatten)]
    pub idempotency: IdempotencyConfig,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}
