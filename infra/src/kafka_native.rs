//! Apache Kafka itself, without containers: KRaft in combined mode on the machine's JDK, from Maven artifacts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::progress::step;
use crate::supervise::{Child, Program, Scratch, Signal};
use crate::{cache, port};

mod tools;

pub use tools::Tools;

const START_SECS: u64 = 90;
const STOP_SECS: u64 = 10;
/// Where it listens if nobody else does: where services that were told nothing look for it.
const USUAL_PORT: u16 = 9092;
const CLUSTER_ID: &str = "dGhlYXRlci1vZi1vbmUtbQ";
const WAY_OUT: &str = "Another broker can be used instead: --kafka HOST:PORT, or --kafka embedded \
                       (for tests: KAFKA_BOOTSTRAP_SERVERS)";

/// A running broker. Dropping it kills it and removes its data, unless they are to be kept.
#[derive(Debug)]
pub struct NativeKafka {
    child: Option<Child>,
    tools: Tools,
    home: Home,
    port: u16,
    controller_port: u16,
}

#[derive(Debug)]
enum Home {
    Temporary(Scratch),
    Kept(PathBuf),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(scratch) => scratch.path(),
            Self::Kept(path) => path,
        }
    }
}

/// Which port a broker gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 9092 if it is free.
    Usual,
    /// Any that is free.
    Any,
}

impl NativeKafka {
    /// Starts one with its data in `keep` if given, else in a temporary folder.
    ///
    /// # Errors
    /// One message with the way out: no JDK, no Maven, nothing to fetch from, or the log's last lines.
    pub async fn start(keep: Option<&Path>, port: Port) -> anyhow::Result<Self> {
        let tools = Tools::get().await?;
        let home = match keep {
            Some(path) => {
                let path = path.join("kafka");
                fs::create_dir_all(&path).with_context(|| format!("can't create {}", path.display()))?;
                Home::Kept(path.canonicalize()?)
            }
            None => Home::Temporary(Scratch::new(&cache::temporary(None), "theater-kafka")?),
        };
        let port = match port {
            Port::Usual if port::is_free(USUAL_PORT) => USUAL_PORT,
            Port::Usual | Port::Any => port::free()?,
        };
        let mut kafka = Self { child: None, tools, home, port, controller_port: port::free()? };
        step("starting Apache Kafka", async {
            kafka.configure()?;
            kafka.format().await?;
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

    /// The broker's process, if it was started last and not stopped: to kill, freeze and watch it.
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Starts it again on the same data and ports, after [`stop`](Self::stop), [`kill`](Self::kill) or a crash.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await;
        self.launch().await
    }

    /// Ends it. Its data stay until it is dropped, or for good if they are to be kept.
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
        self.home.path().join(name)
    }

    /// Small where it costs start-up time (internal topics), the broker's own defaults elsewhere. Topics are
    /// made on purpose only: one that a typing error names should be missed.
    fn configure(&self) -> anyhow::Result<()> {
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

    async fn format(&self) -> anyhow::Result<()> {
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
            bail!("Apache Kafka's storage can't be formatted ({status}):\n{}\n{WAY_OUT}", child.last_words());
        }
        Ok(())
    }

    /// The first compiler only: it halves the time to the first answer, and a local broker needs no more.
    /// Nothing is left in the machine's temporary folder.
    fn java(&self, class: &str) -> std::process::Command {
        let temporary = format!("-Djava.io.tmpdir={}", self.file("tmp").display());
        self.tools
            .command_with(&["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", &temporary], class)
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = self.java("kafka.Kafka");
        command.arg(self.file("server.properties")).current_dir(self.home.path());
        let child = Program::new(command, self.file("kafka.log")).spawn().context("can't start java")?;
        let ready = self.until_ready(&child).await;
        ready.map_err(|reason| {
            anyhow!("Apache Kafka {reason}. The end of its log:\n{}\n{WAY_OUT}", child.last_words())
        })?;
        self.child = Some(child);
        Ok(())
    }

    async fn until_ready(&self, child: &Child) -> Result<(), String> {
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

/// Asks a broker whether it could create a topic, without doing so: it answers its port long before.
///
/// # Errors
/// What it, or the client, says.
pub async fn can_create_topics(bootstrap_servers: &str) -> Result<(), String> {
    // An address that refuses would keep librdkafka trying and complaining.
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
