//! A process and its descendants. A process group isn't enough: PostgreSQL's backends leave theirs.

use std::fs;

use rustix::process::{Pid, test_kill_process};

/// `root` and its running descendants, parents first. Processes that are forked meanwhile may be missing.
pub(super) fn pids(root: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(Pid, Pid)> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&current) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, parent)| *parent == current).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

/// Whether it exists and is not a zombie.
pub(super) fn is_running(pid: Pid) -> bool {
    test_kill_process(pid).is_ok() && stat(pid).is_none_or(|(state, _)| state != "Z")
}

fn parent(pid: Pid) -> Option<Pid> {
    Pid::from_raw(stat(pid)?.1)
}

/// The state and the parent, from `pid (name) state parent …`. The name may contain any character.
fn stat(pid: Pid) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
