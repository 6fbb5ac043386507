//! The server's folder, its password and its first data.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use uuid::Uuid;

use super::binaries::ALTERNATIVE;
use crate::cache;
use crate::data_dir::DataDir;
use crate::supervise::{Program, TempDir, User};

pub(super) const SUPERUSER: &str = "postgres";

pub(super) fn data_path(folder: &DataDir) -> PathBuf {
    folder.path().join("data")
}

pub(super) fn log_path(folder: &DataDir) -> PathBuf {
    folder.path().join("postgres.log")
}

/// The server's folder: below `parent` if given, else a temporary one.
pub(super) fn create_folder(parent: Option<&Path>) -> anyhow::Result<DataDir> {
    let user = User::unprivileged();
    match parent {
        Some(parent) => persistent_folder(parent, user).map(DataDir::Persistent),
        None => temporary_folder(user).map(DataDir::Temporary),
    }
}

fn temporary_folder(user: Option<User>) -> anyhow::Result<TempDir> {
    let parent = cache::temp_root(user);
    let folder = TempDir::new(&parent, "theater-postgres").with_context(|| {
        format!("can't make a temporary folder in {} (TMPDIR chooses another)", parent.display())
    })?;
    create_data_folder(folder.path(), user)?;
    Ok(folder)
}

fn persistent_folder(parent: &Path, user: Option<User>) -> anyhow::Result<PathBuf> {
    let folder = parent.join("postgres");
    fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    create_data_folder(&folder, user)?;
    if !cache::is_accessible_to(user, &folder) {
        bail!(
            "PostgreSQL can't use {}: it does not run as root, and its user {} may not enter that folder. \
             Choose another --data folder, or open the folders above it (chmod o+x)",
            folder.display(),
            User::NOBODY.uid,
        );
    }
    Ok(folder)
}

fn create_data_folder(folder: &Path, user: Option<User>) -> anyhow::Result<()> {
    let data = folder.join("data");
    if data.is_dir() {
        return Ok(());
    }
    fs::create_dir(&data)?;
    fs::set_permissions(&data, Permissions::from_mode(0o700))?;
    if let Some(user) = user {
        chown(&data, Some(user.uid), Some(user.gid))
            .with_context(|| format!("can't give {} to user {}", data.display(), user.uid))?;
    }
    Ok(())
}

/// Runs initdb if there are no data yet. Returns the superuser's password.
pub(super) async fn init_data(
    folder: &DataDir,
    binaries: &Path,
    user: Option<User>,
) -> anyhow::Result<String> {
    let data = data_path(folder);
    let password_file = folder.path().join("password");
    if data.join("PG_VERSION").exists() {
        return fs::read_to_string(&password_file)
            .with_context(|| format!("can't read {}", password_file.display()));
    }
    // initdb refuses the remains of a start that was cut short.
    fs::remove_dir_all(&data)?;
    create_data_folder(folder.path(), user)?;
    let password = create_password(&password_file, user)?;

    let mut initdb = Command::new(binaries.join("initdb"));
    initdb.current_dir(&data).arg("-D").arg(&data).arg("--pwfile").arg(&password_file);
    initdb.args(["--no-sync", "--no-locale", "--encoding=UTF8", "--username", SUPERUSER]);
    initdb.args(["--auth-local=reject", "--auth-host=password"]);
    let child = Program::new(initdb, log_path(folder)).user(user).spawn().context("can't start initdb")?;
    let status = child.exited().await;
    if !status.success() {
        bail!("initdb failed ({status}):\n{}\n{ALTERNATIVE}", child.log_tail());
    }
    Ok(password)
}

/// Writes a random password to a file that only `user` can read.
fn create_password(file: &Path, user: Option<User>) -> anyhow::Result<String> {
    let password = Uuid::new_v4().simple().to_string();
    let _ = fs::remove_file(file);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(password.as_bytes())?;
    if let Some(user) = user {
        chown(file, Some(user.uid), Some(user.gid))?;
    }
    Ok(password)
}
