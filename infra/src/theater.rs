//! The whole theater: a broker, a database server and the five services, started together and stopped together.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use shared_events::{Topic, Topics};

use crate::fleet::{Fleet, Ports, Service, Settings};
use crate::kafka_embedded::EmbeddedKafka;
use crate::kafka_native::{NativeKafka, Port};
use crate::options::{Kafka, Parts};
use crate::progress::step;
use crate::records::{Broker, Records};
use crate::running::{self, Announcement, Running};
use crate::supervise::Scratch;

mod databases;

use databases::Databases;

/// Of the topics that a theater creates.
const PARTITIONS: i32 = 12;

/// What a theater is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// On the usual ports, to be found by `tail`.
    Serve,
    /// On free ports, beside one that may be running.
    Demo,
}

enum Carrier {
    Embedded(EmbeddedKafka),
    Native(NativeKafka),
    External,
}

/// A running theater.
pub struct Theater {
    fleet: Fleet,
    databases: Databases,
    /// Exports that are thrown away with the databases which know of them.
    exports: Option<Scratch>,
    carrier: Carrier,
    broker: Broker,
    topics: Topics,
    announcement: Option<Announcement>,
}

impl Theater {
    /// Starts everything, telling of each step.
    ///
    /// # Errors
    /// One message that says what stands in the way, and the way out.
    pub async fn start(parts: &Parts, purpose: Purpose) -> anyhow::Result<Self> {
        parts.check()?;
        let ports = Ports::new(&parts.addresses, purpose == Purpose::Serve);
        ports.check()?;
        let topics = Topics::new(parts.kafka_topic_prefix.clone());
        refuse_events_without_their_databases(parts, &topics).await?;

        let exports = throw_away(parts).then(|| Scratch::new(&std::env::temp_dir(), "theater-exports"));
        let exports = exports.transpose().context("no folder for exports")?;
        let databases = Databases::start(parts).await?;
        let folder = exports.as_ref().map(|scratch| scratch.path().to_owned());
        let folder = folder.or_else(|| parts.data.as_ref().map(|data| data.join("exports")));
        // Who sets it knows better.
        let folder = folder.filter(|_| std::env::var_os("EXPORTS_DIR").is_none());
        let started = Self::start_on(&databases, parts, purpose, ports, &topics, folder).await;
        let (fleet, carrier, broker) = match started {
            Ok(started) => started,
            Err(error) => {
                databases.stop().await;
                return Err(error);
            }
        };
        let mut theater = Self { fleet, databases, exports, carrier, broker, topics, announcement: None };
        if purpose == Purpose::Serve
            && let Err(error) = theater.announce(parts)
        {
            tracing::warn!(error = %format!("{error:#}"), "tail will not find this theater by itself");
        }
        Ok(theater)
    }

    async fn start_on(
        databases: &Databases,
        parts: &Parts,
        purpose: Purpose,
        ports: Ports,
        topics: &Topics,
        exports: Option<PathBuf>,
    ) -> anyhow::Result<(Fleet, Carrier, Broker)> {
        let (carrier, broker) = start_broker(parts, purpose, topics).await?;
        let settings: Vec<String> =
            broker.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let settings = Settings {
            ports,
            databases: databases.urls(),
            kafka: broker.bootstrap_servers.clone(),
            kafka_config: settings.join(","),
            topic_prefix: parts.kafka_topic_prefix.clone(),
            partitions: PARTITIONS,
            exports,
        };
        let fleet = step("starting the services", Fleet::start(&settings)).await?;
        step("joining the consumer groups", fleet.joined()).await?;
        Ok((fleet, carrier, broker))
    }

    fn announce(&mut self, parts: &Parts) -> anyhow::Result<()> {
        let running = Running {
            pid: std::process::id(),
            gateway: self.gateway(),
            kafka: self.broker.bootstrap_servers.clone(),
            topic_prefix: parts.kafka_topic_prefix.clone(),
        };
        self.announcement = Some(running::announce(&running::folder()?, &running)?);
        Ok(())
    }

