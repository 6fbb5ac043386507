//! Client settings for Kafka, and the creation of missing topics.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use backon::{ExponentialBuilder, Retryable};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use shared_events::Topics;
use shared_events::topic::{PARTITIONER, Topic};
use tokio::sync::OnceCell;
use tokio::time::{interval, timeout};
use tracing::{info, warn};

use super::config::EventsConfig;
use super::dead_letter::TOPIC_LIMIT_BYTES;
use super::failpoint::failpoint;
use super::failpoints;

/// The time limit of one request about topics.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of a topic that is created. The log is the source for rebuilding and auditing, so nothing expires.
pub const TOPIC_SETTINGS: [(&str, &str); 2] = [("cleanup.policy", "delete"), ("retention.ms", "-1")];

/// How often the metadata are read until a created topic is visible.
const VISIBLE_POLL_PERIOD: Duration = Duration::from_millis(50);

/// One service's settings and topics.
#[derive(Clone)]
pub struct Kafka {
    settings: ClientConfig,
    topics: Topics,
    partitions: i32,
    replication: Option<i32>,
    /// Set once this process has found or created the topics.
    topics_exist: Arc<OnceCell<()>>,
}

impl Kafka {
    pub fn new(config: &EventsConfig, client_id: &str) -> Self {
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", &config.kafka_bootstrap_servers)
            .set("client.id", client_id)
            .set("allow.auto.create.topics", "false")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("log.connection.close", "false");
        for (key, value) in &config.kafka_config.0 {
            settings.set(key, value);
        }
        Self {
            settings,
            topics: Topics::new(&config.kafka_topic_prefix),
            partitions: config.kafka_topic_partitions,
            replication: config.kafka_topic_replication,
            topics_exist: Arc::new(OnceCell::new()),
        }
    }

    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// For a producer that keeps the order in which it is given records, and lets none expire: later records would
    /// overtake an expired one.
    pub fn producer_settings(&self) -> ClientConfig {
        self.with_defaults(&[
            ("partitioner", PARTITIONER),
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("message.timeout.ms", "0"),
            ("message.max.bytes", &TOPIC_LIMIT_BYTES.to_string()),
            ("linger.ms", "1"),
        ])
    }

    /// For a consumer whose positions come from the service's own database.
    pub fn consumer_settings(&self, group: &str) -> ClientConfig {
        self.with_defaults(&[
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // A position outside the log must be reported as an error, never reset.
            ("auto.offset.reset", "error"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            // The default of 45 s outlasts a reservation's deadline.
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "2000"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.queue.backoff.ms", "20"),
            ("queued.min.messages", "10000"),
            ("queued.max.messages.kbytes", "16384"),
            ("statistics.interval.ms", "1000"),
        ])
    }

    /// Sets the defaults first, so that the operator's settings replace them.
    fn with_defaults(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut settings = ClientConfig::new();
        for (key, value) in defaults {
            settings.set(*key, *value);
        }
        for (key, value) in self.settings.config_map() {
            settings.set(key, value);
        }
        settings
    }

    /// Returns once the topics exist. Creates missing topics, and never changes existing ones. While Kafka is
    /// unavailable it keeps trying.
    ///
    /// # Errors
    /// If librdkafka refuses the settings.
    pub async fn ensure_topics(&self) -> anyhow::Result<()> {
        self.topics_exist.get_or_try_init(|| self.create_missing()).await?;
        Ok(())
    }

    async fn create_missing(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            self.settings.create().context("the Kafka settings")?;
        let admin = Arc::new(admin);
        let create = || self.try_create_missing(Arc::clone(&admin));
        create
            .retry(
                ExponentialBuilder::default()
                    .with_min_delay(Duration::from_millis(100))
                    .with_max_delay(Duration::from_secs(2))
                    .without_max_times(),
            )
            .notify(|error, wait| warn!(error = %format!("{error:#}"), ?wait, "topics can't be looked up or created yet"))
            .await
    }

    async fn try_create_missing(&self, admin: Arc<AdminClient<DefaultClientContext>>) -> anyhow::Result<()> {
        let missing = self.missing_topics(Arc::clone(&admin)).await?;
        if missing.is_empty() {
            return Ok(());
        }
        // -1 is the broker's own default.
        let replication = self.replication.unwrap_or(-1);
        let limit = TOPIC_LIMIT_BYTES.to_string();
        let topics: Vec<_> = missing
            .iter()
            .map(|(name, dead_letters)| {
                let topic = NewTopic::new(name, self.partitions, TopicReplication::Fixed(replication));
                let topic = TOPIC_SETTINGS.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
                if *dead_letters { topic.set("max.message.bytes", &limit) } else { topic }
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT));
        // The client's call sends the request before it is awaited.
        let created = async { admin.create_topics(&topics, &options).await };
        for result in failpoint(failpoints::CREATE_TOPICS, created).await? {
            match result {
                Ok(name) => info!(topic = name, partitions = self.partitions, "created a topic"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, error)) => bail!("creating {name}: {error}"),
            }
        }
        self.wait_until_visible(admin).await
    }

    /// Waits until every partition of every topic has a leader. A consumer that subscribes earlier would wait for the
    /// next refresh of its metadata.
    async fn wait_until_visible(&self, admin: Arc<AdminClient<DefaultClientContext>>) -> anyhow::Result<()> {
        let mut poll = interval(VISIBLE_POLL_PERIOD);
        let all_visible = async {
            loop {
                poll.tick().await;
                if self.missing_topics(Arc::clone(&admin)).await?.is_empty() {
                    return anyhow::Ok(());
                }
            }
        };
        timeout(REQUEST_TIMEOUT, all_visible)
            .await
            .context("the created topics did not become visible in time")?
    }

    /// The topics that the broker doesn't know, or that have a partition without a leader; and whether each is for
    /// dead letters.
    async fn missing_topics(
        &self,
        admin: Arc<AdminClient<DefaultClientContext>>,
    ) -> anyhow::Result<Vec<(String, bool)>> {
        // `fetch_metadata` blocks.
        let metadata =
            tokio::task::spawn_blocking(move || admin.inner().fetch_metadata(None, REQUEST_TIMEOUT))
                .await??;
        let exists = |name: &str| {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            topic.is_some_and(|topic| topic.partitions().iter().all(|partition| partition.leader() >= 0))
        };
        let all_topics = Topic::ALL
            .into_iter()
            .flat_map(|topic| [(self.topics.name(topic), false), (self.topics.dead_letters(topic), true)]);
        Ok(all_topics.filter(|(name, _)| !exists(name)).collect())
    }
}
