//! The user that a child runs as.

use rustix::process::geteuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// `nobody`, who owns no files.
    pub const NOBODY: Self = Self { uid: 65534, gid: 65534 };

    /// The user for programs that refuse to run as root: `nobody` if this process is root, else its own user (`None`).
    pub fn unprivileged() -> Option<Self> {
        geteuid().is_root().then_some(Self::NOBODY)
    }
}
