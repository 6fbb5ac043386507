//! Settings that every service has. A service's own `Config` flattens them.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// Where logs and traces go.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryConfig {
    /// Base URL of an OTLP collector that accepts HTTP/protobuf, such as `http://localhost:4318`; without it no span is
    /// exported
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = http_url)]
    pub otel_exporter_otlp_endpoint: Option<String>,

    /// The format of log lines; by default `pretty` on a terminal, else `json`
    #[arg(long, env = "LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// The largest [`DrainConfig::drain_delay_secs`].
pub const DRAIN_DELAY_MAX_SECS: u8 = 5;

/// How a process shuts down.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct DrainConfig {
    /// Seconds, 5 at most, to keep accepting requests after the shutdown signal while `/readyz` fails: load balancers
    /// notice it, and each response makes its client open another connection
    #[arg(long, env = "DRAIN_DELAY_SECS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=i64::from(DRAIN_DELAY_MAX_SECS)))]
    pub drain_delay_secs: u8,
}

impl DrainConfig {
    pub fn delay(self) -> Duration {
        Duration::from_secs(self.drain_delay_secs.into())
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For reading on a terminal.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Parses `http://…` or `https://…` with a host.
fn http_url(text: &str) -> Result<String, String> {
    let uri: actix_web::http::Uri = text.parse().map_err(|error| format!("not a URL: {error}"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("must be an http:// or https:// URL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Config {
        #[command(flatten)]
        telemetry: TelemetryConfig,
    }

    fn parse(args: &[&str]) -> Result<TelemetryConfig, String> {
        let args = ["test"].iter().chain(args);
        Config::try_parse_from(args).map(|config| config.telemetry).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_flags() {
        let config =
            parse(&["--otel-exporter-otlp-endpoint", "http://collector:4318/", "--log-format", "json"])
                .unwrap();
        assert_eq!(config.otel_exporter_otlp_endpoint.as_deref(), Some("http://collector:4318"));
        assert_eq!(config.log_format, Some(LogFormat::Json));
    }

    #[test]
    fn errors_name_the_setting() {
        for (args, name) in [
            (["--log-format", "xml"], "--log-format"),
            (["--otel-exporter-otlp-endpoint", "collector:4318"], "--otel-exporter-otlp-endpoint"),
            (["--otel-exporter-otlp-endpoint", "http:///x"], "--otel-exporter-otlp-endpoint"),
            (["--colour", "red"], "--colour"),
        ] {
            let message = parse(&args).unwrap_err();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn help_lists_every_setting() {
        let help = parse(&["--help"]).unwrap_err();
        for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "LOG_FORMAT", "OTLP collector"] {
            assert!(help.contains(name), "{help}");
        }
    }
}
