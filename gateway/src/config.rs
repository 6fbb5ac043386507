//! The gateway's settings.

use std::net::SocketAddr;

use clap::Parser;
use service_kit::config::{DrainConfig, TelemetryConfig};

use crate::{client_address::Network, cors::Origin, upstream::UpstreamUrl};

/// The single entry point of the theater: forwards each request to the service that it is for
#[derive(Parser, Clone, Debug)]
#[command(name = "gateway", version)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0:8088")]
    pub bind_address: SocketAddr,

    /// Replicas of the reservation service, comma-separated: used in turn, a failed one is skipped for a while
    #[arg(long, env = "RESERVATION_URL", default_value = "http://localhost:8082", value_delimiter = ',')]
    pub reservation_url: Vec<UpstreamUrl>,

    /// Replicas of the movie service, likewise
    #[arg(long, env = "MOVIE_URL", default_value = "http://localhost:8083", value_delimiter = ',')]
    pub movie_url: Vec<UpstreamUrl>,

    /// Replicas of the notification service, likewise
    #[arg(long, env = "NOTIFICATION_URL", default_value = "http://localhost:8084", value_delimiter = ',')]
    pub notification_url: Vec<UpstreamUrl>,

    /// Replicas of the reservation-list service, likewise
    #[arg(
        long,
        env = "RESERVATION_LIST_URL",
        default_value = "http://localhost:8085",
        value_delimiter = ','
    )]
    pub reservation_list_url: Vec<UpstreamUrl>,

    /// Requests a second that one client address (an IPv4 address, or a /64 of IPv6) may make, also as one burst.
    /// Unset: any number
    #[arg(long, env = "RATE_LIMIT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit: Option<u32>,

    /// Addresses and networks of the proxies before the gateway, comma-separated, such as 10.0.0.0/8: only their
    /// X-Forwarded-For, -Proto and -Host are believed and sent on. Unset: none are
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,

    /// Origins of the web pages that may make calls (CORS), comma-separated, such as https://app.example, or * for
    /// any. Unset: none but the gateway's own
    #[arg(long, env = "CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<Origin>,

    #[command(flatten)]
    pub drain: DrainConfig,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        Config::try_parse_from(["gateway"].iter().chain(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_usual_ports() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.bind_address.to_string(), "0.0.0.0:8088");
        let texts = |urls: &[UpstreamUrl]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&config.reservation_url), ["http://localhost:8082"]);
        assert_eq!(texts(&config.movie_url), ["http://localhost:8083"]);
        assert_eq!(texts(&config.notification_url), ["http://localhost:8084"]);
        assert_eq!(texts(&config.reservation_list_url), ["http://localhost:8085"]);
    }

    #[test]
    fn replicas_are_listed_with_commas() {
        let config = parse(&["--movie-url", "http://one:1,http://[::1]:2/, http://three"]).unwrap();
        let shown: Vec<_> = config.movie_url.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://one:1", "http://[::1]:2", "http://three"]);
    }

    #[test]
    fn malformed_settings_are_named() {
        for (flag, value) in [
            ("--movie-url", "localhost:8083"),
            ("--movie-url", "http://one,,http://two"),
            ("--reservation-url", ""),
            ("--reservation-url", "https://one"),
            ("--notification-url", "http://one/path"),
            ("--reservation-list-url", "http://one?x"),
            ("--reservation-list-url", "http://user@one"),
            ("--bind-address", "8088"),
            ("--movies-url", "http://one"),
            ("--rate-limit", "0"),
            ("--rate-limit", "1.5"),
            ("--rate-limit", ""),
            ("--trusted-proxies", "10.0.0.0/33"),
            ("--trusted-proxies", "10.0.0.1,,10.0.0.2"),
            ("--cors-origins", "https://app.example/"),
            ("--cors-origins", "https://app.example,app.example"),
        ] {
            let message = parse(&[flag, value]).unwrap_err();
            assert!(message.contains(flag), "{message}");
        }
    }

    #[test]
    fn help_documents_each_setting() {
        let help = parse(&["--help"]).unwrap_err();
        let names = [
            "BIND_ADDRESS",
            "RESERVATION_URL",
            "MOVIE_URL",
            "NOTIFICATION_URL",
            "RESERVATION_LIST_URL",
            "RATE_LIMIT",
            "TRUSTED_PROXIES",
            "CORS_ORIGINS",
            "LOG_FORMAT",
        ];
        for name in names {
            assert!(help.contains(name), "{help}");
        }
    }
}
