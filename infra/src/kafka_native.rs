//! Apache Kafka without containers: KRaft in combined mode on the machine's JDK, from Maven artifacts.
//!
//! - [`tools`]: its jars and command-line tools

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::data_dir::DataDir;
use crate::progress::step;
use crate::supervise::{Child, Program, Signal, TempDir};
use crate::{cache, port};

mod tools;

use tools::ALTERNATIVE;
pub use tools::Tools;

const START_SECS: u64 = 90;
const STOP_SECS: u64 = 10;
/// The default of the services and of Kafka's own tools.
const DEFAULT_PORT: u16 = 9092;
const CLUSTER_ID: &str = "dGhlYXRlci1vZi1vbmUtbQ";

/// A running broker. Dropping it kills it, and removes a temporary folder.
#[derive(Debug)]
pub struct NativeKafka {
    child: Option<Child>,
    tools: Tools,
    folder: DataDir,
    port: u16,
    controller_port: u16,
}

/// Which port a broker gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 9092, or a free one if that is in use.
    Default,
    /// Any free one.
    Any,
}

impl NativeKafka {
    /// Starts one with its files below `parent` if given, else in a temporary folder.
    ///
    /// # Errors
    /// If there is no JDK or Maven, if the download fails, or if the broker does not start. The message ends with an
    /// alternative.
    pub async fn start(parent: Option<&Path>, port: Port) -> anyhow::Result<Self> {
        let tools = Tools::get().await?;
        let folder = match parent {
            Some(parent) => {
                let path = parent.join("kafka");
                fs::create_dir_all(&path).with_context(|| format!("can't create {}", path.display()))?;
                DataDir::Persistent(path.canonicalize()?)
            }
            None => DataDir::Temporary(TempDir::new(&cache::temp_root(None), "theater-kafka")?),
        };
        let port = match port {
            Port::Default if port::is_free(DEFAULT_PORT) => DEFAULT_PORT,
            Port::Default | Port::Any => port::free()?,
        };
        let mut kafka = Self { child: None, tools, folder, port, controller_port: port::free()? };
        step("starting Apache Kafka", async {
            kafka.write_properties()?;
            kafka.format_storage().await?;
            kafka.launch().await?;
            Ok(kafka)
        })
        .await
    }

    /// `127.0.0.1:PORT`.
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The command-line tools of the same version.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The broker's process, unless it was stopped or killed: to signal and watch it.
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Starts it again with the same data and ports: it runs, was stopped or killed, or has crashed.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await;
        self.launch().await
    }

    /// Stops it. A temporary folder stays until this is dropped.
    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.stop(Signal::TERM, Duration::from_secs(STOP_SECS)).await;
        }
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The broker's own defaults, except for fewer partitions of internal topics, which start faster, and no automatic
    /// creation of topics, so that a misspelled name is an error.
    fn write_properties(&self) -> anyhow::Result<()> {
        let (port, controller) = (self.port, self.controller_port);
        let data = self.file("data");
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             group.initial.rebalance.delay.ms=0\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=8\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=4\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             share.coordinator.state.topic.num.partitions=4\n",
            data = data.display(),
        );
        fs::create_dir_all(&data)?;
        fs::create_dir_all(self.file("tmp"))?;
        fs::write(self.file("server.properties"), properties).context("can't write server.properties")
    }

    async fn format_storage(&self) -> anyhow::Result<()> {
        if self.file("data/meta.properties").exists() {
            return Ok(());
        }
        let mut command = self.java("kafka.tools.StorageTool");
        command
            .args(["format", "--ignore-formatted", "-t", CLUSTER_ID, "-c"])
            .arg(self.file("server.properties"));
        let child = Program::new(command, self.file("kafka.log")).spawn().context("can't start java")?;
        let status = child.exited().await;
        if !status.success() {
            bail!(
                "Apache Kafka's storage can't be formatted ({status}):\n{}\n{ALTERNATIVE}",
                child.log_tail()
            );
        }
        Ok(())
    }

    /// With the first compiler only, which halves the start-up time and is enough for a local broker. Java's temporary
    /// files go into the broker's folder.
    fn java(&self, class: &str) -> Command {
        let temporary = format!("-Djava.io.tmpdir={}", self.file("tmp").display());
        self.tools
            .command_with(&["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", &temporary], class)
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = self.java("kafka.Kafka");
        command.arg(self.file("server.properties")).current_dir(self.folder.path());
        let child = Program::new(command, self.file("kafka.log")).spawn().context("can't start java")?;
        let ready = self.wait_until_ready(&child).await;
        ready.map_err(|reason| {
            anyhow!("Apache Kafka {reason}. The end of its log:\n{}\n{ALTERNATIVE}", child.log_tail())
        })?;
        self.child = Some(child);
        Ok(())
    }

    async fn wait_until_ready(&self, child: &Child) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(START_SECS);
        loop {
            let error = match can_create_topics(&self.bootstrap_servers()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = child.exit_status() {
                return Err(format!("did not start ({status})"));
            }
            if Instant::now() > deadline {
                return Err(format!("did not answer within {START_SECS} s ({error})"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Asks a broker whether it could create a topic, without creating it: the port accepts connections long before that.
///
/// # Errors
/// The message of the broker or of the client.
pub async fn can_create_topics(bootstrap_servers: &str) -> Result<(), String> {
    // If the port refuses connections, librdkafka would retry and log errors.
    let address = bootstrap_servers.split(',').next().unwrap_or_default();
    tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .create()
        .map_err(|error| error.to_string())?;
    let topic = NewTopic::new("theater.is-it-ready", 1, TopicReplication::Fixed(1));
    let options = AdminOptions::new().validate_only(true).request_timeout(Some(Duration::from_secs(5)));
    let results = admin.create_topics([&topic], &options).await.map_err(|error| error.to_string())?;
    results.into_iter().try_for_each(|result| result.map(drop).map_err(|(_, code)| code.to_string()))
}
