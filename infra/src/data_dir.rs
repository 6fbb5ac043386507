//! The folder of a server's files.

use std::path::{Path, PathBuf};

use crate::supervise::TempDir;

#[derive(Debug)]
pub enum DataDir {
    /// Removed with the server.
    Temporary(TempDir),
    Persistent(PathBuf),
}

impl DataDir {
    pub fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Persistent(path) => path,
        }
    }
}
