//! Java, and Apache Kafka's jars: fetched once by Maven into the cache, for the broker and the tools alike.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::WAY_OUT;
use crate::cache;
use crate::progress::step;
use crate::supervise::Program;

const POM: &str = include_str!("../../kafka/pom.xml");
const LOG4J2: &str = include_str!("../../kafka/log4j2.xml");
const OLDEST_JAVA: u32 = 17;
const INSTALL: &str = "Install a JDK and Maven (Debian: apt-get install openjdk-17-jdk-headless maven)";

/// Runs classes of Apache Kafka and kafka-tools.
#[derive(Clone, Debug)]
pub struct Tools {
    java: PathBuf,
    /// Its `libs/` holds the jars; `log4j2.xml` lies beside.
    folder: PathBuf,
}

impl Tools {
    /// Finds Java, and the jars in the cache or by Maven.
    ///
    /// # Errors
    /// One message with the way out if there is no JDK 17 or newer, no Maven, or Maven fails.
    pub async fn get() -> anyhow::Result<Self> {
        let java = java()?;
        // Another set of jars has another name: a cache is never brought up to date in place.
        let name = format!("kafka-{:08x}", crc32fast::hash([POM, LOG4J2].concat().as_bytes()));
        let folder = cache::folder(&name, async |folder| fetch(folder).await).await?;
        Ok(Self { java, folder })
    }

    pub fn java(&self) -> &Path {
        &self.java
    }

    /// What `java -cp` needs.
    pub fn class_path(&self) -> OsString {
        self.folder.join("libs").join("*").into()
    }

    /// A tool by its class, quiet but for warnings, to which its arguments are to be added:
    /// `org.apache.kafka.tools.consumer.ConsoleConsumer` is kafka-console-consumer.
    pub fn command(&self, class: &str) -> Command {
        self.command_with(&["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"], class)
    }

    pub(super) fn command_with(&self, options: &[&str], class: &str) -> Command {
        let mut command = Command::new(&self.java);
        let log4j2 = self.folder.join("log4j2.xml");
        command.args(options).arg(format!("-Dlog4j2.configurationFile={}", log4j2.display()));
        command.arg("-cp").arg(self.class_path()).arg(class);
        command
    }
}

fn java() -> anyhow::Result<PathBuf> {
    let home = env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    let java = home.map_or(PathBuf::from("java"), |home| Path::new(&home).join("bin/java"));
    let Ok(output) = Command::new(&java).arg("-version").output() else {
        bail!(
            "Apache Kafka needs a JDK {OLDEST_JAVA} or newer, and `{}` can't be run. {INSTALL}. {WAY_OUT}",
            java.display()
        );
    };
    let answer = String::from_utf8_lossy(&output.stderr);
    match java_version(&answer) {
        Some(version) if version >= OLDEST_JAVA => Ok(java),
        Some(version) => {
            bail!(
                "Apache Kafka needs a JDK {OLDEST_JAVA} or newer, and `java` is {version}. {INSTALL}. {WAY_OUT}"
            )
        }
        None => bail!("`java -version` did not say its version, but: {}", answer.trim()),
    }
}

/// From `openjdk version "17.0.15" …`; the old way of counting, `"1.8.0_292"`, gives 1.
fn java_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version \"")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

async fn fetch(folder: &Path) -> anyhow::Result<()> {
    let pom = folder.join("pom.xml");
    let log = folder.join("maven.log");
    fs::write(&pom, POM)?;
    fs::write(folder.join("log4j2.xml"), LOG4J2)?;
    if Command::new("mvn").arg("--version").output().is_err() {
        bail!("Apache Kafka's jars are fetched by Maven, and there is no `mvn` to run. {INSTALL}. {WAY_OUT}");
    }
    step("fetching Apache Kafka once (54 MB, by Maven)", async {
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        maven.arg(format!("-DoutputDirectory={}", folder.join("libs").display()));
        let child = Program::new(maven, &log).spawn().context("can't start mvn")?;
        let status = child.exited().await;
        if !status.success() {
            bail!(
                "Maven could not fetch Apache Kafka's jars ({status}):\n{}\nThey are fetched once and kept; is the \
                 network there? {WAY_OUT}",
                child.last_words()
            );
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::java_version;

    #[test]
    fn versions_are_read() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK…"), Some(17));
        assert_eq!(java_version("java version \"1.8.0_292\""), Some(1));
        assert_eq!(java_version("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(java_version("The operation couldn’t be completed."), None);
    }
}
