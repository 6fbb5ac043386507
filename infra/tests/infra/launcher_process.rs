//! A running launcher, and the processes and files that it may leave behind.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use theater_infra::supervise::TempDir;

use super::supervise::eventually;

pub(crate) const THEATER: &str = env!("CARGO_BIN_EXE_theater");
pub(crate) const MARK: &str = "THEATER_TEST_MARK";
pub(crate) const ANY_PORTS: [&str; 10] = [
    "--gateway-port",
    "0",
    "--reservation-port",
    "0",
    "--movie-port",
    "0",
    "--notification-port",
    "0",
    "--reservation-list-port",
    "0",
];

/// A folder for all files of one launcher.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let home = Self(TempDir::new(Path::new("/tmp"), "theater-test")?);
        for folder in ["tmp", "run"] {
            std::fs::create_dir(home.path().join(folder))?;
        }
        Ok(home)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(THEATER);
        command
            .args(args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.env(MARK, self.path()).env_remove("RUST_LOG");
        command.env("TMPDIR", self.path().join("tmp")).env("XDG_RUNTIME_DIR", self.path().join("run"));
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(args).output()?)
    }

    /// The processes and files of this folder's launchers.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.path().display());
        let mut traces: Vec<String> = list(Path::new("/proc"))
            .into_iter()
            .filter(|process| {
                // PostgreSQL overwrites its environment, but its processes run in their data folder.
                let folder = std::fs::read_link(format!("{process}/cwd")).unwrap_or_default();
                let environment = std::fs::read(format!("{process}/environ")).unwrap_or_default();
                folder.starts_with(self.path()) || String::from_utf8_lossy(&environment).contains(&mark)
            })
            .map(|process| {
                let line = std::fs::read(format!("{process}/cmdline")).unwrap_or_default();
                format!("{process} {}", String::from_utf8_lossy(&line).replace('\0', " "))
            })
            .collect();
        traces.extend(list(&self.path().join("tmp")));
        traces.extend(list(&self.path().join("run/theater")));
        traces
    }

    pub(crate) async fn wait_until_empty(&self) -> anyhow::Result<()> {
        let ended = eventually("nothing is left", || self.traces().is_empty()).await;
        ended.with_context(|| format!("left: {:#?}", self.traces()))
    }
}

pub(crate) fn list(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// A running launcher. Dropping it kills it.
pub(crate) struct Launcher {
    pub(crate) child: Child,
    /// Kept open, so that the launcher can go on printing.
    _stdout: BufReader<ChildStdout>,
    /// The text that it has printed.
    banner: String,
}

impl Launcher {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.args(ANY_PORTS).spawn()?;
        let mut banner = String::new();
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        while output.read_line(&mut banner)? > 0 {
            if banner.ends_with("100}'\n") {
                return Ok(Self { child, _stdout: output, banner });
            }
        }
        child.wait()?;
        anyhow::bail!("{banner}{}", read_stderr(&mut child)?)
    }

    pub(crate) fn address(&self, label: &str) -> &str {
        let line = self.banner.lines().find(|line| line.trim_start().starts_with(label));
        line.and_then(|line| line.trim_start()[label.len()..].split_whitespace().next())
            .expect("it prints the address")
    }

    pub(crate) fn gateway(&self) -> &str {
        self.address("gateway")
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it ends, at most 5 s.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it did not end within 5 s: {}", self.banner);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it fails if the process has ended
        let _ = self.child.wait();
    }
}

pub(crate) fn read_stderr(child: &mut Child) -> anyhow::Result<String> {
    let mut text = String::new();
    child.stderr.take().context("no errors")?.read_to_string(&mut text)?;
    Ok(text)
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
