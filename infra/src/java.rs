//! The machine's JDK, and sets of jars that Maven fetches once into the cache.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::cache;
use crate::progress::step;
use crate::supervise::Program;

const OLDEST: u32 = 17;
const INSTALL: &str = "Install a JDK and Maven (Debian: apt-get install openjdk-17-jdk-headless maven)";

/// What a set of jars is.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// For messages: "Apache Kafka".
    pub what: &'static str,
    /// Of its folder in the cache.
    pub name: &'static str,
    pub pom: &'static str,
    /// What lies beside the jars: name and content.
    pub beside: (&'static str, &'static str),
}

/// Jars, and the Java that runs them.
#[derive(Clone, Debug)]
pub struct Jars {
    java: PathBuf,
    /// Its `libs/` holds the jars.
    folder: PathBuf,
}

impl Jars {
    /// Finds Java, and the jars in the cache or by Maven.
    ///
    /// # Errors
    /// One message if there is no JDK 17 or newer, no Maven, or Maven fails.
    pub async fn get(wanted: Wanted) -> anyhow::Result<Self> {
        let java = find(wanted.what)?;
        // Another set of jars has another name: a cache is never brought up to date in place.
        let content = crc32fast::hash([wanted.pom, wanted.beside.1].concat().as_bytes());
        let name = format!("{}-{content:08x}", wanted.name);
        let folder = cache::folder(&name, async |folder| fetch(wanted, folder).await).await?;
        Ok(Self { java, folder })
    }

    pub fn java(&self) -> &Path {
        &self.java
    }

    /// What lies beside the jars.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What `java -cp` needs.
    pub fn class_path(&self) -> OsString {
        self.folder.join("libs").join("*").into()
    }
}

fn find(what: &str) -> anyhow::Result<PathBuf> {
    let home = env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    let java = home.map_or(PathBuf::from("java"), |home| Path::new(&home).join("bin/java"));
    let Ok(output) = Command::new(&java).arg("-version").output() else {
        bail!("{what} needs a JDK {OLDEST} or newer, and `{}` can't be run. {INSTALL}", java.display());
    };
    let answer = String::from_utf8_lossy(&output.stderr);
    match version(&answer) {
        Some(version) if version >= OLDEST => Ok(java),
        Some(version) => {
            bail!("{what} needs a JDK {OLDEST} or newer, and `java` is {version}. {INSTALL}")
        }
        None => bail!("`java -version` did not say its version, but: {}", answer.trim()),
    }
}

/// From `openjdk version "17.0.15" …`; the old way of counting, `"1.8.0_292"`, gives 1.
fn version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version \"")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

async fn fetch(wanted: Wanted, folder: &Path) -> anyhow::Result<()> {
    let what = wanted.what;
    let pom = folder.join("pom.xml");
    let log = folder.join("maven.log");
    fs::write(&pom, wanted.pom)?;
    fs::write(folder.join(wanted.beside.0), wanted.beside.1)?;
    if Command::new("mvn").arg("--version").output().is_err() {
        bail!("{what}'s jars are fetched by Maven, and there is no `mvn` to run. {INSTALL}");
    }
    step(&format!("fetching {what} once (by Maven)"), async {
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        maven.arg(format!("-DoutputDirectory={}", folder.join("libs").display()));
        let child = Program::new(maven, &log).spawn()?;
        let status = child.exited().await;
        if !status.success() {
            bail!(
                "Maven could not fetch {what}'s jars ({status}):\n{}\nThey are fetched once and kept; is the \
                 network there?",
                child.last_words()
            );
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK…"), Some(17));
        assert_eq!(version("java version \"1.8.0_292\""), Some(1));
        assert_eq!(version("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(version("The operation couldn’t be completed."), None);
    }
}
