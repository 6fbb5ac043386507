//! The launcher's command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use clap::{Args, Parser, Subcommand, ValueEnum};
use service_kit::config::TelemetryConfig;
use service_kit::messaging::config::KafkaSettings;

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
    pub parts: Parts,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Plays the golden run and checks every answer and event; the exit status says whether it held
    Demo {
        /// A running theater's gateway, such as http://127.0.0.1:8088 (with --kafka HOST:PORT, unless it runs on
        /// this machine); without it the demo starts a theater of its own
        #[arg(long, value_name = "URL", value_parser = gateway_url)]
        gateway: Option<String>,
    },
    /// Prints events as they pass: of the theater that runs on this machine, or of --kafka HOST:PORT
    Tail {
        /// Topics; without any, the saga's two and their dead letters
        topics: Vec<String>,

        /// Begin with the oldest record that is kept
        #[arg(long)]
        from_beginning: bool,
    },
    /// Builds the programs' images, by cargo and Docker
    Images(Images),
}

/// Which images are built, and how.
#[derive(Args, Clone, Debug)]
pub struct Images {
    /// Whose; without any, all six: the five services' and this program's
    #[arg(value_enum)]
    programs: Vec<Program>,

    /// What the names begin with, such as registry.example/theater
    #[arg(long, value_name = "NAME", default_value = "theater")]
    pub repository: String,

    /// What the names end with
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    pub tag: String,

    /// cargo's profile
    #[arg(long, default_value = "release")]
    pub profile: String,

    /// With TLS to Kafka: needs OpenSSL's headers
    #[arg(long)]
    pub kafka_tls: bool,

    /// Takes the programs from this folder, where they are built already
    #[arg(long, value_name = "DIR", conflicts_with_all = ["profile", "kafka_tls"])]
    pub binaries: Option<PathBuf>,
}

impl Images {
    pub fn programs(&self) -> Vec<Program> {
        if self.programs.is_empty() { Program::value_variants().to_vec() } else { self.programs.clone() }
    }
}

/// What has an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    Reservation,
    Movie,
    Notification,
    ReservationList,
    Gateway,
    Theater,
}

impl Program {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reservation => "reservation",
            Self::Movie => "movie",
            Self::Notification => "notification",
            Self::ReservationList => "reservation-list",
            Self::Gateway => "gateway",
            Self::Theater => "theater",
        }
    }
}

/// What a theater is made of.
#[derive(Args, Clone, Debug)]
pub struct Parts {
    /// The broker: `embedded` (inside this process; forgets everything), `native` (Apache Kafka from Maven
    /// artifacts; needs a JDK 17 and Maven), or an existing one's HOST:PORT [default: embedded]
    #[arg(long, global = true, value_name = "embedded|native|HOST:PORT")]
    pub kafka: Option<Kafka>,

    /// An existing PostgreSQL server; missing databases are created. With the embedded broker they are new ones,
    /// dropped at the end. Without this a private server is started
    #[arg(long, global = true, value_name = "URL", value_parser = postgres_url)]
    pub postgres: Option<String>,

    /// Keep the data of the private PostgreSQL and of native Kafka, and exports, in this folder between runs
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Further librdkafka settings (TLS, SASL) for an existing broker: key=value, comma-separated
    #[arg(long, global = true, env = "KAFKA_CONFIG", default_value = "", hide_env_values = true)]
    pub kafka_config: KafkaSettings,

    /// What the names of topics and consumer groups begin with
    #[arg(long, global = true, env = "KAFKA_TOPIC_PREFIX", default_value = "theater.")]
    pub kafka_topic_prefix: String,

    #[command(flatten)]
    pub addresses: Addresses,
}

/// Where the services listen; 0 takes a free port. The demo's own theater takes free ones unless told.
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

/// Which broker.
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

impl Parts {
    /// The broker, by default the embedded one.
    pub fn kafka(&self) -> Kafka {
        self.kafka.clone().unwrap_or(Kafka::Embedded)
    }

    /// Refuses what would not do what it says.
    ///
    /// # Errors
    /// Names the flags that don't go together.
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
    // The database in which one asks for others.
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
        assert_eq!(parse(&[]).unwrap().parts.kafka(), Kafka::Embedded);
    }

    #[test]
    fn flags_stand_before_or_after_the_command() {
        for args in [["--kafka", "native", "demo"], ["demo", "--kafka", "native"]] {
            let options = parse(&args).unwrap();
            assert_eq!(options.parts.kafka(), Kafka::Native);
            assert!(matches!(options.command, Some(Command::Demo { gateway: None })));
        }
        let options = parse(&["tail", "one", "two", "--kafka", "a:1,b:2"]).unwrap();
        assert_eq!(options.parts.kafka(), Kafka::At("a:1,b:2".to_owned()));
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
    fn data_is_refused_where_nothing_would_be_kept() {
        let error = |args: &[&str]| parse(args).unwrap().parts.check().unwrap_err().to_string();
        assert!(error(&["--data", "d"]).contains("--kafka native"));
        assert!(
            error(&["--data", "d", "--kafka", "a:1", "--postgres", "postgres://a"])
                .contains("nothing to keep")
        );
        for kept in [&["--data", "d", "--kafka", "native"][..], &["--data", "d", "--kafka", "a:1"], &[]] {
            parse(kept).unwrap().parts.check().unwrap();
        }
    }

    #[test]
    fn a_server_without_a_database_is_asked_in_its_own() {
        let url = |url| parse(&["--postgres", url]).unwrap().parts.postgres.unwrap();
        assert_eq!(url("postgres://a@b:1"), "postgres://a@b:1/postgres");
        assert_eq!(url("postgres://a@b:1/c"), "postgres://a@b:1/c");
    }
}