    pub fn gateway(&self) -> String {
        self.fleet.url(Service::Gateway)
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Returns, with the reason, when a part of it can't go on.
    pub async fn failed(&mut self) -> anyhow::Error {
        let (carrier, databases) = (&mut self.carrier, &self.databases);
        let broker_ended = async {
            match carrier {
                Carrier::Embedded(kafka) => kafka.full().await,
                Carrier::Native(kafka) => databases::ended("Apache Kafka", kafka.child()).await,
                Carrier::External => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = self.fleet.ended() => reason,
            reason = broker_ended => reason,
            reason = databases.ended() => reason,
        }
    }

    /// Drains the services, then ends what they stood on.
    pub async fn stop(self) {
        drop(self.announcement);
        self.fleet.stop().await;
        let broker_stops = async {
            match self.carrier {
                Carrier::Native(mut kafka) => kafka.stop().await,
                Carrier::Embedded(_) | Carrier::External => {}
            }
        };
        tokio::join!(broker_stops, self.databases.stop());
        drop(self.exports);
    }
}

/// What was started and where.
impl fmt::Display for Theater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gateway = self.gateway();
        let kind = match &self.carrier {
            Carrier::Embedded(_) => {
                "embedded: kcat can read it, Java clients can't; forgets everything at the end"
            }
            Carrier::Native(_) => "Apache Kafka",
            Carrier::External => "yours",
        };
        let topics = Topic::ALL.map(|topic| self.topics.name(topic)).join(", ");
        let dead_letters = Topic::ALL.map(|topic| self.topics.dead_letters(topic)).join(", ");
        writeln!(f, "\nThe theater is open. Everything is reached through the gateway; Ctrl-C ends it.\n")?;
        writeln!(f, "  gateway       {gateway}")?;
        for service in Service::STATEFUL {
            writeln!(f, "                {} {}", self.fleet.url(service), service.name())?;
        }
        writeln!(f, "  Kafka         {} ({kind})", self.broker.bootstrap_servers)?;
        writeln!(f, "  topics        {topics}")?;
        writeln!(f, "  dead letters  {dead_letters}")?;
        writeln!(f, "  PostgreSQL    {}", self.databases)?;
        writeln!(f, "  watch events  cargo run -- tail\n")?;
        writeln!(f, "Try it:\n")?;
        writeln!(f, "  curl -i {gateway}/movies -H 'Content-Type: application/json' \\")?;
        writeln!(f, "       -d '{{\"movieName\": \"LALALand\", \"qty\": 100}}'")
    }
}

/// Whether the databases are gone at the end: a private server's, or those beside the embedded broker, which forgets.
fn throw_away(parts: &Parts) -> bool {
    parts.data.is_none() && (parts.postgres.is_none() || parts.kafka() == Kafka::Embedded)
}

async fn start_broker(parts: &Parts, purpose: Purpose, topics: &Topics) -> anyhow::Result<(Carrier, Broker)> {
    match parts.kafka() {
        Kafka::Embedded => {
            let kafka =
                step("starting the embedded broker", EmbeddedKafka::start(topics, PARTITIONS)).await?;
            let broker = Broker::at(kafka.bootstrap_servers());
            Ok((Carrier::Embedded(kafka), broker))
        }
        Kafka::Native => {
            let port = if purpose == Purpose::Serve { Port::Usual } else { Port::Any };
            let kafka = NativeKafka::start(parts.data.as_deref(), port).await?;
            let broker = Broker::at(kafka.bootstrap_servers());
            Ok((Carrier::Native(kafka), broker))
        }
        Kafka::At(bootstrap_servers) => {
            Ok((Carrier::External, Broker { bootstrap_servers, settings: parts.kafka_config.0.clone() }))
        }
    }
}

/// Databases that begin empty would decide again what an existing log tells, and publish it a second time.
async fn refuse_events_without_their_databases(parts: &Parts, topics: &Topics) -> anyhow::Result<()> {
    let Kafka::At(address) = parts.kafka() else { return Ok(()) };
    let kept = parts.data.as_ref().is_some_and(|data| data.join("postgres").exists());
    let broker = Broker { bootstrap_servers: address.clone(), settings: parts.kafka_config.0.clone() };
    let names = Topic::ALL.map(|topic| topics.name(topic));
    let events = Records::any(&broker, &names).await.context("can't look at the topics")?;
    if events && !kept && parts.postgres.is_none() {
        bail!(
            "the topics {} at {address} hold events already, and databases that begin empty would decide them anew. \
             Say where theirs are (--postgres URL or --data DIR), or use topics of your own \
             (--kafka-topic-prefix mine.)",
            names.join(", "),
        );
    }
    Ok(())
}
