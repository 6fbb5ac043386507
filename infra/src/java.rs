//! The machine's JDK, and sets of jars that Maven downloads once into the cache.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::cache;
use crate::progress::step;
use crate::supervise::Program;

const VERSION_MIN: u32 = 17;
const INSTALL_HINT: &str = "Install a JDK and Maven (Debian: apt-get install openjdk-17-jdk-headless maven)";

/// A set of jars to be downloaded.
#[derive(Clone, Copy, Debug)]
pub struct JarSet {
    /// The name in messages: "Apache Kafka".
    pub title: &'static str,
    /// The beginning of the name of its folder in the cache.
    pub name: &'static str,
    pub pom: &'static str,
    /// A further file in that folder: name and content.
    pub extra_file: (&'static str, &'static str),
}

/// Downloaded jars, and the Java that runs them.
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
    pub async fn get(jar_set: JarSet) -> anyhow::Result<Self> {
        let java = find_java(jar_set.title)?;
        // The name contains a hash of the content: a cached folder is never updated in place.
        let content = crc32fast::hash([jar_set.pom, jar_set.extra_file.1].concat().as_bytes());
        let name = format!("{}-{content:08x}", jar_set.name);
        let folder = cache::get_or_fill(&name, async |folder| download(jar_set, folder).await).await?;
        Ok(Self { java, folder })
    }

    pub fn java(&self) -> &Path {
        &self.java
    }

    /// The path of a file beside the jars.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The argument of `java -cp`.
    pub fn class_path(&self) -> OsString {
        self.folder.join("libs").join("*").into()
    }
}

fn find_java(title: &str) -> anyhow::Result<PathBuf> {
    let home = env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    let java = home.map_or(PathBuf::from("java"), |home| Path::new(&home).join("bin/java"));
    let Ok(output) = Command::new(&java).arg("-version").output() else {
        bail!(
            "{title} needs a JDK {VERSION_MIN} or newer, and `{}` can't be run. {INSTALL_HINT}",
            java.display()
        );
    };
    let answer = String::from_utf8_lossy(&output.stderr);
    match parse_version(&answer) {
        Some(version) if version >= VERSION_MIN => Ok(java),
        Some(version) => {
            bail!("{title} needs a JDK {VERSION_MIN} or newer, and `java` is {version}. {INSTALL_HINT}")
        }
        None => bail!("`java -version` did not say its version, but: {}", answer.trim()),
    }
}

/// Parses `openjdk version "17.0.15" …`. The old numbering, `"1.8.0_292"`, gives 1.
fn parse_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version \"")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

async fn download(jar_set: JarSet, folder: &Path) -> anyhow::Result<()> {
    let title = jar_set.title;
    let pom = folder.join("pom.xml");
    let log = folder.join("maven.log");
    fs::write(&pom, jar_set.pom)?;
    fs::write(folder.join(jar_set.extra_file.0), jar_set.extra_file.1)?;
    if Command::new("mvn").arg("--version").output().is_err() {
        bail!("{title}'s jars are fetched by Maven, and there is no `mvn` to run. {INSTALL_HINT}");
    }
    step(&format!("fetching {title} once (by Maven)"), async {
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        maven.arg(format!("-DoutputDirectory={}", folder.join("libs").display()));
        let child = Program::new(maven, &log).spawn()?;
        let status = child.exited().await;
        if !status.success() {
            bail!(
                "Maven could not fetch {title}'s jars ({status}):\n{}\nThey are fetched once and kept; is the \
                 network there?",
                child.log_tail()
            );
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK…"), Some(17));
        assert_eq!(parse_version("java version \"1.8.0_292\""), Some(1));
        assert_eq!(parse_version("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(parse_version("The operation couldn’t be completed."), None);
    }
}
