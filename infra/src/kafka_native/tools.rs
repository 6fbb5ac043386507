//! Apache Kafka's jars: the broker's and the command-line tools'.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::anyhow;

use crate::java::{JarSet, Jars};

/// Ends the error messages.
pub(super) const ALTERNATIVE: &str = "Another broker can be used instead: --kafka HOST:PORT, or --kafka embedded \
                                      (for tests: KAFKA_BOOTSTRAP_SERVERS)";

const LOGGER: &str = "log4j2.xml";

const KAFKA: JarSet = JarSet {
    title: "Apache Kafka",
    name: "kafka",
    pom: include_str!("../../kafka/pom.xml"),
    extra_file: (LOGGER, include_str!("../../kafka/log4j2.xml")),
};

/// Runs classes of Apache Kafka and kafka-tools.
#[derive(Clone, Debug)]
pub struct Tools(Jars);

impl Tools {
    /// Finds Java, and the jars in the cache or by Maven.
    ///
    /// # Errors
    /// If there is no JDK 17 or newer, no Maven, or Maven fails. The message ends with an alternative.
    pub async fn get() -> anyhow::Result<Self> {
        Jars::get(KAFKA).await.map(Self).map_err(|error| anyhow!("{error:#}. {ALTERNATIVE}"))
    }

    pub fn java(&self) -> &Path {
        self.0.java()
    }

    /// The argument of `java -cp`.
    pub fn class_path(&self) -> OsString {
        self.0.class_path()
    }

    /// The command of a tool, to which the caller adds arguments. It logs warnings only. The class of
    /// kafka-console-consumer is `org.apache.kafka.tools.consumer.ConsoleConsumer`.
    pub fn command(&self, class: &str) -> Command {
        self.command_with(&["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"], class)
    }

    pub(super) fn command_with(&self, options: &[&str], class: &str) -> Command {
        let mut command = Command::new(self.java());
        let logger = self.0.file(LOGGER);
        command.args(options).arg(format!("-Dlog4j2.configurationFile={}", logger.display()));
        command.arg("-cp").arg(self.class_path()).arg(class);
        command
    }
}
