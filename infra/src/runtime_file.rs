//! The runtime file, by which `tail` and `demo` find a running theater.
//!
//! Each launcher writes one, in `$XDG_RUNTIME_DIR/theater` or the cache, and keeps it locked while it runs. So an
//! unlocked file is stale, even if another process has its pid now.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::supervise::TempPath;

/// The description of a running theater, for other processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningTheater {
    pub pid: u32,
    /// The gateway's URL.
    pub gateway: String,
    /// host:port of the broker.
    pub kafka: String,
    pub topic_prefix: String,
}

/// This theater's file and its lock. Dropping it removes the file.
#[derive(Debug)]
pub struct RuntimeFile {
    _locked: File,
    _path: TempPath,
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

/// Announces a theater to other processes, until the result is dropped.
///
/// # Errors
/// If the file can't be written.
pub fn announce(folder: &Path, theater: &RunningTheater) -> anyhow::Result<RuntimeFile> {
    let path = folder.join(format!("{}.json", theater.pid));
    let unfinished = folder.join(format!("{}.new", theater.pid));
    let write = || {
        let path_guard = TempPath::new(path.clone())?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        // Locked before it gets its name: no process sees it unlocked.
        file.lock()?;
        file.write_all(&serde_json::to_vec_pretty(theater)?)?;
        fs::rename(&unfinished, &path)?;
        Ok::<_, std::io::Error>(RuntimeFile { _locked: file, _path: path_guard })
    };
    write().with_context(|| format!("can't write {}", path.display()))
}

/// The running theaters, the latest first. Removes stale files.
///
/// # Errors
/// If the folder can't be read.
pub fn find(folder: &Path) -> anyhow::Result<Vec<RunningTheater>> {
    let mut found: Vec<(_, RunningTheater)> = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        // A file that has vanished meanwhile is of a theater that has ended.
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
