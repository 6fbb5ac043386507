//! The launcher's command line.
//!
//! - [`images`]: the options of `theater images`

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use service_kit::config::TelemetryConfig;
use service_kit::messaging::config::KafkaSettings;

use crate::records::BrokerConfig;
use crate::service::Service;

mod images;

pub use images::{ImageOptions, Program};

/// The theater: five ticketing services that agree through Kafka, started by one command
///
/// Without a command it runs the whole theater until Ctrl-C: a Kafka broker, a PostgreSQL and the five services.
/// Settings of a single service, such as RESERVATION_DEADLINE_SECS, are taken from the environment.
#[derive(Parser, Clone, Debug)]
#[command(name = "theater", version)]
pub struct Options {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub launcher: LauncherOptions,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Plays the golden run and checks every answer and event; the exit status says whether all were right
    Demo {
        /// A running theater's gateway, such as http://127.0.0.1:8088 (with --kafka HOST:PORT, unless it runs on
        /// this machine); without it the demo starts a theater of its own
        #[arg(long, value_name = "URL", value_parser = gateway_url)]
        gateway: Option<String>,
    },
    /// Prints events as they arrive: of the theater that runs on this machine, or of --kafka HOST:PORT
    Tail {
        /// Topics; without any, the saga's two topics and their dead letters
        topics: Vec<String>,

        /// Begin with the oldest record
        #[arg(long)]
        from_beginning: bool,
    },
    /// Builds the programs' images with cargo and Docker
    Images(ImageOptions),
}

/// What the launcher starts or connects to.
#[derive(Args, Clone, Debug)]
pub struct LauncherOptions {
    /// The broker: `embedded` (inside this process; loses its records at the end), `native` (Apache Kafka from Maven
    /// artifacts; needs a JDK 17 and Maven), or HOST:PORT of an existing one [default: embedded]
    #[arg(long, global = true, value_name = "embedded|native|HOST:PORT")]
    pub kafka: Option<Kafka>,

    /// An existing PostgreSQL server; missing databases are created. With the embedded broker new databases are
    /// created, and dropped at the end. Without this option a private server is started
    #[arg(long, global = true, value_name = "URL", value_parser = postgres_url)]
    pub postgres: Option<String>,

    /// Keep exports and the data of the private PostgreSQL and of native Kafka in this folder between runs
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Further librdkafka settings (TLS, SASL) for an existing broker: key=value, comma-separated
    #[arg(long, global = true, env = "KAFKA_CONFIG", default_value = "", hide_env_values = true)]
    pub kafka_config: KafkaSettings,

    /// The beginning of the names of topics and consumer groups
    #[arg(long, global = true, env = "KAFKA_TOPIC_PREFIX", default_value = "theater.")]
    pub kafka_topic_prefix: String,

    #[command(flatten)]
    pub addresses: Addresses,
}

/// Where the services listen. Port 0 takes a free one, and so does the demo's own theater by default.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Addresses")]
pub struct Addresses {
    /// The address that the services listen on
    #[arg(long, global = true, value_name = "IP", default_value = "127.0.0.1")]
    pub bind: IpAddr,

    /// [default: 8088]
    #[arg(long, global = true, value_name = "PORT")]
    pub gateway_port: Option<u16>,

    /// [default: 8082]
    #[arg(long, global = true, value_name = "PORT")]
    pub reservation_port: Option<u16>,

    /// [default: 8083]
    #[arg(long, global = true, value_name = "PORT")]
    pub movie_port: Option<u16>,

    /// [default: 8084]
    #[arg(long, global = true, value_name = "PORT")]
    pub notification_port: Option<u16>,

    /// [default: 8085]
    #[arg(long, global = true, value_name = "PORT")]
    pub reservation_list_port: Option<u16>,
}

impl Addresses {
    /// The port that was asked for.
    pub fn port(&self, service: Service) -> Option<u16> {
        match service {
            Service::Reservation => self.reservation_port,
            Service::Movie => self.movie_port,
            Service::Notification => self.notification_port,
            Service::ReservationList => self.reservation_list_port,
            Service::Gateway => self.gateway_port,
        }
    }
}

/// Which broker is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kafka {
    Embedded,
    Native,
    /// host:port, comma-separated.
    At(String),
}

impl FromStr for Kafka {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = |text: &str| {
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match text {
            "embedded" => Ok(Self::Embedded),
            "native" => Ok(Self::Native),
            text if text.split(',').all(address) => Ok(Self::At(text.to_owned())),
            _ => Err("must be `embedded`, `native` or HOST:PORT".to_owned()),
        }
    }
}

