//! The reaper: a second process that outlives this one by a moment.
//!
//! It reads messages from a pipe: which process groups and paths there are to clean up. The pipe ends when this process
//! dies, however that happens. Then the reaper kills the registered groups that still run, and removes the registered
//! files and folders. It has a session of its own, so that signals from the terminal don't reach it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, RawPid, Signal, kill_process_group, setsid, test_kill_process_group};

use super::{reexec, spawner};

/// How long children may take to obey their death signal before they are killed.
const DEATH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long removing a folder is retried while the last processes that write to it end.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

static REAPER: Mutex<Option<(Child, ChildStdin)>> = Mutex::new(None);

/// A message on the pipe: one byte for the kind, the group's id or the path, and a zero byte.
enum Message {
    RegisterGroup(RawPid),
    UnregisterGroup(RawPid),
    RegisterPath(PathBuf),
    UnregisterPath(PathBuf),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let (kind, content) = match self {
            Self::RegisterGroup(leader) => (b'g', leader.to_string().into_bytes()),
            Self::UnregisterGroup(leader) => (b'G', leader.to_string().into_bytes()),
            Self::RegisterPath(path) => (b'p', path.as_os_str().as_bytes().to_vec()),
            Self::UnregisterPath(path) => (b'P', path.as_os_str().as_bytes().to_vec()),
        };
        [&[kind], &content[..], &[0]].concat()
    }

    /// Without the zero byte.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, content) = bytes.split_first()?;
        let leader = || str::from_utf8(content).ok()?.parse().ok();
        let path = PathBuf::from(OsStr::from_bytes(content));
        Some(match kind {
            b'g' => Self::RegisterGroup(leader()?),
            b'G' => Self::UnregisterGroup(leader()?),
            b'p' => Self::RegisterPath(path),
            _ => Self::UnregisterPath(path),
        })
    }
}

fn send(message: &Message) -> io::Result<()> {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, pipe) = match &mut *reaper {
        Some(reaper) => reaper,
        none => none.insert(start()?),
    };
    pipe.write_all(&message.encode())
}

fn start() -> io::Result<(Child, ChildStdin)> {
    let mut command = reexec::reaper_command();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    let mut reaper = spawner::spawn(command)?;
    let pipe = reaper.stdin.take().ok_or_else(|| io::Error::other("the reaper has no pipe"))?;
    Ok((reaper, pipe))
}

/// Makes the reaper kill this process group after this process has ended.
pub(super) fn register_group(leader: Pid) -> io::Result<()> {
    send(&Message::RegisterGroup(leader.as_raw_nonzero().get()))
}

pub(super) fn unregister_group(leader: Pid) {
    log_failure(send(&Message::UnregisterGroup(leader.as_raw_nonzero().get())));
}

/// Makes the reaper remove `path` after this process has ended.
pub(super) fn register_path(path: &Path) -> io::Result<()> {
    send(&Message::RegisterPath(path.to_owned()))
}

pub(super) fn unregister_path(path: &Path) {
    log_failure(send(&Message::UnregisterPath(path.to_owned())));
}

/// A message that only unregisters may fail: its group or path is gone already.
fn log_failure(sent: io::Result<()>) {
    if let Err(error) = sent {
        tracing::warn!(%error, "a message can't be sent to the reaper");
    }
}

/// Ends the reaper, which first removes everything that is still registered. Called last, it leaves no process.
pub fn stop() {
    let reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((mut child, pipe)) = reaper {
        drop(pipe);
        if let Err(error) = child.wait() {
            tracing::warn!(%error, "can't wait for the reaper");
        }
    }
}

/// The reaper's `main`.
pub(super) fn run() {
    let _ = setsid(); // fails only for the leader of a group, which has its own session already
    let mut groups = BTreeSet::new();
    let mut paths = BTreeSet::new();
    // A broken pipe means the same as its end.
    let messages = BufReader::new(io::stdin()).split(0).map_while(Result::ok);
    for message in messages.filter_map(|bytes| Message::decode(&bytes)) {
        match message {
            Message::RegisterGroup(leader) => _ = groups.insert(leader),
            Message::UnregisterGroup(leader) => _ = groups.remove(&leader),
            Message::RegisterPath(path) => _ = paths.insert(path),
            Message::UnregisterPath(path) => _ = paths.remove(&path),
        }
    }
    let leaders: Vec<Pid> = groups.into_iter().filter_map(Pid::from_raw).collect();
    kill_groups(&leaders);
    for path in paths {
        remove(&path);
    }
}

fn kill_groups(leaders: &[Pid]) {
    let any_left = || leaders.iter().any(|leader| test_kill_process_group(*leader).is_ok());
    wait_while(DEATH_TIMEOUT, any_left);
    for leader in leaders {
        let _ = kill_process_group(*leader, Signal::KILL); // it fails if the group has ended
    }
    wait_while(DEATH_TIMEOUT, any_left);
}

fn wait_while(timeout: Duration, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + timeout;
    while condition() && Instant::now() < deadline {
        sleep(POLL_INTERVAL);
    }
}

fn remove(path: &Path) {
    wait_while(REMOVAL_TIMEOUT, || {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    });
}
