//! Apache Kafka's jars, for the broker and the tools alike.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::anyhow;

use super::WAY_OUT;
use crate::java::{Jars, Wanted};

const LOGGER: &str = "log4j2.xml";

const KAFKA: Wanted = Wanted {
    what: "Apache Kafka",
    name: "kafka",
    pom: include_str!("../../kafka/pom.xml"),
    beside: (LOGGER, include_str!("../../kafka/log4j2.xml")),
};

/// Runs classes of Apache Kafka and kafka-tools.
#[derive(Clone, Debug)]
pub struct Tools(Jars);

impl Tools {
    /// Finds Java, and the jars in the cache or by Maven.
    ///
    /// # Errors
    /// One message with the way out if there is no JDK 17 or newer, no Maven, or Maven fails.
    pub async fn get() -> anyhow::Result<Self> {
        Jars::get(KAFKA).await.map(Self).map_err(|error| anyhow!("{error:#}. {WAY_OUT}"))
    }

    pub fn java(&self) -> &Path {
        self.0.java()
    }

    /// What `java -cp` needs.
    pub fn class_path(&self) -> OsString {
        self.0.class_path()
    }

    /// A tool by its class, quiet but for warnings, to which its arguments are to be added:
    /// `org.apache.kafka.tools.consumer.ConsoleConsumer` is kafka-console-consumer.
    pub fn command(&self, class: &str) -> Command {
        self.command_with(&["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"], class)
    }

    pub(super) fn command_with(&self, options: &[&str], class: &str) -> Command {
        let mut command = Command::new(self.java());
        let logger = self.0.beside(LOGGER);
        command.args(options).arg(format!("-Dlog4j2.configurationFile={}", logger.display()));
        command.arg("-cp").arg(self.class_path()).arg(class);
        command
    }
}