impl LauncherOptions {
    /// The broker, by default the embedded one.
    pub fn kafka(&self) -> Kafka {
        self.kafka.clone().unwrap_or(Kafka::Embedded)
    }

    /// How to connect to an existing broker: with the given settings.
    pub fn broker_config(&self, bootstrap_servers: String) -> BrokerConfig {
        BrokerConfig { bootstrap_servers, settings: self.kafka_config.0.clone() }
    }

    /// Refuses options that contradict each other.
    ///
    /// # Errors
    /// Names them.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.data.is_none() {
            return Ok(());
        }
        match (self.kafka(), &self.postgres) {
            (Kafka::Embedded, _) => bail!(
                "--data keeps data between runs, but the embedded broker forgets its own, and the services would \
                 wait for events that are gone. Add --kafka native"
            ),
            (Kafka::At(_), Some(_)) => {
                bail!("--data has nothing to keep beside --kafka HOST:PORT and --postgres URL")
            }
            _ => Ok(()),
        }
    }
}

fn gateway_url(text: &str) -> Result<String, String> {
    let url: reqwest::Url = text.parse().map_err(|error| format!("not a URL: {error}"))?;
    if url.scheme() != "http" || !url.has_host() {
        return Err("must begin with http://".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn postgres_url(text: &str) -> Result<String, String> {
    let url: reqwest::Url = text.parse().map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") || !url.has_host() {
        return Err("must be postgres://user:password@host:port/database".to_owned());
    }
    // Without a database: the one to which the statements that create others are sent.
    if url.path().trim_matches('/').is_empty() {
        Ok(format!("{}/postgres", text.trim_end_matches('/')))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::try_parse_from(["theater"].iter().chain(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_embedded_broker_is_the_default() {
        assert_eq!(parse(&[]).unwrap().launcher.kafka(), Kafka::Embedded);
    }

    #[test]
    fn options_may_be_before_or_after_the_command() {
        for args in [["--kafka", "native", "demo"], ["demo", "--kafka", "native"]] {
            let options = parse(&args).unwrap();
            assert_eq!(options.launcher.kafka(), Kafka::Native);
            assert!(matches!(options.command, Some(Command::Demo { gateway: None })));
        }
        let options = parse(&["tail", "one", "two", "--kafka", "a:1,b:2"]).unwrap();
        assert_eq!(options.launcher.kafka(), Kafka::At("a:1,b:2".to_owned()));
        assert!(matches!(options.command, Some(Command::Tail { topics, .. }) if topics == ["one", "two"]));
    }

    #[test]
    fn malformed_values_are_named() {
        for args in [
            &["--kafka", "mock"][..],
            &["--kafka", "localhost"],
            &["--kafka", "localhost:99999"],
            &["--postgres", "localhost"],
            &["--postgres", "http://localhost"],
            &["--gateway-port", "http"],
            &["demo", "--gateway", "localhost:8088"],
            &["--colour"],
        ] {
            let message = parse(args).unwrap_err();
            let flag = args.iter().find(|arg| arg.starts_with("--")).unwrap();
            assert!(message.contains(flag), "{message}");
        }
    }

    #[test]
    fn all_programs_have_an_image_unless_some_are_named() {
        let images = |args: &[&str]| match parse(&[&["images"], args].concat()).unwrap().command {
            Some(Command::Images(images)) => {
                images.programs().into_iter().map(Program::name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(images(&["reservation-list", "movie"]), ["reservation-list", "movie"]);
        let all = images(&[]);
        assert_eq!(all.len(), 6);
        assert_eq!(images(&all), all);
        let error = parse(&["images", "--binaries", "there", "--profile", "dev"]).unwrap_err();
        assert!(error.contains("--binaries"), "{error}");
    }

    #[test]
    fn data_is_refused_if_nothing_would_be_kept() {
        let error = |args: &[&str]| parse(args).unwrap().launcher.check().unwrap_err().to_string();
        assert!(error(&["--data", "d"]).contains("--kafka native"));
        assert!(
            error(&["--data", "d", "--kafka", "a:1", "--postgres", "postgres://a"])
                .contains("nothing to keep")
        );
        for kept in [&["--data", "d", "--kafka", "native"][..], &["--data", "d", "--kafka", "a:1"], &[]] {
            parse(kept).unwrap().launcher.check().unwrap();
        }
    }

    #[test]
    fn the_default_database_is_postgres() {
        let url = |url| parse(&["--postgres", url]).unwrap().launcher.postgres.unwrap();
        assert_eq!(url("postgres://a@b:1"), "postgres://a@b:1/postgres");
        assert_eq!(url("postgres://a@b:1/c"), "postgres://a@b:1/c");
    }
}
