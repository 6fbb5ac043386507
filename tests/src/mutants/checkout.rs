//! A copy of the tracked files, in a folder of its own: the working tree is never touched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::Mutant;

pub struct Checkout {
    pub root: PathBuf,
    /// What the files say otherwise that are mutated just now.
    originals: Vec<(PathBuf, String)>,
}

/// Where the sources are that this program was built from.
pub fn source() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

impl Checkout {
    /// Copies what is tracked, as it lies there. What is the same in `root` already keeps its time, so that it is not
    /// built again; what is no longer tracked goes.
    ///
    /// # Errors
    /// Git's; files that can't be read or written.
    pub fn copy(root: PathBuf) -> anyhow::Result<Self> {
        let source = source();
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
            copy(&source.join(file), &root.join(file)).with_context(|| file.display().to_string())?;
        }
        remove_others(&root, &root, &files)?;
        Ok(Self { root, originals: Vec::new() })
    }

    /// Makes it the mutant.
    ///
    /// # Errors
    /// An edit that doesn't apply.
    pub fn mutate(&mut self, mutant: &Mutant) -> anyhow::Result<()> {
        for (file, text) in mutant.apply(|file| fs::read_to_string(self.root.join(file)))? {
            let path = self.root.join(file);
            self.originals.push((path.clone(), fs::read_to_string(&path)?));
            fs::write(path, text)?;
        }
        Ok(())
    }

    /// Makes it what it was: the working tree may have changed since.
    ///
    /// # Errors
    /// Files that can't be written.
    pub fn restore(&mut self) -> io::Result<()> {
        for (path, text) in self.originals.drain(..) {
            fs::write(path, text)?;
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
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

fn remove_others(root: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(root, &path, files)?;
        } else if !files.contains(path.strip_prefix(root)?) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
