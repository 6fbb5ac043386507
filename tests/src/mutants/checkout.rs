//! A copy of the tracked files in a folder of its own, so that the working tree never changes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::Mutant;

pub struct Checkout {
    pub root: PathBuf,
    /// The original texts of the files that are mutated at the moment.
    originals: Vec<(PathBuf, String)>,
}

/// The root of the sources from which this program was built.
pub fn source_root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

impl Checkout {
    /// Copies the tracked files with their uncommitted changes. A file that is the same in `root` keeps its modification
    /// time, so that it is not built again. Files that are no longer tracked are deleted.
    ///
    /// # Errors
    /// If Git fails, or a file can't be read or written.
    pub fn copy(root: PathBuf) -> anyhow::Result<Self> {
        let source = source_root();
        let output = Command::new("git").arg("-C").arg(&source).args(["ls-files", "-z"]).output()?;
        ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8(output.stdout).context("the name of a file")?;
        let files: BTreeSet<PathBuf> = listed
            .split_terminator('\0')
            .map(PathBuf::from)
            .filter(|file| source.join(file).is_file())
            .collect();
        ensure!(!files.is_empty(), "nothing is tracked in {}", source.display());
        for file in &files {
            copy_if_changed(&source.join(file), &root.join(file))
                .with_context(|| file.display().to_string())?;
        }
        remove_untracked(&root, &root, &files)?;
        Ok(Self { root, originals: Vec::new() })
    }

    /// Applies a mutant's edits to the copy.
    ///
    /// # Errors
    /// If an edit doesn't apply.
    pub fn mutate(&mut self, mutant: &Mutant) -> anyhow::Result<()> {
        for (file, text) in mutant.apply(|file| fs::read_to_string(self.root.join(file)))? {
            let path = self.root.join(file);
            self.originals.push((path.clone(), fs::read_to_string(&path)?));
            fs::write(path, text)?;
        }
        Ok(())
    }

    /// Writes the original texts back. They come from memory, as the working tree may have changed since the copy.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn restore(&mut self) -> io::Result<()> {
        for (path, text) in self.originals.drain(..) {
            fs::write(path, text)?;
        }
        Ok(())
    }
}

fn copy_if_changed(from: &Path, to: &Path) -> io::Result<()> {
    let content = fs::read(from)?;
    if fs::read(to).is_ok_and(|before| before == content) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, content)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

fn remove_untracked(root: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_untracked(root, &path, files)?;
        } else if !files.contains(path.strip_prefix(root)?) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
