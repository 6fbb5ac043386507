//! Files and folders that go away with us.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::reaper;

/// A file or folder that is removed when this is dropped or the process ends, `kill -9` included.
#[derive(Debug)]
pub struct OwnedPath(PathBuf);

impl OwnedPath {
    /// To be called before it is created, so that there is no moment in which nobody owns it.
    ///
    /// # Errors
    /// If the reaper can't be started.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        reaper::add_path(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        let removed = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The reaper tries again once all our children are gone.
                tracing::warn!(path = %self.0.display(), %error, "can't remove a temporary path yet");
            }
            _ => reaper::forget_path(&self.0),
        }
    }
}

/// A temporary folder.
#[derive(Debug)]
pub struct Scratch(OwnedPath);

impl Scratch {
    /// A new folder `<name>-<random>` in `parent`. Others may pass through it, not list it: a child that
    /// runs as another user has its own folder inside.
    ///
    /// # Errors
    /// If it can't be created there.
    pub fn new(parent: &Path, name: &str) -> io::Result<Self> {
        let path = OwnedPath::new(parent.join(format!("{name}-{}", Uuid::new_v4().simple())))?;
        fs::create_dir(path.path())?;
        fs::set_permissions(path.path(), Permissions::from_mode(0o711))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
