//! The entry point of a second run of this executable, before its real `main`: it becomes a child or the reaper.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use rustix::process::{self as unix, Signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::reaper;
use super::reexec::{CHILD, REAPER};

/// A shell's exit status for a program that can't be run.
const EXIT_CANNOT_RUN: i32 = 127;

/// Becomes the child or the reaper if this process was started as one; otherwise returns.
///
/// Call it first in `main`, while there is one thread: changing the user affects the calling thread only.
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

/// Returns only if it fails: the error.
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
    // After the change of user, which clears the death signal.
    if let Err(error) = unix::set_parent_process_death_signal(Some(signal)) {
        return format!("can't ask to die with the parent: {error}");
    }
    // A parent that died before the death signal was set sends none.
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
