//! The reaper: a second process of ours that outlives us by a moment.
//!
//! It reads from a pipe what there would be to clean up. When we die, however, the pipe ends; then it kills
//! the children's groups that are still there and removes the registered files and folders. It has a session
//! of its own, so that nothing typed on the terminal reaches it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, setsid, test_kill_process_group};

use super::{entry, spawn_from_lasting_thread};

/// How long children may take to follow their death signal before they are killed.
const GRACE: Duration = Duration::from_secs(3);
/// How long the removal of a folder is tried while its last writers vanish.
const REMOVAL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

static REAPER: Mutex<Option<(Child, ChildStdin)>> = Mutex::new(None);

fn tell(verb: u8, what: &[u8]) -> io::Result<()> {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, pipe) = match &mut *reaper {
        Some(reaper) => reaper,
        none => none.insert(start()?),
    };
    let record = [&[verb], what, &[0]].concat();
    pipe.write_all(&record)
}

fn start() -> io::Result<(Child, ChildStdin)> {
    let mut command = entry::self_command();
    command.arg(entry::REAPER).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/");
    let mut reaper = spawn_from_lasting_thread(command)?;
    let pipe = reaper.stdin.take().ok_or_else(|| io::Error::other("the reaper has no pipe"))?;
    Ok((reaper, pipe))
}

pub(super) fn add_group(leader: Pid) -> io::Result<()> {
    tell(b'g', leader.to_string().as_bytes())
}

pub(super) fn forget_group(leader: Pid) {
    forgotten(tell(b'G', leader.to_string().as_bytes()));
}

/// Has `path` removed when we end without [`forget_path`].
pub(super) fn add_path(path: &Path) -> io::Result<()> {
    tell(b'p', path.as_os_str().as_bytes())
}

pub(super) fn forget_path(path: &Path) {
    forgotten(tell(b'P', path.as_os_str().as_bytes()));
}

/// What was to be forgotten is gone already: a deaf reaper does no harm.
fn forgotten(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::warn!(%error, "the reaper can't be told");
    }
}

/// Ends the reaper, which first removes whatever is still registered. Called last, it leaves no process.
pub fn finish() {
    let reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((mut child, pipe)) = reaper {
        drop(pipe);
        if let Err(error) = child.wait() {
            tracing::warn!(%error, "can't wait for the reaper");
        }
    }
}

/// The reaper's whole life.
pub(super) fn run() {
    let _ = setsid(); // fails only for the leader of a group, which then has its own already
    let mut groups = BTreeSet::new();
    let mut paths = BTreeSet::new();
    // A pipe that breaks says the same as one that ends.
    for record in BufReader::new(io::stdin()).split(0).map_while(Result::ok) {
        let Some((verb, what)) = record.split_first() else { continue };
        let group = || str::from_utf8(what).ok()?.parse().ok().and_then(Pid::from_raw);
        let path = PathBuf::from(OsStr::from_bytes(what));
        match verb {
            b'g' => groups.extend(group().map(Pid::as_raw_nonzero)),
            b'G' => groups.retain(|known| Some(*known) != group().map(Pid::as_raw_nonzero)),
            b'p' => _ = paths.insert(path),
            _ => _ = paths.remove(&path),
        }
    }
    let leaders: Vec<Pid> = groups.iter().filter_map(|raw| Pid::from_raw(raw.get())).collect();
    kill_groups(&leaders);
    for path in paths {
        remove(&path);
    }
}

fn kill_groups(leaders: &[Pid]) {
    let any = || leaders.iter().any(|leader| test_kill_process_group(*leader).is_ok());
    wait_while(GRACE, any);
    for leader in leaders {
        let _ = kill_process_group(*leader, Signal::KILL); // gone is what it shall be
    }
    wait_while(GRACE, any);
}

fn wait_while(bound: Duration, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + bound;
    while condition() && Instant::now() < deadline {
        sleep(STEP);
    }
}

fn remove(path: &Path) {
    wait_while(REMOVAL, || {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    });
}
