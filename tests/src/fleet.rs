//! A fleet: the five services as processes that tests kill, freeze, crash at a failpoint and start again.
//!
//! - [`service`]: the main function of such a process; [`crash`]: its death at a failpoint.

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
use theater_infra::supervise::{Child, Program, Signal, TempDir};

use self::crash::{FAILPOINT_SOCKET_VARIABLE, FAILPOINT_VARIABLE, crash_message};
use crate::theater::TheaterConfig;
use crate::{Api, eventually, schema_conformance};

const START_TIMEOUT: Duration = Duration::from_secs(60);

pub const SERVICES: [&str; 4] = ["reservation", "movie", "notification", "reservation-list"];

/// One process of the fleet.
pub struct Member {
    pub service: &'static str,
    pub port: u16,
    child: Option<Child>,
    /// The socket that receives the names of failpoints at which the process is to die.
    failpoint_socket: PathBuf,
    /// The number of starts, for the name of its log.
    starts: usize,
}

pub struct Fleet {
    pub api: Api,
    pub config: TheaterConfig,
    pub members: Vec<Member>,
    binary: &'static str,
    scratch: TempDir,
}

impl Fleet {
    /// Starts `replicas` of each service and one gateway. `binary` is `env!("CARGO_BIN_EXE_theater-tests")`.
    ///
    /// # Errors
    /// If a process doesn't become ready.
    pub async fn start(binary: &'static str, config: TheaterConfig, replicas: usize) -> anyhow::Result<Self> {
        let mut fleet = Self::new(binary, config, replicas)?;
        for index in 0..fleet.members.len() {
            fleet.spawn(index)?;
        }
        for index in 0..fleet.members.len() {
            fleet.wait_until_ready(index).await?;
        }
        Ok(fleet)
    }

    /// A fleet without running processes.
    ///
    /// # Errors
    /// If there is no free port, or the folder for logs can't be created.
    pub fn new(binary: &'static str, config: TheaterConfig, replicas: usize) -> anyhow::Result<Self> {
        let scratch = TempDir::new(&std::env::temp_dir(), "theater-fleet")?;
        let mut fleet = Self { api: Api::new("")?, config, members: Vec::new(), binary, scratch };
        for service in SERVICES.into_iter().flat_map(|service| vec![service; replicas]) {
            fleet.members.push(Member {
                service,
                port: port::free()?,
                child: None,
                failpoint_socket: PathBuf::new(),
                starts: 0,
            });
        }
        let gateway = port::free()?;
        fleet.members.push(Member {
            service: "gateway",
            port: gateway,
            child: None,
            failpoint_socket: PathBuf::new(),
            starts: 0,
        });
        fleet.api = Api::new(format!("http://127.0.0.1:{gateway}"))?;
        Ok(fleet)
    }

    /// The indices of the members that run `service`.
    pub fn members_of(&self, service: &str) -> Vec<usize> {
        (0..self.members.len()).filter(|index| self.members[*index].service == service).collect()
    }

    fn args(&self, index: usize) -> Vec<String> {
        let member = &self.members[index];
        let address = format!("127.0.0.1:{}", member.port);
        if member.service != "gateway" {
            return self.config.args(member.service, &address);
        }
        let ports = SERVICES.map(|service| {
            (service, self.members_of(service).into_iter().map(|index| self.members[index].port).collect())
        });
        self.config.gateway_args(&address, &ports)
    }

    /// Starts a member that is not running.
    ///
    /// # Errors
    /// If the process can't be started.
    pub fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        self.spawn_with_failpoint(index, None)
    }

    /// Starts a member that dies when it reaches this failpoint for the first time.
    ///
    /// # Errors
    /// If the process can't be started.
    pub fn spawn_crashing_at(&mut self, index: usize, failpoint: &str) -> anyhow::Result<()> {
        self.spawn_with_failpoint(index, Some(failpoint))
    }

    fn spawn_with_failpoint(&mut self, index: usize, failpoint: Option<&str>) -> anyhow::Result<()> {
        let args = self.args(index);
        let member = &mut self.members[index];
        member.starts += 1;
        let name = format!("{}-{index}-{}", member.service, member.starts);
        member.failpoint_socket = self.scratch.path().join(format!("{name}.failpoints"));
        let mut command = Command::new(self.binary);
        command
            .args(["fleet", member.service])
            .args(args)
            .env("RUST_LOG", "info")
            .env(FAILPOINT_SOCKET_VARIABLE, &member.failpoint_socket);
        if let Some(failpoint) = failpoint {
            command.env(FAILPOINT_VARIABLE, failpoint);
        }
        let log = self.scratch.path().join(format!("{name}.log"));
        member.child = Some(Program::new(command, log).spawn()?);
        Ok(())
    }

    /// Makes a ready member die when it reaches this failpoint for the next time.
    ///
    /// # Errors
    /// If its socket doesn't exist.
    pub fn crash_at(&self, index: usize, failpoint: &str) -> anyhow::Result<()> {
        let Member { service, failpoint_socket, .. } = &self.members[index];
        let sent = UnixDatagram::unbound()?.send_to(failpoint.as_bytes(), failpoint_socket);
        sent.with_context(|| format!("{service} doesn't listen"))?;
        Ok(())
    }

    /// Whether a member has died at this failpoint. If so, it can be started again.
    ///
    /// # Errors
    /// If it has ended in another way.
    pub fn has_crashed_at(&mut self, index: usize, failpoint: &str) -> anyhow::Result<bool> {
        let member = &mut self.members[index];
        let child = member.child.as_ref().context("not running")?;
        let Some(status) = child.exit_status() else { return Ok(false) };
        let log = std::fs::read_to_string(child.log())?;
        let crashed = status.signal() == Some(Signal::KILL.as_raw())
            && log.lines().any(|line| line == crash_message(failpoint));
        ensure!(crashed, "{} ended with {status}, not at {failpoint}: {}", member.service, child.log_tail());
        member.child = None;
        Ok(true)
    }

    /// Waits until a member is ready.
    ///
    /// # Errors
    /// If it doesn't become ready, with the end of its log.
    pub async fn wait_until_ready(&self, index: usize) -> anyhow::Result<()> {
        let member = &self.members[index];
        let api = Api::new(format!("http://127.0.0.1:{}", member.port))?;
        eventually(member.service, START_TIMEOUT, async || {
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

    /// Stops a member by SIGTERM, and returns its exit status.
    ///
    /// # Errors
    /// If it isn't running.
    pub async fn terminate(&mut self, index: usize) -> anyhow::Result<ExitStatus> {
        let child = self.members[index].child.take().context("not running")?;
        // Blocking work and the export of the last spans follow the drain.
        Ok(child.stop(Signal::TERM, DRAIN_LIMIT + Duration::from_secs(8)).await)
    }

    /// Freezes a member by SIGSTOP, and continues it by SIGCONT after `length`: the fault itself lasts that long.
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

    /// Stops all members by SIGTERM. Each must exit with status 0, no log of any process may contain a panic, and the
    /// records must conform to the schemas.
    ///
    /// # Errors
    /// If any of this fails.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for index in (0..self.members.len()).rev() {
            if self.members[index].child.is_some() {
                let status = self.terminate(index).await?;
                ensure!(status.success(), "{} ended with {status}", self.members[index].service);
            }
        }
        ensure_no_panic(self.scratch.path())?;
        schema_conformance::validate_topics(&self.config.bootstrap, &self.config.prefix).await
    }
}

fn ensure_no_panic(logs: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(logs)? {
        let path = entry?.path();
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        ensure!(!log.contains("panicked at"), "{}: {log}", path.display());
    }
    Ok(())
}
