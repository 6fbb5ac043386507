//! What is fetched once and kept: Apache Kafka's jars, PostgreSQL's binaries.
//!
//! Under `$XDG_CACHE_HOME/theater`, else `~/.cache/theater`; for root `/var/cache/theater`, because root's home
//! is closed to the unprivileged user that PostgreSQL runs as.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::supervise::{Scratch, User};

/// The user's cache directory, created if it is missing.
///
/// # Errors
/// If there is none, or it can't be created.
pub fn directory() -> anyhow::Result<PathBuf> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = match (named("XDG_CACHE_HOME"), User::unprivileged(), named("HOME")) {
        (Some(base), _, _) => base,
        (None, Some(_), _) => PathBuf::from("/var/cache"),
        (None, None, Some(home)) => home.join(".cache"),
        (None, None, None) => {
            return Err(anyhow!("neither HOME nor XDG_CACHE_HOME is set: where is the cache?"));
        }
    };
    let directory = base.join("theater");
    fs::create_dir_all(&directory).with_context(|| {
        format!("can't create the cache folder {} (XDG_CACHE_HOME chooses another)", directory.display())
    })?;
    Ok(directory)
}

/// The cached folder `name`; if it isn't there, `fill` makes it. It appears whole or not at all: what is
/// cut short leaves nothing behind.
///
/// # Errors
/// What `fill` returns, or if the cache can't be written.
pub async fn folder(
    name: &str,
    fill: impl AsyncFnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let cache = directory()?;
    let wanted = cache.join(name);
    if wanted.is_dir() {
        return Ok(wanted);
    }
    let partial = Scratch::new(&cache, &format!(".partial-{name}"))
        .with_context(|| format!("can't write to the cache folder {}", cache.display()))?;
    let content = partial.path().join("content");
    fs::create_dir(&content)?;
    fill(&content).await?;
    fs::set_permissions(&content, Permissions::from_mode(0o755))?;
    match fs::rename(&content, &wanted) {
        Err(_) if wanted.is_dir() => Ok(wanted), // another process was faster
        result => result.map(|()| wanted).context("can't put the folder into the cache"),
    }
}

/// Whether `user` may enter `path`: every folder above it is open to others, and it itself too.
pub fn open_to(user: Option<User>, path: &Path) -> bool {
    let Some(user) = user else { return true };
    path.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|meta| {
            let bit = if meta.uid() == user.uid { 0o100 } else { 0o001 };
            meta.mode() & bit != 0
        })
    })
}

/// Where temporary folders go: the usual place, or `/tmp` if `user` may not pass through that.
pub fn temporary(user: Option<User>) -> PathBuf {
    let usual = env::temp_dir();
    if open_to(user, &usual) { usual } else { PathBuf::from("/tmp") }
}
