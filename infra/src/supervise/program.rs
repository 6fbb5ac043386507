//! A program to be started.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::child::Child;
use super::user::User;
use super::{reexec, spawner};

/// Uses the command's program, arguments, environment and directory. The input is empty, and the output is appended
/// to `log`.
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

    /// Runs it as another user.
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// The signal that it gets when this process dies: `KILL` unless it has to clean up. The reaper kills what remains.
    pub fn death_signal(mut self, signal: Signal) -> Self {
        self.death_signal = signal;
        self
    }

    /// Starts it, in a process group of its own, so that Ctrl-C on the terminal doesn't reach it.
    ///
    /// # Errors
    /// If the log can't be opened or no process can be created. A missing program is not an error here: the child
    /// writes that to its log and ends at once with status 127.
    pub fn spawn(self) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let log_start = log.metadata()?.len();
        let mut command = reexec::child_command(&self.command, self.user, self.death_signal);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        Child::watch(spawner::spawn(command)?, (self.log, log_start), self.death_signal)
    }
}
