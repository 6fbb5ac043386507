//! Files and folders that are removed when this process ends.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::reaper;

/// A file or folder that is removed when this is dropped or the process ends, also by `kill -9`, which the crate
/// `tempfile` can't do.
#[derive(Debug)]
pub struct TempPath(PathBuf);

impl TempPath {
    /// Call it before the file is created: then it is registered at every moment of its existence.
    ///
    /// # Errors
    /// If the reaper can't be started.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        reaper::register_path(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let removed = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The reaper tries again after all children have ended.
                tracing::warn!(path = %self.0.display(), %error, "can't remove a temporary path yet");
            }
            _ => reaper::unregister_path(&self.0),
        }
    }
}

/// A temporary folder.
#[derive(Debug)]
pub struct TempDir(TempPath);

impl TempDir {
    /// Creates the folder `<name>-<random>` in `parent`. Other users may pass through it, not list it: a child that
    /// runs as another user has a folder of its own inside.
    ///
    /// # Errors
    /// If it can't be created there.
    pub fn new(parent: &Path, name: &str) -> io::Result<Self> {
        let path = TempPath::new(parent.join(format!("{name}-{}", Uuid::new_v4().simple())))?;
        fs::create_dir(path.path())?;
        fs::set_permissions(path.path(), Permissions::from_mode(0o711))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
