//! The five services as processes, to be killed, frozen, crashed at a failpoint, and started again.

pub mod crash;
pub mod service;

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, ensure};
use service_kit::process::DRAIN_LIMIT;
use theater_infra::port;
use theater_infra::supervise::{Child, Program, TempDir, Signal};

use self::crash::{DIES_AT, ORDERS, last_words};
use crate::theater::Stage;
use crate::{Api, eventually, promise};

const START: Duration = Duration::from_secs(60);

pub const SERVICES: [&str; 4] = ["reservation", "movie", "notification", "reservation-list"];

/// One process.
pub struct Member {
    pub service: &'static str,
    pub port: u16,
    child: Option<Child>,
    /// Where it hears at which failpoint it is to die.
    orders: PathBuf,
    /// How often it was started, for the name of its log.
    starts: usize,
}

pub struct Fleet {
    pub api: Api,
    pub stage: Stage,
    pub members: Vec<Member>,
    binary: &'static str,
    scratch: TempDir,
}

impl Fleet {
    /// Starts `replicas` of each service and one gateway. `binary` is `env!("CARGO_BIN_EXE_theater-tests")`.
    ///
    /// # Errors
    /// A process that doesn't become ready.
    pub async fn start(binary: &'static str, stage: Stage, replicas: usize) -> anyhow::Result<Self> {
        let mut fleet = Self::new(binary, stage, replicas)?;
        for index in 0..fleet.members.len() {
            fleet.spawn(index)?;
        }
        for index in 0..fleet.members.len() {
            fleet.ready(index).await?;
        }
        Ok(fleet)
    }

    /// A fleet of which nothing runs yet.
    ///
    /// # Errors
    /// No ports, or no folder for logs.
    pub fn new(binary: &'static str, stage: Stage, replicas: usize) -> anyhow::Result<Self> {
        let scratch = TempDir::new(&std::env::temp_dir(), "theater-fleet")?;
        let mut fleet = Self { api: Api::new("")?, stage, members: Vec::new(), binary, scratch };
        for service in SERVICES.into_iter().flat_map(|service| vec![service; replicas]) {
            fleet.members.push(Member {
                service,
                port: port::free()?,
                child: None,
                orders: PathBuf::new(),
                starts: 0,
            });
        }
        let gateway = port::free()?;
        fleet.members.push(Member {
            service: "gateway",
            port: gateway,
            child: None,
            orders: PathBuf::new(),
            starts: 0,
        });
        fleet.api = Api::new(format!("http://127.0.0.1:{gateway}"))?;
        Ok(fleet)
    }

    /// The members that run `service`.
    pub fn of(&self, service: &str) -> Vec<usize> {
        (0..self.members.len()).filter(|index| self.members[*index].service == service).collect()
    }

    fn args(&self, index: usize) -> Vec<String> {
        let member = &self.members[index];
        let address = format!("127.0.0.1:{}", member.port);
        if member.service != "gateway" {
            return self.stage.args(member.service, &address);
        }
        let ports = SERVICES.map(|service| {
            (service, self.of(service).into_iter().map(|index| self.members[index].port).collect())
        });
        self.stage.gateway_args(&address, &ports)
    }

