//! The whole theater: a broker, a database server and the five services, started and stopped together.
//!
//! - `databases`: the services' databases

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use shared_events::{Topic, Topics};

use crate::fleet::{Fleet, Ports, Settings};
use crate::kafka_embedded::EmbeddedKafka;
use crate::kafka_native::{NativeKafka, Port};
use crate::options::{Kafka, LauncherOptions};
use crate::progress::step;
use crate::records::{BrokerConfig, RecordReader};
use crate::runtime_file::{self, RunningTheater, RuntimeFile};
use crate::service::Service;
use crate::supervise::TempDir;

mod databases;

use databases::{Databases, exit_error};

/// The number of partitions of the topics that a theater creates.
const PARTITIONS: i32 = 12;

/// The purpose of a theater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// On the default ports, with a runtime file by which `tail` finds it.
    Serve,
    /// On free ports: another theater may be running.
    Demo,
}

/// The broker, as far as this theater runs it.
enum Broker {
    Embedded(EmbeddedKafka),
    Native(NativeKafka),
    External,
}

/// A running theater.
pub struct Theater {
    fleet: Fleet,
    databases: Databases,
    /// The folder of exports that are removed with the databases that refer to them.
    exports: Option<TempDir>,
    broker: Broker,
    broker_config: BrokerConfig,
    topics: Topics,
    runtime_file: Option<RuntimeFile>,
}

impl Theater {
    /// Starts everything, and prints each step.
    ///
    /// # Errors
    /// One message with the cause and what can be done.
    pub async fn start(options: &LauncherOptions, mode: Mode) -> anyhow::Result<Self> {
        options.check()?;
        let ports = Ports::new(&options.addresses, mode == Mode::Serve);
        ports.check()?;
        let topics = Topics::new(options.kafka_topic_prefix.clone());
        refuse_events_without_their_databases(options, &topics).await?;

        let temporary = is_temporary(options);
        let exports = temporary.then(|| TempDir::new(&std::env::temp_dir(), "theater-exports"));
        let exports = exports.transpose().context("no folder for exports")?;
        let databases = Databases::start(options).await?;
        let exports_path = exports.as_ref().map(|folder| folder.path().to_owned());
        let exports_path = exports_path.or_else(|| options.data.as_ref().map(|data| data.join("exports")));
        // The environment variable takes precedence.
        let exports_path = exports_path.filter(|_| std::env::var_os("EXPORTS_DIR").is_none());
        let started = Self::start_on(&databases, options, mode, ports, &topics, exports_path).await;
        let (fleet, broker, broker_config) = match started {
            Ok(started) => started,
            Err(error) => {
                databases.stop().await;
                return Err(error);
            }
        };
        let mut theater =
            Self { fleet, databases, exports, broker, broker_config, topics, runtime_file: None };
        if mode == Mode::Serve
            && let Err(error) = theater.write_runtime_file(options)
        {
            tracing::warn!(error = %format!("{error:#}"), "tail will not find this theater by itself");
        }
        Ok(theater)
    }

    async fn start_on(
        databases: &Databases,
        options: &LauncherOptions,
        mode: Mode,
        ports: Ports,
        topics: &Topics,
        exports: Option<PathBuf>,
    ) -> anyhow::Result<(Fleet, Broker, BrokerConfig)> {
        let (broker, broker_config) = start_broker(options, mode, topics).await?;
        let kafka_config: Vec<String> =
            broker_config.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let settings = Settings {
            ports,
            databases: databases.urls(),
            kafka: broker_config.bootstrap_servers.clone(),
            kafka_config: kafka_config.join(","),
            topic_prefix: options.kafka_topic_prefix.clone(),
            partitions: PARTITIONS,
            exports,
        };
        let fleet = step("starting the services", Fleet::start(&settings)).await?;
        step("joining the consumer groups", fleet.wait_until_joined()).await?;
        Ok((fleet, broker, broker_config))
    }

    fn write_runtime_file(&mut self, options: &LauncherOptions) -> anyhow::Result<()> {
        let theater = RunningTheater {
            pid: std::process::id(),
            gateway: self.gateway(),
            kafka: self.broker_config.bootstrap_servers.clone(),
            topic_prefix: options.kafka_topic_prefix.clone(),
        };
        self.runtime_file = Some(runtime_file::announce(&runtime_file::folder()?, &theater)?);
        Ok(())
    }

    /// The gateway's URL.
    pub fn gateway(&self) -> String {
        self.fleet.url(Service::Gateway)
    }

    pub fn broker_config(&self) -> &BrokerConfig {
        &self.broker_config
    }

