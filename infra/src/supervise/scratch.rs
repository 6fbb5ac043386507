//! Folders that go away with us.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::reaper;

/// A folder that is removed when this is dropped or the process ends, `kill -9` included.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new folder `<name>-<random>` in `parent`. Others may pass through it, not list it: a child that
    /// runs as another user has its own folder inside.
    ///
    /// # Errors
    /// If it can't be created there.
    pub fn new(parent: &Path, name: &str) -> io::Result<Self> {
        let path = parent.join(format!("{name}-{}", Uuid::new_v4().simple()));
        reaper::add_path(&path)?;
        fs::create_dir(&path)?;
        let scratch = Self { path };
        fs::set_permissions(&scratch.path, Permissions::from_mode(0o711))?;
        Ok(scratch)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The reaper tries again once all our children are gone.
                tracing::warn!(path = %self.path.display(), %error, "can't remove a temporary folder yet");
            }
            _ => reaper::forget_path(&self.path),
        }
    }
}
