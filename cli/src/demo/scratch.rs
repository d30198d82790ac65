//! The directory of one run: owner-only, removed at the end, and by the next run should this one be killed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

/// A directory that lives as long as this value.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Locked while we run, so that another run can tell a living directory from a forgotten one.
    _lock: File,
}

impl Scratch {
    /// Makes a new directory below `parent`, readable by nobody but us, after removing what earlier runs left.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn create(parent: &Path) -> anyhow::Result<Self> {
        remove_forgotten(parent);
        let name = format!("{PREFIX}{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = parent.join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("make the directory {}", path.display()))?;
        let lock = locked(&path).with_context(|| format!("lock {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a directory in this one, owner-only too.
    ///
    /// # Errors
    /// It exists or cannot be made.
    pub(crate) fn directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("make the directory {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file that only we can read.
    ///
    /// # Errors
    /// It exists or cannot be written.
    pub(crate) fn file(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        let written = new_file(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_for_the_next_run = fs::remove_dir_all(&self.path);
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn locked(directory: &Path) -> io::Result<File> {
    let lock = new_file(&directory.join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Removes directories whose run has ended: those with a lock that nobody holds.
fn remove_forgotten(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let free = File::open(entry.path().join(LOCK))
            .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        if free {
            let _of_another_user = fs::remove_dir_all(entry.path());
        }
    }
}

const PREFIX: &str = "weft-demo-";
const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn directory_is_owner_only_and_gone_at_the_end() {
        let outer = Scratch::create(&std::env::temp_dir()).unwrap();
        let scratch = Scratch::create(&outer.directory("a").unwrap()).unwrap();
        let path = scratch.path("token");
        scratch.file("token", "secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(scratch);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_a_living_one_uses_is_not() {
        let outer = Scratch::create(&std::env::temp_dir()).unwrap();
        let parent = outer.directory("b").unwrap();
        let living = Scratch::create(&parent).unwrap();
        let killed = parent.join(format!("{PREFIX}1-dead"));
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        let _next = Scratch::create(&parent).unwrap();
        assert!(!killed.exists());
        assert!(living.path(LOCK).exists());
    }
}