    /// Returns the reason when a service, the broker or the database server ends.
    pub async fn wait_for_failure(&mut self) -> anyhow::Error {
        let (broker, databases) = (&mut self.broker, &self.databases);
        let broker_fails = async {
            match broker {
                Broker::Embedded(kafka) => kafka.wait_until_full().await,
                Broker::Native(kafka) => exit_error("Apache Kafka", kafka.child()).await,
                Broker::External => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = self.fleet.wait_for_exit() => reason,
            reason = broker_fails => reason,
            reason = databases.wait_for_exit() => reason,
        }
    }

    /// Drains the services, then stops the broker and the database server.
    pub async fn stop(self) {
        drop(self.runtime_file);
        self.fleet.stop().await;
        let broker_stops = async {
            match self.broker {
                Broker::Native(mut kafka) => kafka.stop().await,
                Broker::Embedded(_) | Broker::External => {}
            }
        };
        tokio::join!(broker_stops, self.databases.stop());
        drop(self.exports);
    }
}

/// The started servers, and their addresses.
impl fmt::Display for Theater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gateway = self.gateway();
        let kind = match &self.broker {
            Broker::Embedded(_) => {
                "embedded: kcat can read it, Java clients can't; forgets everything at the end"
            }
            Broker::Native(_) => "Apache Kafka",
            Broker::External => "yours",
        };
        let topics = Topic::ALL.map(|topic| self.topics.name(topic)).join(", ");
        let dead_letters = Topic::ALL.map(|topic| self.topics.dead_letters(topic)).join(", ");
        writeln!(f, "\nThe theater is open. Everything is reached through the gateway; Ctrl-C ends it.\n")?;
        writeln!(f, "  gateway       {gateway}")?;
        for service in Service::STATEFUL {
            writeln!(f, "                {} {}", self.fleet.url(service), service.name())?;
        }
        writeln!(f, "  Kafka         {} ({kind})", self.broker_config.bootstrap_servers)?;
        writeln!(f, "  topics        {topics}")?;
        writeln!(f, "  dead letters  {dead_letters}")?;
        writeln!(f, "  PostgreSQL    {}", self.databases)?;
        writeln!(f, "  watch events  cargo run -- tail\n")?;
        writeln!(f, "Try it:\n")?;
        writeln!(f, "  curl -i {gateway}/movies -H 'Content-Type: application/json' \\")?;
        writeln!(f, "       -d '{{\"movieName\": \"LALALand\", \"qty\": 100}}'")
    }
}

/// Whether the databases are removed at the end: those of a private server, and those used with the embedded broker,
/// which loses its records.
fn is_temporary(options: &LauncherOptions) -> bool {
    options.data.is_none() && (options.postgres.is_none() || options.kafka() == Kafka::Embedded)
}

async fn start_broker(
    options: &LauncherOptions,
    mode: Mode,
    topics: &Topics,
) -> anyhow::Result<(Broker, BrokerConfig)> {
    match options.kafka() {
        Kafka::Embedded => {
            let kafka =
                step("starting the embedded broker", EmbeddedKafka::start(topics, PARTITIONS)).await?;
            let config = BrokerConfig::plaintext(kafka.bootstrap_servers());
            Ok((Broker::Embedded(kafka), config))
        }
        Kafka::Native => {
            let port = if mode == Mode::Serve { Port::Default } else { Port::Any };
            let kafka = NativeKafka::start(options.data.as_deref(), port).await?;
            let config = BrokerConfig::plaintext(kafka.bootstrap_servers());
            Ok((Broker::Native(kafka), config))
        }
        Kafka::At(bootstrap_servers) => Ok((Broker::External, options.broker_config(bootstrap_servers))),
    }
}

/// Refuses an existing log without its databases: empty databases would decide its reservations again, and publish the
/// events a second time.
async fn refuse_events_without_their_databases(
    options: &LauncherOptions,
    topics: &Topics,
) -> anyhow::Result<()> {
    let Kafka::At(address) = options.kafka() else { return Ok(()) };
    let has_databases = options.data.as_ref().is_some_and(|data| data.join("postgres").exists());
    let names = Topic::ALL.map(|topic| topics.name(topic));
    let has_events = RecordReader::any_exist(&options.broker_config(address.clone()), &names)
        .await
        .context("can't look at the topics")?;
    if has_events && !has_databases && options.postgres.is_none() {
        bail!(
            "the topics {} at {address} hold events already, and databases that begin empty would decide them anew. \
             Say where theirs are (--postgres URL or --data DIR), or use topics of your own \
             (--kafka-topic-prefix mine.)",
            names.join(", "),
        );
    }
    Ok(())
}
