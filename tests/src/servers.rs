//! Starts a Kafka or a PostgreSQL: in a container, or as a native process.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use testcontainers::core::ExecCommand;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ImageExt};
use testcontainers_modules::kafka::apache;
use testcontainers_modules::postgres;
use theater_infra::kafka_native::{NativeKafka, Port, Tools, can_create_topics};
use theater_infra::postgres::Postgres;

use self::container_cleanup::ContainerCleanup;
use crate::eventually;

pub mod container_cleanup;

pub const KAFKA_TAG: &str = "4.3.1";
pub const POSTGRES_TAG: &str = "17-alpine";

const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How servers are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Container,
    Native,
}

impl Kind {
    /// `THEATER_TEST_ENVIRONMENT` if it is set; else containers if a Docker daemon answers.
    ///
    /// # Errors
    /// If the variable is neither `native` nor `docker`.
    pub fn detect() -> anyhow::Result<Self> {
        match std::env::var("THEATER_TEST_ENVIRONMENT").as_deref() {
            Ok("native") => Ok(Self::Native),
            Ok("docker") => Ok(Self::Container),
            Ok(other) => bail!("THEATER_TEST_ENVIRONMENT must be native or docker, not {other}"),
            Err(_) if docker_answers() => Ok(Self::Container),
            Err(_) => Ok(Self::Native),
        }
    }
}

fn docker_answers() -> bool {
    Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success())
}

/// A Kafka that a test can take down and bring up again.
pub enum KafkaServer {
    Container { container: Box<ContainerAsync<apache::Kafka>>, bootstrap: String, _cleanup: ContainerCleanup },
    Native(Box<NativeKafka>),
}

impl KafkaServer {
    /// # Errors
    /// If it doesn't start.
    pub async fn start(kind: Kind) -> anyhow::Result<Self> {
        match kind {
            Kind::Container => Self::start_container().await,
            Kind::Native => Ok(Self::Native(Box::new(NativeKafka::start(None, Port::Any).await?))),
        }
    }

    async fn start_container() -> anyhow::Result<Self> {
        let cleanup = ContainerCleanup::new()?;
        let (label, id) = cleanup.label();
        let container = apache::Kafka::default()
            .with_jvm_image()
            .with_label(label, id)
            .with_tag(KAFKA_TAG)
            .with_env_var("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")
            .with_env_var("KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS", "4")
            .with_env_var("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
            .with_env_var("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
            .with_env_var("KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS", "4")
            .with_env_var("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
            .with_startup_timeout(START_TIMEOUT)
            .start()
            .await
            .context("starting apache/kafka")?;
        let port = container.get_host_port_ipv4(apache::KAFKA_PORT).await?;
        let bootstrap = format!("127.0.0.1:{port}");
        // It accepts connections before it can create topics.
        eventually("Kafka can create topics", START_TIMEOUT, async || {
            can_create_topics(&bootstrap).await.map_err(anyhow::Error::msg)
        })
        .await?;
        Ok(Self::Container { container: Box::new(container), bootstrap, _cleanup: cleanup })
    }

    pub fn bootstrap(&self) -> String {
        match self {
            Self::Container { bootstrap, .. } => bootstrap.clone(),
            Self::Native(kafka) => kafka.bootstrap_servers(),
        }
    }

    pub fn describe(&self) -> String {
        match self {
            Self::Container { bootstrap, .. } => {
                format!("Apache Kafka {KAFKA_TAG} in a container (testcontainers) at {bootstrap}")
            }
            Self::Native(kafka) => {
                format!("Apache Kafka {KAFKA_TAG} native (Maven artifacts) at {}", kafka.bootstrap_servers())
            }
        }
    }

    /// Makes it unavailable: pauses the container, or kills the process.
    ///
    /// # Errors
    /// If Docker fails.
    pub async fn take_down(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Container { container, .. } => Ok(container.pause().await?),
            Self::Native(kafka) => {
                kafka.kill().await;
                Ok(())
            }
        }
    }

    /// Makes it available again, at the same address.
    ///
    /// # Errors
    /// If Docker fails, or the process doesn't start.
    pub async fn bring_up(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Container { container, .. } => Ok(container.unpause().await?),
            Self::Native(kafka) => kafka.restart().await,
        }
    }

    /// Runs one of Kafka's own tools beside the server, and returns its output.
    ///
    /// # Errors
    /// If the tool fails.
    pub async fn run_tool(&self, class: &str, args: &[&str]) -> anyhow::Result<String> {
        match self {
            Self::Container { container, .. } => {
                // The brokers' listener: the other one advertises a port of the host, which doesn't exist in the container.
                let bootstrap = ["--bootstrap-server", "localhost:9093"];
                let java = ["java", "-cp", "/opt/kafka/libs/*", class];
                let command: Vec<String> =
                    java.iter().chain(&bootstrap).chain(args).map(ToString::to_string).collect();
                let mut output = container.exec(ExecCommand::new(command)).await?;
                let stdout = String::from_utf8(output.stdout_to_vec().await?)?;
                let status = output.exit_code().await?;
                if status != Some(0) {
                    let stderr = String::from_utf8(output.stderr_to_vec().await?)?;
                    bail!("{class}: status {status:?}: {stderr}{stdout}");
                }
                Ok(stdout)
            }
            Self::Native(kafka) => run_tool(kafka.tools(), &kafka.bootstrap_servers(), class, args).await,
        }
    }
}

/// Runs one of Kafka's tools with this machine's JDK.
///
/// # Errors
/// If the tool fails, with its output.
pub async fn run_tool(tools: &Tools, bootstrap: &str, class: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = tools.command(class);
    command.args(["--bootstrap-server", bootstrap]).args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{class}: {}: {stderr}", output.status);
    }
    Ok(stdout)
}

