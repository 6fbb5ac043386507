//! How theater speaks to Kafka: client settings, and topics that are created when they are missing.

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

/// How long one request about topics may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How a topic that is missing is made: the log is the source for rebuilding and auditing, so nothing expires.
pub const TOPIC_SETTINGS: [(&str, &str); 2] = [("cleanup.policy", "delete"), ("retention.ms", "-1")];

/// How often a topic that was created is looked for.
const VISIBLE_PERIOD: Duration = Duration::from_millis(50);

/// Kafka as one service sees it.
#[derive(Clone)]
pub struct Kafka {
    settings: ClientConfig,
    topics: Topics,
    partitions: i32,
    replication: Option<i32>,
    /// The topics exist: found or made once per process.
    ready: Arc<OnceCell<()>>,
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
            ready: Arc::new(OnceCell::new()),
        }
    }

    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// A producer that keeps the order it is given and gives up on nothing by itself: an expired
    /// message would let later ones overtake it.
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

    /// A consumer whose positions come from the service's own database.
    pub fn consumer_settings(&self, group: &str) -> ClientConfig {
        self.with_defaults(&[
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // A position outside the log is a fault to be noticed, never to be skipped.
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

    /// Ours first, so that the operator's settings win.
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

    /// Returns once the topics exist; those that are missing are created, existing ones never changed.
    /// While Kafka is away it keeps trying.
    ///
    /// # Errors
    /// Settings that librdkafka refuses.
    pub async fn ensure_topics(&self) -> anyhow::Result<()> {
        self.ready.get_or_try_init(|| self.create_missing()).await?;
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
        let missing = self.missing(Arc::clone(&admin)).await?;
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
        self.visible(admin).await
    }

    /// Waits until every topic has its leaders: who subscribes earlier waits for the next refresh.
    async fn visible(&self, admin: Arc<AdminClient<DefaultClientContext>>) -> anyhow::Result<()> {
        let mut look = interval(VISIBLE_PERIOD);
        let all = async {
            loop {
                look.tick().await;
                if self.missing(Arc::clone(&admin)).await?.is_empty() {
                    return anyhow::Ok(());
                }
            }
        };
        timeout(REQUEST_TIMEOUT, all).await.context("the topics created don't show")?
    }

    /// Names that the broker doesn't know, or not yet in full, and whether each is for dead letters.
    async fn missing(
        &self,
        admin: Arc<AdminClient<DefaultClientContext>>,
    ) -> anyhow::Result<Vec<(String, bool)>> {
        // The call blocks.
        let metadata =
            tokio::task::spawn_blocking(move || admin.inner().fetch_metadata(None, REQUEST_TIMEOUT))
                .await??;
        let exists = |name: &str| {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            topic.is_some_and(|topic| topic.partitions().iter().all(|partition| partition.leader() >= 0))
        };
        let wanted = Topic::ALL
            .into_iter()
            .flat_map(|topic| [(self.topics.name(topic), false), (self.topics.dead_letters(topic), true)]);
        Ok(wanted.filter(|(name, _)| !exists(name)).collect())
    }
}
