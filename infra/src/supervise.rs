//! Children that never outlive us, however we end.
//!
//! Rust's `Command` can't ask the kernel for a parent-death signal without `unsafe`, so a child starts as a
//! second run of this very executable ([`child_entry`]): it drops privileges, sets `PR_SET_PDEATHSIG`, checks
//! that its parent is still there, and becomes the wanted program. That signal fires when the *thread* that
//! spawned ends, so all spawning happens on one thread that lives as long as the process.
//!
//! Behind it stands the [reaper](reaper): it removes what a `kill -9` of ours would leave on disk.
//!
//! Every `main` that uses this module calls [`child_entry`] before anything else.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{self as unix, Pid, PidfdFlags};
use tokio::sync::watch;

mod entry;
mod family;
mod reaper;
mod scratch;

pub use entry::child_entry;
pub use reaper::finish;
pub use rustix::process::Signal;
pub use scratch::{OwnedPath, Scratch};

/// How long what a killed child had started may take to vanish.
const FAMILY_END: Duration = Duration::from_secs(5);
/// How long a dropped child may take to clean up.
const DROP_GRACE: Duration = Duration::from_secs(3);

/// Whom a child runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// `nobody`: owns nothing, may do nothing.
    pub const NOBODY: Self = Self { uid: 65534, gid: 65534 };

    /// For programs that refuse to run as root: `nobody` if we are root, else ourselves (`None`).
    pub fn unprivileged() -> Option<Self> {
        unix::geteuid().is_root().then_some(Self::NOBODY)
    }
}

/// A program to be started: the command's program, arguments, environment and directory count; its input
/// is empty and its output goes to the end of `log`.
#[derive(Debug)]
pub struct Program {
    command: Command,
    log: PathBuf,
    user: Option<User>,
    death_signal: Signal,
}

impl Program {
    pub fn new(command: Command, log: impl Into<PathBuf>) -> Self {
        Self { command, log: log.into(), user: None, death_signal: Signal::KILL }
    }

    /// Runs it as somebody else.
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// What it gets when we die: `KILL` unless it has something to clean up. The reaper kills what stays.
    pub fn death_signal(mut self, signal: Signal) -> Self {
        self.death_signal = signal;
        self
    }

    /// Starts it, in a process group of its own: Ctrl-C on the terminal is for us alone.
    ///
    /// # Errors
    /// If the log can't be opened or no process be made. A program that isn't there shows as a child that
    /// ends at once with status 127 and says so in its log.
    pub fn spawn(self) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let log_start = log.metadata()?.len();
        let mut child = entry::reexec(&self.command, self.user, self.death_signal);
        child.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = spawn_from_lasting_thread(child)?;
        Child::watch(child, (self.log, log_start), self.death_signal)
    }
}

type Request = (Command, Sender<io::Result<std::process::Child>>);

fn spawn_from_lasting_thread(command: Command) -> io::Result<std::process::Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in requests {
                    // Nobody waits for the reply any more only if that thread panicked.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        sender
    });
    let (reply, answer) = channel();
    let gone = || io::Error::other("the spawning thread is gone");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// A running child. Dropping it gives it its death signal, and soon kills it and what it started.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Signals go through this: it can't mean another process once ours has ended.
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
    log: PathBuf,
    /// Where its own part of the log begins.
    log_start: u64,
    death_signal: Signal,
}

impl Child {
    fn watch(
        mut child: std::process::Child,
        (log, log_start): (PathBuf, u64),
        death_signal: Signal,
    ) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let pidfd = unix::pidfd_open(pid, PidfdFlags::empty())?;
        reaper::add_group(pid)?;
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

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until it ends.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.unwrap_or(ExitStatus::from_raw(127 << 8))
    }

    /// Signals the process. One that has ended is left in peace.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = unix::pidfd_send_signal(&self.pidfd, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(child.pid = %self.pid, %error, "can't signal a child");
        }
    }

    /// Signals the process and all it started: to freeze (`STOP`) or thaw (`CONT`) a server as a whole.
    pub fn signal_family(&self, signal: Signal) {
        if self.exit_status().is_none() {
            signal_all(&family::of(self.pid), signal);
        }
    }

    /// Asks it to end, and makes it after `bound`. Returns when nothing of it is left.
    pub async fn stop(&self, signal: Signal, bound: Duration) -> ExitStatus {
        let family = family::of(self.pid);
        self.signal(signal);
        self.signal_family(Signal::CONT); // what is frozen can't obey
        if let Ok(status) = tokio::time::timeout(bound, self.exited()).await {
            gone(&family).await;
            return status;
        }
        tracing::warn!(child.pid = %self.pid, ?bound, "a child did not stop in time and is killed");
        self.kill().await
    }

    /// `kill -9`, for it and what it started. Returns when nothing of it is left.
    pub async fn kill(&self) -> ExitStatus {
        let family = family::of(self.pid);
        if self.exit_status().is_none() {
            signal_all(&family, Signal::KILL);
        }
        let status = self.exited().await;
        gone(&family).await;
        status
    }

    /// The last lines that it wrote, for an error message.
    pub fn last_words(&self) -> String {
        last_lines(&self.log, self.log_start)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.death_signal != Signal::KILL {
            self.signal(self.death_signal);
            self.signal_family(Signal::CONT);
            let deadline = Instant::now() + DROP_GRACE;
            while self.exit_status().is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
        }
        self.signal_family(Signal::KILL);
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join(); // it can't panic, and a killed process is waited for in no time
        }
        reaper::forget_group(self.pid);
    }
}

fn signal_all(family: &[Pid], signal: Signal) {
    for pid in family {
        if let Err(error) = unix::kill_process(*pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(child.pid = %pid, %error, "can't signal a child's child");
        }
    }
}

async fn gone(family: &[Pid]) {
    let deadline = Instant::now() + FAMILY_END;
    while family.iter().any(|pid| family::lives(*pid)) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The last lines of a log from `start` on, indented, for an error message.
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