/// A PostgreSQL that a test can take down and bring up again.
pub enum PostgresServer {
    Container {
        container: Box<ContainerAsync<postgres::Postgres>>,
        admin_url: String,
        _cleanup: ContainerCleanup,
    },
    Native(Box<Postgres>),
}

impl PostgresServer {
    /// # Errors
    /// If it doesn't start.
    pub async fn start(kind: Kind) -> anyhow::Result<Self> {
        match kind {
            Kind::Container => Self::start_container().await,
            Kind::Native => Ok(Self::Native(Box::new(Postgres::start(None).await?))),
        }
    }

    async fn start_container() -> anyhow::Result<Self> {
        let cleanup = ContainerCleanup::new()?;
        let (label, id) = cleanup.label();
        let container = postgres::Postgres::default()
            .with_fsync_enabled()
            .with_label(label, id)
            .with_tag(POSTGRES_TAG)
            // As in the native server: SCRAM costs an unoptimised client some 50 ms per connection, and a theater opens
            // a hundred at once.
            .with_env_var("POSTGRES_HOST_AUTH_METHOD", "password")
            .with_cmd(["postgres", "-c", "max_connections=400"])
            .with_startup_timeout(START_TIMEOUT)
            .start()
            .await
            .context("starting postgres")?;
        let port = container.get_host_port_ipv4(5432).await?;
        let admin_url = format!("postgres://postgres:postgres@127.0.0.1:{port}/postgres");
        Ok(Self::Container { container: Box::new(container), admin_url, _cleanup: cleanup })
    }

    pub fn admin_url(&self) -> String {
        match self {
            Self::Container { admin_url, .. } => admin_url.clone(),
            Self::Native(postgres) => postgres.admin_url(),
        }
    }

    pub fn describe(&self) -> &'static str {
        match self {
            Self::Container { .. } => "in a container (testcontainers)",
            Self::Native(_) => "native (a private cluster)",
        }
    }

    /// Makes it unavailable: pauses the container, or kills the process.
    ///
    /// # Errors
    /// If Docker fails.
    pub async fn take_down(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Container { container, .. } => Ok(container.pause().await?),
            Self::Native(postgres) => {
                postgres.kill().await;
                Ok(())
            }
        }
    }

    /// Makes it available again, at the same address.
    ///
    /// # Errors
    /// If Docker fails, or the process doesn't start.
    pub async fn bring_up(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Container { container, .. } => Ok(container.unpause().await?),
            Self::Native(postgres) => postgres.restart().await,
        }
    }
}
