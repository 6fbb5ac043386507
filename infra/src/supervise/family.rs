//! A process and what descends from it. A process group isn't enough: PostgreSQL's backends leave theirs.

use std::fs;

use rustix::process::{Pid, test_kill_process};

/// `root` and its living descendants, parents first. What is forked meanwhile may be missing.
pub(super) fn of(root: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pairs: Vec<(Pid, Pid)> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(pairs.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// Whether it exists and is no zombie, which only waits to be noticed.
pub(super) fn lives(pid: Pid) -> bool {
    test_kill_process(pid).is_ok() && stat(pid).is_none_or(|(state, _)| state != "Z")
}

fn parent(pid: Pid) -> Option<Pid> {
    Pid::from_raw(stat(pid)?.1)
}

/// State and parent, from `pid (name) state parent …`; a name may hold anything.
fn stat(pid: Pid) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
