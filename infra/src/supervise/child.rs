//! A running child process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

use super::{process_tree, reaper};

/// How long the descendants of a killed child may take to end.
const TREE_END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a dropped child may take to clean up.
const DROP_TIMEOUT: Duration = Duration::from_secs(3);

/// Dropping it sends it its death signal, and soon after kills it and its descendants.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// For signals: unlike a pid, it never refers to another process after this one has ended.
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
    log: PathBuf,
    /// Where this child's part of the log begins.
    log_start: u64,
    death_signal: Signal,
}

impl Child {
    pub(super) fn watch(
        mut child: std::process::Child,
        (log, log_start): (PathBuf, u64),
        death_signal: Signal,
    ) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        reaper::register_group(pid)?;
        let (sender, exit) = watch::channel(None);
        let waiter = thread::Builder::new().name(format!("wait-{pid}")).spawn(move || {
            let status = child.wait().unwrap_or_else(|error| {
                tracing::error!(child.pid = %pid, %error, "can't wait for a child");
                ExitStatus::from_raw(127 << 8)
            });
            sender.send_replace(Some(status));
        })?;
        Ok(Self { pid, pidfd, exit, waiter: Some(waiter), log, log_start, death_signal })
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until it ends.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.unwrap_or(ExitStatus::from_raw(127 << 8))
    }

    /// Signals the process. Does nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.pidfd, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(child.pid = %self.pid, %error, "can't signal a child");
        }
    }

    /// Signals the process and its descendants: to freeze (`STOP`) or thaw (`CONT`) a server as a whole.
    pub fn signal_tree(&self, signal: Signal) {
        if self.exit_status().is_none() {
            signal_all(&process_tree::pids(self.pid), signal);
        }
    }

    /// Sends `signal`, and kills the process if it has not ended within `timeout`. Returns when its descendants have
    /// ended too.
    pub async fn stop(&self, signal: Signal, timeout: Duration) -> ExitStatus {
        let tree = process_tree::pids(self.pid);
        self.signal(signal);
        self.signal_tree(Signal::CONT); // a frozen process doesn't handle signals
        if let Ok(status) = tokio::time::timeout(timeout, self.exited()).await {
            wait_until_ended(&tree).await;
            return status;
        }
        tracing::warn!(child.pid = %self.pid, bound = ?timeout, "a child did not stop in time and is killed");
        self.kill().await
    }

    /// `kill -9` for the process and its descendants. Returns when all have ended.
    pub async fn kill(&self) -> ExitStatus {
        let tree = process_tree::pids(self.pid);
        if self.exit_status().is_none() {
            signal_all(&tree, Signal::KILL);
        }
        let status = self.exited().await;
        wait_until_ended(&tree).await;
        status
    }

    /// The last lines that it wrote, indented, for an error message.
    pub fn log_tail(&self) -> String {
        last_lines(&self.log, self.log_start)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.death_signal != Signal::KILL {
            self.signal(self.death_signal);
            self.signal_tree(Signal::CONT);
            let deadline = Instant::now() + DROP_TIMEOUT;
            while self.exit_status().is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
        }
        self.signal_tree(Signal::KILL);
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join(); // it can't panic, and waiting for a killed process is short
        }
        reaper::unregister_group(self.pid);
    }
}

fn signal_all(pids: &[Pid], signal: Signal) {
    for pid in pids {
        if let Err(error) = kill_process(*pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(child.pid = %pid, %error, "can't signal a child's child");
        }
    }
}

async fn wait_until_ended(pids: &[Pid]) {
    let deadline = Instant::now() + TREE_END_TIMEOUT;
    while pids.iter().any(|pid| process_tree::is_running(*pid)) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The last lines of a log after the byte `start`, indented.
fn last_lines(log: &Path, start: u64) -> String {
    const LINES: usize = 15;
    match std::fs::read(log) {
        Ok(bytes) => {
            let own = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or(&bytes);
            let text = String::from_utf8_lossy(own);
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(LINES);
            lines[from..].iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("  | (its log {} can't be read: {error})", log.display()),
    }
}
