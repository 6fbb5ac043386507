//! The files of exports, in a folder that all replicas share, or this machine's own.
//!
//! A file is written under another name, made to last, and only then given its own: whoever finds it finds it whole. Its
//! name says whose it is, of which attempt, and when it expires, so anybody can clear the folder, whatever became of the
//! one who wrote it; what isn't named so is left alone.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use tokio::fs::{self, DirBuilder, File, OpenOptions};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// How the name of a whole file ends, and of one that is being written.
const WHOLE: &str = "csv";
const DRAFT: &str = "part";

/// Of a folder that we make. One that is there, such as a volume, keeps what it has.
const FOLDER_MODE: u32 = 0o700;
/// Pods of one group may have users of their own.
const FILE_MODE: u32 = 0o640;

/// What one attempt's file is called, but for its ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    export: Uuid,
    attempt: i32,
    /// Unix time.
    expires: i64,
}

impl Name {
    pub fn new(export: Uuid, attempt: i32, expires_at: DateTime<Utc>) -> Self {
        // Never before the row.
        Self { export, attempt, expires: expires_at.timestamp() + 1 }
    }

    pub const fn attempt(self) -> i32 {
        self.attempt
    }

    /// Those of the attempts before.
    fn earlier(self) -> impl Iterator<Item = Self> {
        (1..self.attempt).map(move |attempt| Self { attempt, ..self })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.export, self.attempt, self.expires)
    }
}

impl FromStr for Name {
    type Err = ();

    /// Only what we would have written.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(());
        let name = Self {
            export: part()?.parse().map_err(drop)?,
            attempt: part()?.parse().map_err(drop)?,
            expires: part()?.parse().map_err(drop)?,
        };
        if name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

/// The folder. It is made when the first file is.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn path(&self, name: Name, ending: &str) -> PathBuf {
        self.0.join(format!("{name}.{ending}"))
    }

    /// Begins a file, and deletes what attempts before this one have left.
    ///
    /// # Errors
    /// The file system's.
    pub async fn begin(&self, name: Name) -> io::Result<Draft> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.0).await?;
        for earlier in name.earlier() {
            self.remove(earlier).await?;
        }
        let path = self.path(name, DRAFT);
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path).await?;
        Ok(Draft { folder: self.0.clone(), path, whole: self.path(name, WHOLE), file, bytes: 0 })
    }

    /// A whole file and how long it is.
    ///
    /// # Errors
    /// The file system's; `NotFound` also when it lies in another replica's folder.
    pub async fn open(&self, name: Name) -> io::Result<(File, u64)> {
        let file = File::open(self.path(name, WHOLE)).await?;
        let bytes = file.metadata().await?.len();
        Ok((file, bytes))
    }

    /// Deletes an attempt's file, whole or not, if it is there.
    ///
    /// # Errors
    /// The file system's.
    pub async fn remove(&self, name: Name) -> io::Result<()> {
        for ending in [WHOLE, DRAFT] {
            gone(fs::remove_file(self.path(name, ending)).await)?;
        }
        Ok(())
    }

    /// Deletes all files that have expired, and tells how many.
    ///
    /// # Errors
    /// The file system's, the first one; what could be deleted is.
    pub async fn sweep(&self, now: DateTime<Utc>) -> io::Result<usize> {
        let mut files = match fs::read_dir(&self.0).await {
            Ok(files) => files,
            // Nothing was ever exported here.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let (mut swept, mut result) = (0, Ok(()));
        while let Some(file) = files.next_entry().await? {
            let path = file.path();
            if named(&path).is_some_and(|name| name.expires <= now.timestamp()) {
                result = result.and(gone(fs::remove_file(&path).await));
                swept += 1;
            }
        }
        result.map(|()| swept)
    }
}

/// The name that a file of ours has.
fn named(path: &Path) -> Option<Name> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(WHOLE).or_else(|| name.strip_suffix(DRAFT))?.strip_suffix('.')?;
    stem.parse().ok()
}

/// Another replica may have deleted it first.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A file that nobody finds yet.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    path: PathBuf,
    whole: PathBuf,
    file: File,
    bytes: u64,
}

impl Draft {
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// The file system's.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes it last, and lets it be found.
    ///
    /// # Errors
    /// The file system's.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        fs::rename(&self.path, &self.whole).await?;
        match File::open(&self.folder).await?.sync_all().await {
            // Some network file systems know no such thing for a folder.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            synced => synced,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::new(scratch.path().join("made/when/needed"));
        (scratch, folder)
    }

    async fn files(folder: &Folder) -> Vec<String> {
        let mut names = Vec::new();
        let mut files = fs::read_dir(&folder.0).await.unwrap();
        while let Some(file) = files.next_entry().await.unwrap() {
            names.push(file.file_name().into_string().unwrap());
        }
        names.sort();
        names
    }

    #[tokio::test]
    async fn nobody_finds_what_is_not_whole() {
        let (_scratch, folder) = folder();
        let name = Name::new(Uuid::now_v7(), 1, Utc::now());
        let mut draft = folder.begin(name).await.unwrap();
        draft.write(b"half").await.unwrap();
        assert_eq!(folder.open(name).await.unwrap_err().kind(), ErrorKind::NotFound);
        draft.write(b" and half").await.unwrap();
        draft.finish().await.unwrap();
        let (_, bytes) = folder.open(name).await.unwrap();
        assert_eq!((bytes, draft.bytes()), (13, 13));
        assert_eq!(files(&folder).await, [format!("{name}.csv")]);
    }

    #[tokio::test]
    async fn an_attempt_clears_up_after_those_before() {
        let (_scratch, folder) = folder();
        let (export, now) = (Uuid::now_v7(), Utc::now());
        for attempt in 1..=3 {
            let mut draft = folder.begin(Name::new(export, attempt, now)).await.unwrap();
            if attempt == 2 {
                draft.finish().await.unwrap();
            }
        }
        assert_eq!(files(&folder).await, [format!("{}.part", Name::new(export, 3, now))]);
    }

    #[tokio::test]
    async fn only_what_is_ours_and_has_expired_is_swept() {
        let (_scratch, folder) = folder();
        let now = Utc::now();
        assert_eq!(folder.sweep(now).await.unwrap(), 0, "there is no folder");
        let names = [-10, 10].map(|secs| Name::new(Uuid::now_v7(), 1, now + TimeDelta::seconds(secs)));
        for name in names {
            folder.begin(name).await.unwrap().finish().await.unwrap();
            folder.begin(Name { attempt: 0, ..name }).await.unwrap();
        }
        let foreign = ["notes.csv", "a.1.0.csv", "00000000-0000-0000-0000-000000000000.1.0.txt"];
        for name in foreign.into_iter().chain(["00000000-0000-0000-0000-000000000000.01.0.csv"]) {
            fs::write(folder.0.join(name), "").await.unwrap();
        }
        assert_eq!(folder.sweep(now).await.unwrap(), 2);
        let left = files(&folder).await;
        assert_eq!(left.len(), 6, "{left:?}");
        assert!(left.contains(&format!("{}.csv", names[1])), "{left:?}");
        assert_eq!(folder.sweep(now + TimeDelta::seconds(12)).await.unwrap(), 2);
    }
}
