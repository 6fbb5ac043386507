//! Second runs of this executable: processes that start something and are then killed, or that run as another user or
//! with another environment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use theater_infra::kafka_native::{NativeKafka, Port};
use theater_infra::postgres::Postgres;
use theater_infra::supervise::{Program, TempDir};

const ROLE: &str = "THEATER_TEST_ROLE";

/// Dropping it kills the process.
pub(crate) struct HelperProcess {
    pub(crate) child: Child,
    /// The `name=value` lines that it has printed.
    values: HashMap<String, String>,
}

impl HelperProcess {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(role: &str, adapt: impl FnOnce(&mut Command)) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        adapt(&mut command);
        let mut child = command.spawn()?;
        let mut values = HashMap::new();
        for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
            let line = line?;
            match line.split_once('=') {
                Some((name, value)) => _ = values.insert(name.to_owned(), value.to_owned()),
                None => return Ok(Self { child, values }),
            }
        }
        let mut error = String::new();
        child.stderr.take().context("no errors")?.read_to_string(&mut error)?;
        child.wait()?;
        bail!("{error}")
    }

    pub(crate) fn value(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("it has printed no {name}"))
    }

    pub(crate) fn kill_9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        let _ = self.kill_9(); // it fails if the process has ended
    }
}

/// Runs the role that this process was started for, if any, and exits.
pub(crate) fn run_if_requested() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Err(error) = runtime.block_on(run(&role)) {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
    drop(runtime);
    theater_infra::supervise::stop_reaper();
    std::process::exit(0);
}

async fn run(role: &str) -> anyhow::Result<()> {
    match role {
        "parent" => parent(),
        "postgres" => {
            let postgres = Postgres::start(None).await?;
            println!("port={}", postgres.port());
            println!("pid={}", postgres.child().context("no child")?.pid());
            println!("log={}", postgres.child().context("no child")?.log().display());
            println!("url={}", postgres.create_database("some").await?);
            print_ready_and_wait_for_end_of_input()
        }
        "kafka" => {
            let kafka = NativeKafka::start(None, Port::Any).await?;
            println!("port={}", kafka.port());
            print_ready_and_wait_for_end_of_input()
        }
        other => bail!("no such role: {other}"),
    }
}

fn parent() -> anyhow::Result<()> {
    let folder = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    std::fs::write(folder.path().join("file"), "content")?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "sleep 1000 & echo $!; wait"]);
    let log = folder.path().join("log");
    let child = Program::new(shell, &log).spawn()?;
    while std::fs::read_to_string(&log)?.trim().is_empty() {
        std::thread::yield_now();
    }
    println!("child={}", child.pid());
    println!("grandchild={}", std::fs::read_to_string(&log)?.trim());
    println!("folder={}", folder.path().display());
    print_ready_and_wait_for_end_of_input()
}

fn print_ready_and_wait_for_end_of_input() -> anyhow::Result<()> {
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
