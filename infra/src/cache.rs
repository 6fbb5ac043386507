//! The cache of downloads: Apache Kafka's jars, PostgreSQL's binaries.
//!
//! It is `$XDG_CACHE_HOME/theater`, else `~/.cache/theater`; for root `/var/cache/theater`, because the unprivileged user
//! that PostgreSQL runs as can't enter root's home.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::supervise::{TempDir, User};

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

/// Returns the cached folder `name`. If it is missing, `fill` creates its content. The folder appears complete or not at
/// all: if `fill` is cut short, nothing is left behind.
///
/// # Errors
/// That of `fill`, or if the cache can't be written.
pub async fn get_or_fill(
    name: &str,
    fill: impl AsyncFnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let cache = directory()?;
    let cached = cache.join(name);
    if cached.is_dir() {
        return Ok(cached);
    }
    let partial = TempDir::new(&cache, &format!(".partial-{name}"))
        .with_context(|| format!("can't write to the cache folder {}", cache.display()))?;
    let content = partial.path().join("content");
    fs::create_dir(&content)?;
    fill(&content).await?;
    fs::set_permissions(&content, Permissions::from_mode(0o755))?;
    match fs::rename(&content, &cached) {
        Err(_) if cached.is_dir() => Ok(cached), // another process was faster
        result => result.map(|()| cached).context("can't put the folder into the cache"),
    }
}

/// Whether `user` may enter `path` and every folder above it.
pub fn is_accessible_to(user: Option<User>, path: &Path) -> bool {
    let Some(user) = user else { return true };
    path.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|meta| {
            let bit = if meta.uid() == user.uid { 0o100 } else { 0o001 };
            meta.mode() & bit != 0
        })
    })
}

/// The parent of temporary folders: the usual one, or `/tmp` if `user` can't enter that.
pub fn temp_root(user: Option<User>) -> PathBuf {
    let usual = env::temp_dir();
    if is_accessible_to(user, &usual) { usual } else { PathBuf::from("/tmp") }
}
