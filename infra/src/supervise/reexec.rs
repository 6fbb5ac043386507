//! The command line of a second run of this executable.

use std::process::Command;

use rustix::process::{Signal, getpid};

use super::user::User;

/// The first argument of a second run, which no user passes.
pub(super) const CHILD: &str = "--theater-child";
pub(super) const REAPER: &str = "--theater-reaper";

/// Stands for the user of this process in the arguments of a child.
const SAME_USER: &str = "-";

/// The command that becomes `command`: `--theater-child PARENT SIGNAL UID:GID PROGRAM ARGUMENTS…`.
pub(super) fn child_command(command: &Command, user: Option<User>, death_signal: Signal) -> Command {
    let mut child = this_executable();
    child.arg(CHILD).arg(getpid().to_string()).arg(death_signal.as_raw_nonzero().to_string());
    child.arg(user.map_or(SAME_USER.to_owned(), |user| format!("{}:{}", user.uid, user.gid)));
    child.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => child.env(name, value),
            None => child.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        child.current_dir(directory);
    }
    child
}

pub(super) fn reaper_command() -> Command {
    let mut reaper = this_executable();
    reaper.arg(REAPER);
    reaper
}

/// `/proc/self/exe` is this very program, even if its file has been replaced since.
fn this_executable() -> Command {
    Command::new("/proc/self/exe")
}
