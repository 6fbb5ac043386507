//! Second runs of this executable: processes that start something and are then killed, or that run as
//! somebody else or with another environment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use theater_infra::kafka_native::{NativeKafka, Port};
use theater_infra::postgres::Postgres;
use theater_infra::supervise::{Program, Scratch};

const ROLE: &str = "THEATER_TEST_ROLE";

/// A process that plays a role. Dropping it kills it.
pub(crate) struct Role {
    pub(crate) child: Child,
    /// What it told about itself.
    pub(crate) told: HashMap<String, String>,
}

impl Role {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(role: &str, adapt: impl FnOnce(&mut Command)) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        adapt(&mut command);
        let mut child = command.spawn()?;
        let mut told = HashMap::new();
        for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
            let line = line?;
            match line.split_once('=') {
                Some((name, value)) => _ = told.insert(name.to_owned(), value.to_owned()),
                None => return Ok(Self { child, told }),
            }
        }
        let mut error = String::new();
        child.stderr.take().context("no errors")?.read_to_string(&mut error)?;
        child.wait()?;
        bail!("{error}")
    }

    pub(crate) fn told(&self, name: &str) -> &str {
        self.told.get(name).unwrap_or_else(|| panic!("it said nothing of {name}"))
    }

    pub(crate) fn kill_9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.kill_9(); // it may have ended
    }
}

/// Plays the role that this process was started for, if any.
pub(crate) fn play_if_asked() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Err(error) = runtime.block_on(play(&role)) {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
    drop(runtime);
    theater_infra::supervise::finish();
    std::process::exit(0);
}

async fn play(role: &str) -> anyhow::Result<()> {
    match role {
        "parent" => parent(),
        "postgres" => {
            let postgres = Postgres::start(None).await?;
            println!("port={}", postgres.port());
            println!("pid={}", postgres.child().context("no child")?.pid());
            println!("log={}", postgres.child().context("no child")?.log().display());
            println!("url={}", postgres.create_database("some").await?);
            ready_until_end_of_input()
        }
        "kafka" => {
            let kafka = NativeKafka::start(None, Port::Any).await?;
            println!("port={}", kafka.port());
            ready_until_end_of_input()
        }
        other => bail!("no such role: {other}"),
    }
}

fn parent() -> anyhow::Result<()> {
    let scratch = Scratch::new(&std::env::temp_dir(), "theater-test")?;
    std::fs::write(scratch.path().join("file"), "content")?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "sleep 1000 & echo $!; wait"]);
    let log = scratch.path().join("log");
    let child = Program::new(shell, &log).spawn()?;
    while std::fs::read_to_string(&log)?.trim().is_empty() {
        std::thread::yield_now();
    }
    println!("child={}", child.pid());
    println!("grandchild={}", std::fs::read_to_string(&log)?.trim());
    println!("scratch={}", scratch.path().display());
    ready_until_end_of_input()
}

fn ready_until_end_of_input() -> anyhow::Result<()> {
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