    /// Starts a member that is not running.
    ///
    /// # Errors
    /// A process that can't be started.
    pub fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        self.spawn_armed(index, None)
    }

    /// Starts a member that is to die at this failpoint, the first time that it passes it.
    ///
    /// # Errors
    /// A process that can't be started.
    pub fn spawn_dying_at(&mut self, index: usize, point: &str) -> anyhow::Result<()> {
        self.spawn_armed(index, Some(point))
    }

    fn spawn_armed(&mut self, index: usize, point: Option<&str>) -> anyhow::Result<()> {
        let args = self.args(index);
        let member = &mut self.members[index];
        member.starts += 1;
        let name = format!("{}-{index}-{}", member.service, member.starts);
        member.orders = self.scratch.path().join(format!("{name}.orders"));
        let mut command = Command::new(self.binary);
        command
            .args(["fleet", member.service])
            .args(args)
            .env("RUST_LOG", "info")
            .env(ORDERS, &member.orders);
        if let Some(point) = point {
            command.env(DIES_AT, point);
        }
        let log = self.scratch.path().join(format!("{name}.log"));
        member.child = Some(Program::new(command, log).spawn()?);
        Ok(())
    }

    /// Has a member that is ready die at this failpoint, the next time that it passes it.
    ///
    /// # Errors
    /// One that doesn't listen.
    pub fn die_at(&self, index: usize, point: &str) -> anyhow::Result<()> {
        let Member { service, orders, .. } = &self.members[index];
        let sent = UnixDatagram::unbound()?.send_to(point.as_bytes(), orders);
        sent.with_context(|| format!("{service} doesn't listen"))?;
        Ok(())
    }

    /// Whether a member has died at this failpoint; then it can be started again.
    ///
    /// # Errors
    /// It has ended in another way.
    pub fn has_died_at(&mut self, index: usize, point: &str) -> anyhow::Result<bool> {
        let member = &mut self.members[index];
        let child = member.child.as_ref().context("not running")?;
        let Some(status) = child.exit_status() else { return Ok(false) };
        let log = std::fs::read_to_string(child.log())?;
        let here = status.signal() == Some(Signal::KILL.as_raw())
            && log.lines().any(|line| line == last_words(point));
        ensure!(here, "{} ended with {status}, not at {point}: {}", member.service, child.log_tail());
        member.child = None;
        Ok(true)
    }

    /// Waits until a member says that it is ready.
    ///
    /// # Errors
    /// One that doesn't, with its last words.
    pub async fn ready(&self, index: usize) -> anyhow::Result<()> {
        let member = &self.members[index];
        let api = Api::new(format!("http://127.0.0.1:{}", member.port))?;
        eventually(member.service, START, async || {
            let child = member.child.as_ref().context("not started")?;
            ensure!(child.exit_status().is_none(), "it has ended: {}", child.log_tail());
            ensure!(api.get("/readyz").await?.status.is_success(), "not ready");
            Ok(())
        })
        .await
    }

    /// `kill -9`.
    pub async fn kill(&mut self, index: usize) {
        if let Some(child) = self.members[index].child.take() {
            child.kill().await;
        }
    }

    /// SIGTERM; answers how it ended.
    ///
    /// # Errors
    /// A member that isn't running.
    pub async fn terminate(&mut self, index: usize) -> anyhow::Result<ExitStatus> {
        let child = self.members[index].child.take().context("not running")?;
        // Blocking work and the last spans come after the drain.
        Ok(child.stop(Signal::TERM, DRAIN_LIMIT + Duration::from_secs(8)).await)
    }

    /// SIGSTOP, and SIGCONT after `length`: the fault itself lasts that long.
    pub async fn freeze(&self, index: usize, length: Duration) {
        if let Some(child) = &self.members[index].child {
            child.signal(Signal::STOP);
            tokio::time::sleep(length).await;
            child.signal(Signal::CONT);
        }
    }

    pub fn pid(&self, index: usize) -> Option<u32> {
        self.members[index].child.as_ref().map(Child::pid)
    }

    /// Ends all, each by SIGTERM with status 0, and looks for a panic in every log there ever was; what they wrote
    /// must be what the schemas promise.
    ///
    /// # Errors
    /// One that ended otherwise, a panic, a record that breaks a promise.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for index in (0..self.members.len()).rev() {
            if self.members[index].child.is_some() {
                let status = self.terminate(index).await?;
                ensure!(status.success(), "{} ended with {status}", self.members[index].service);
            }
        }
        no_panic(self.scratch.path())?;
        promise::kept(&self.stage).await
    }
}

fn no_panic(logs: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(logs)? {
        let path = entry?.path();
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        ensure!(!log.contains("panicked at"), "{}: {log}", path.display());
    }
    Ok(())
}
