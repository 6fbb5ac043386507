//! The reservation-list service's settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use service_kit::config::TelemetryConfig;
use service_kit::messaging::{EventsConfig, IdempotencyConfig};

/// The read side: what a customer has reserved
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "reservation-list", version)]
pub struct Config {
    #[command(flatten)]
    pub events: EventsConfig,

    /// The address for HTTP; port 0 takes a free one
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0:8085")]
    pub bind_address: SocketAddr,

    #[command(flatten)]
    pub exports: ExportConfig,

    #[command(flatten)]
    pub idempotency: IdempotencyConfig,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

/// Where exports are stored, how long, and how large they may be.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Exports")]
pub struct ExportConfig {
    /// The folder of exports. All replicas should share it: otherwise each serves only the files that it made
    #[arg(long, env = "EXPORTS_DIR", default_value_os_t = std::env::temp_dir().join("theater-exports"))]
    pub exports_dir: PathBuf,

    /// Seconds after which an export is deleted
    #[arg(long, env = "EXPORTS_TTL_SECS", default_value_t = 86_400,
          value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub exports_ttl_secs: u32,

    /// Bytes of all finished exports together; exports that are being made come on top
    #[arg(long, env = "EXPORTS_BYTES_MAX", default_value_t = 1 << 30,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub exports_bytes_max: u64,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = ["reservation-list", "--database-url=postgres://localhost/l"].iter().chain(args);
        Config::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn exports_have_their_own_folder_by_default() {
        let config = parse(&["--exports-dir=/exports", "--exports-ttl-secs=60"]).unwrap().exports;
        assert_eq!((config.exports_dir, config.exports_ttl_secs), (PathBuf::from("/exports"), 60));
        assert!(parse(&[]).unwrap().exports.exports_dir.starts_with(std::env::temp_dir()));
        for wrong in ["--exports-dir=", "--exports-ttl-secs=0", "--exports-bytes-max=0"] {
            let message = parse(&[wrong]).unwrap_err();
            assert!(message.contains(wrong.split('=').next().unwrap()), "{message}");
        }
        let help = parse(&["--help"]).unwrap_err();
        for name in ["EXPORTS_DIR", "EXPORTS_TTL_SECS", "EXPORTS_BYTES_MAX", "IDEMPOTENCY_TTL_SECS"] {
            assert!(help.contains(name), "{help}");
        }
    }
}
