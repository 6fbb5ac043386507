//! Child processes that never outlive this process, and files that it never leaves behind, however it ends.
//!
//! Rust's `Command` can't set a parent-death signal without `unsafe`, so a child starts as a second run of this very
//! executable ([`child_entry`]): it drops privileges, sets `PR_SET_PDEATHSIG`, checks that its parent is still there,
//! and becomes the wanted program. That signal fires when the *thread* that spawned the child ends, so one thread that
//! lives as long as the process spawns all children. The reaper, a second process, removes what a `kill -9` of this
//! process would leave on disk.
//!
//! Not the crates process-wrap or `postgresql_embedded`: neither sets a death signal or removes files after a
//! `kill -9`, and the latter can't run PostgreSQL as another user, which it needs if the launcher runs as root.
//!
//! Every `main` that uses this module calls [`child_entry`] first and [`stop_reaper`] last.
//!
//! # Layout
//!
//! - `program`: a program to be started; `child`: a running one; `user`: the user it runs as
//! - `entry`: what a second run of this executable does; `reexec`: its command line; `spawner`: the thread that spawns
//! - `process_tree`: a process and its descendants
//! - `reaper`: the process that cleans up; `temp_dir`: files and folders that it removes

mod child;
mod entry;
mod process_tree;
mod program;
mod reaper;
mod reexec;
mod spawner;
mod temp_dir;
mod user;

pub use child::Child;
pub use entry::child_entry;
pub use program::Program;
pub use reaper::stop as stop_reaper;
pub use rustix::process::Signal;
pub use temp_dir::{TempDir, TempPath};
pub use user::User;
