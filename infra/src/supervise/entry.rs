//! The first thing a supervised process runs: this executable again, before its real `main`.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use rustix::process::{self as unix, Signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{User, reaper};

/// The first argument that tells a second run of this executable from a user's.
const CHILD: &str = "--theater-child";
pub(super) const REAPER: &str = "--theater-reaper";

/// What a shell answers for a program that can't be run.
const EXIT_CANNOT_RUN: i32 = 127;

/// Becomes the child or the reaper, if that is what this process was started for; else returns.
///
/// To be called first in `main`, while there is one thread: the change of user is the thread's own.
pub fn child_entry() {
    let mut args = env::args_os().skip(1);
    match args.next() {
        Some(first) if first == CHILD => {
            let error = become_child(args);
            eprintln!("{error}");
            exit(EXIT_CANNOT_RUN);
        }
        Some(first) if first == REAPER => {
            reaper::run();
            exit(0);
        }
        _ => {}
    }
}

/// `/proc/self/exe` is this very program, even if its file has been replaced since.
pub(super) fn self_command() -> Command {
    Command::new("/proc/self/exe")
}

pub(super) fn reexec(command: &Command, user: Option<User>, death_signal: Signal) -> Command {
    let mut child = self_command();
    child.arg(CHILD).arg(unix::getpid().to_string()).arg(death_signal.as_raw_nonzero().to_string());
    child.arg(user.map_or("-".to_owned(), |user| format!("{}:{}", user.uid, user.gid)));
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

/// Returns only what went wrong.
fn become_child(mut args: impl Iterator<Item = OsString>) -> String {
    let mut text = || args.next().and_then(|arg| arg.into_string().ok()).unwrap_or_default();
    let (parent, signal, user) = (text(), text(), text());
    let Some(signal) = signal.parse().ok().and_then(Signal::from_named_raw) else {
        return format!("no such signal: {signal}");
    };
    if let Some((uid, gid)) = user.split_once(':')
        && let Err(error) = become_user(uid, gid)
    {
        return format!("can't become user {user}: {error}");
    }
    // After the change of user, which clears it.
    if let Err(error) = unix::set_parent_process_death_signal(Some(signal)) {
        return format!("can't ask to die with the parent: {error}");
    }
    // A parent that died before that line sends no signal.
    if unix::getppid().map(|pid| pid.to_string()) != Some(parent) {
        return "the parent has died".to_owned();
    }
    let Some(program) = args.next() else { return "no program to run".to_owned() };
    let error = Command::new(&program).args(args).exec();
    format!("can't run {}: {error}", program.display())
}

fn become_user(uid: &str, gid: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|error| format!("{text}: {error}"));
    let (uid, gid) = (unix::Uid::from_raw(number(uid)?), unix::Gid::from_raw(number(gid)?));
    set_thread_groups(&[]).map_err(|error| format!("setgroups: {error}"))?;
    set_thread_res_gid(gid, gid, gid).map_err(|error| format!("setgid: {error}"))?;
    set_thread_res_uid(uid, uid, uid).map_err(|error| format!("setuid: {error}"))
}
