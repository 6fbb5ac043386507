//! The files of exports, in a folder that all replicas share, or in a local one.
//!
//! A file is written under a temporary name, flushed to disk, and only then renamed, so readers find only complete
//! files. Its name contains the export, the attempt and the expiry, so any process can delete expired files without the
//! database, even if the writer has crashed. Files with other names are left alone.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use tokio::fs::{self, DirBuilder, File, OpenOptions};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// The extension of a complete file, and of one that is being written.
const COMPLETE: &str = "csv";
const PARTIAL: &str = "part";

/// The mode of a folder that is created here. An existing one, such as a volume, keeps its own.
const FOLDER_MODE: u32 = 0o700;
/// The group may read: pods of one group may run as different users.
const FILE_MODE: u32 = 0o640;

/// The name of one attempt's file, without the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName {
    export: Uuid,
    attempt: i32,
    /// Unix time.
    expires: i64,
}

impl FileName {
    pub fn new(export: Uuid, attempt: i32, expires_at: DateTime<Utc>) -> Self {
        // Rounded up: the file doesn't expire before the row.
        Self { export, attempt, expires: expires_at.timestamp() + 1 }
    }

    pub const fn attempt(self) -> i32 {
        self.attempt
    }

    fn earlier_attempts(self) -> impl Iterator<Item = Self> {
        (1..self.attempt).map(move |attempt| Self { attempt, ..self })
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.export, self.attempt, self.expires)
    }
}

impl FromStr for FileName {
    type Err = ();

    /// Accepts only what `Display` writes.
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

/// The folder. It is created with the first file.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn path(&self, name: FileName, extension: &str) -> PathBuf {
        self.0.join(format!("{name}.{extension}"))
    }

    /// Creates a file, and deletes those of the export's earlier attempts.
    ///
    /// # Errors
    /// If the file system fails.
    pub async fn create(&self, name: FileName) -> io::Result<PartialFile> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.0).await?;
        for earlier in name.earlier_attempts() {
            self.remove(earlier).await?;
        }
        let path = self.path(name, PARTIAL);
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path).await?;
        Ok(PartialFile {
            folder: self.0.clone(),
            path,
            complete_path: self.path(name, COMPLETE),
            file,
            bytes: 0,
        })
    }

    /// Opens a complete file. Returns it and its length.
    ///
    /// # Errors
    /// If the file system fails; `NotFound` also if the file is in another replica's folder.
    pub async fn open(&self, name: FileName) -> io::Result<(File, u64)> {
        let file = File::open(self.path(name, COMPLETE)).await?;
        let bytes = file.metadata().await?.len();
        Ok((file, bytes))
    }

    /// Deletes an attempt's file, complete or partial, if it exists.
    ///
    /// # Errors
    /// If the file system fails.
    pub async fn remove(&self, name: FileName) -> io::Result<()> {
        for extension in [COMPLETE, PARTIAL] {
            ignore_not_found(fs::remove_file(self.path(name, extension)).await)?;
        }
        Ok(())
    }

    /// Deletes all expired files, and returns their number.
    ///
    /// # Errors
    /// The first error of the file system. Other files are deleted all the same.
    pub async fn delete_expired(&self, now: DateTime<Utc>) -> io::Result<usize> {
        let mut files = match fs::read_dir(&self.0).await {
            Ok(files) => files,
            // Nothing was exported here yet.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let (mut deleted, mut result) = (0, Ok(()));
        while let Some(file) = files.next_entry().await? {
            let path = file.path();
            if parse_file_name(&path).is_some_and(|name| name.expires <= now.timestamp()) {
                result = result.and(ignore_not_found(fs::remove_file(&path).await));
                deleted += 1;
            }
        }
        result.map(|()| deleted)
    }
}

/// The name of an export's file; `None` for other files.
fn parse_file_name(path: &Path) -> Option<FileName> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(COMPLETE).or_else(|| name.strip_suffix(PARTIAL))?.strip_suffix('.')?;
    stem.parse().ok()
}

/// Another replica may have deleted the file first.
fn ignore_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A file that is being written. Readers don't find it.
#[derive(Debug)]
pub struct PartialFile {
    folder: PathBuf,
    path: PathBuf,
    complete_path: PathBuf,
    file: File,
    bytes: u64,
}

impl PartialFile {
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// If the file system fails.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Flushes the file to disk, and renames it so that readers find it.
    ///
    /// # Errors
    /// If the file system fails.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        fs::rename(&self.path, &self.complete_path).await?;
        match File::open(&self.folder).await?.sync_all().await {
            // Some network file systems can't flush a folder.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let temp_dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(temp_dir.path().join("created/when/needed"));
        (temp_dir, folder)
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
    async fn readers_find_only_complete_files() {
        let (_temp_dir, folder) = folder();
        let name = FileName::new(Uuid::now_v7(), 1, Utc::now());
        let mut file = folder.create(name).await.unwrap();
        file.write(b"half").await.unwrap();
        assert_eq!(folder.open(name).await.unwrap_err().kind(), ErrorKind::NotFound);
        file.write(b" and half").await.unwrap();
        file.finish().await.unwrap();
        let (_, bytes) = folder.open(name).await.unwrap();
        assert_eq!((bytes, file.bytes()), (13, 13));
        assert_eq!(files(&folder).await, [format!("{name}.csv")]);
    }

    #[tokio::test]
    async fn an_attempt_deletes_the_files_of_earlier_ones() {
        let (_temp_dir, folder) = folder();
        let (export, now) = (Uuid::now_v7(), Utc::now());
        for attempt in 1..=3 {
            let mut file = folder.create(FileName::new(export, attempt, now)).await.unwrap();
            if attempt == 2 {
                file.finish().await.unwrap();
            }
        }
        assert_eq!(files(&folder).await, [format!("{}.part", FileName::new(export, 3, now))]);
    }

    #[tokio::test]
    async fn only_expired_files_of_exports_are_deleted() {
        let (_temp_dir, folder) = folder();
        let now = Utc::now();
        assert_eq!(folder.delete_expired(now).await.unwrap(), 0, "there is no folder");
        let names = [-10, 10].map(|secs| FileName::new(Uuid::now_v7(), 1, now + TimeDelta::seconds(secs)));
        for name in names {
            folder.create(name).await.unwrap().finish().await.unwrap();
            folder.create(FileName { attempt: 0, ..name }).await.unwrap();
        }
        let foreign = ["notes.csv", "a.1.0.csv", "00000000-0000-0000-0000-000000000000.1.0.txt"];
        for name in foreign.into_iter().chain(["00000000-0000-0000-0000-000000000000.01.0.csv"]) {
            fs::write(folder.0.join(name), "").await.unwrap();
        }
        assert_eq!(folder.delete_expired(now).await.unwrap(), 2);
        let left = files(&folder).await;
        assert_eq!(left.len(), 6, "{left:?}");
        assert!(left.contains(&format!("{}.csv", names[1])), "{left:?}");
        assert_eq!(folder.delete_expired(now + TimeDelta::seconds(12)).await.unwrap(), 2);
    }
}
