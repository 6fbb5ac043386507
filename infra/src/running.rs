//! The runtime file: how `tail` finds a running theater.
//!
//! One file per launcher, in `$XDG_RUNTIME_DIR/theater` or the cache. Its launcher holds a lock on it for as
//! long as it lives, so that a file that nobody has locked is a stale one, whoever has its pid now.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::supervise::OwnedPath;

/// What another process needs to know of a running theater.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub pid: u32,
    /// The gateway's URL.
    pub gateway: String,
    /// host:port of the broker.
    pub kafka: String,
    pub topic_prefix: String,
}

/// Keeps the file and its lock; dropped, the file is gone.
#[derive(Debug)]
pub struct Announcement {
    _locked: File,
    _path: OwnedPath,
}

/// The folder of the runtime files.
///
/// # Errors
/// If it can't be created.
pub fn folder() -> anyhow::Result<PathBuf> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = match runtime {
        Some(runtime) if runtime.is_dir() => runtime.join("theater"),
        _ => cache::directory()?.join("running"),
    };
    fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    Ok(folder)
}

/// Tells others of this theater, for as long as the result lives.
///
/// # Errors
/// If the file can't be written.
pub fn announce(folder: &Path, running: &Running) -> anyhow::Result<Announcement> {
    let path = folder.join(format!("{}.json", running.pid));
    let unfinished = folder.join(format!("{}.new", running.pid));
    let write = || {
        let owned = OwnedPath::new(path.clone())?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        // Locked before it has its name: nobody sees it without.
        file.lock()?;
        file.write_all(&serde_json::to_vec_pretty(running)?)?;
        fs::rename(&unfinished, &path)?;
        Ok::<_, std::io::Error>(Announcement { _locked: file, _path: owned })
    };
    write().with_context(|| format!("can't write {}", path.display()))
}

/// The theaters that run now, the one that started last first. Stale files are removed.
///
/// # Errors
/// If the folder can't be read.
pub fn find(folder: &Path) -> anyhow::Result<Vec<Running>> {
    let mut found: Vec<(_, Running)> = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        // One that vanishes meanwhile was no running theater's.
        let Ok(mut file) = File::open(&path) else { continue };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            Ok(()) => {
                fs::remove_file(&path)
                    .with_context(|| format!("can't remove the stale {}", path.display()))?;
                continue;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).context("can't look at a runtime file's lock");
            }
        }
        let started = file.metadata()?.modified()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let running = serde_json::from_str(&text);
        found.push((started, running.with_context(|| format!("{} is not of this version", path.display()))?));
    }
    found.sort_by_key(|(started, _)| std::cmp::Reverse(*started));
    Ok(found.into_iter().map(|(_, running)| running).collect())
}
