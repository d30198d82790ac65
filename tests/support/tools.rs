//! Outside software: where it is, and what to do when it is not there.
//!
//! `.ci/install` installs all of it, from Debian packages and into a cache directory of the user's own.

use std::path::{Path, PathBuf};

use crate::skip::skip;

/// Returns where `programs` are, in their order, or skips the running test and returns `None`.
pub fn require<const N: usize>(programs: [&str; N]) -> Option<[PathBuf; N]> {
    let found = programs.map(|program| (program, find(program)));
    let missing: Vec<&str> = found
        .iter()
        .filter(|(_, path)| path.is_none())
        .map(|(program, _)| *program)
        .collect();
    if missing.is_empty() {
        return Some(found.map(|(_, path)| path.unwrap()));
    }
    skip(&format!(
        "{} not installed; .ci/install installs what tests need",
        missing.join(", ")
    ));
    None
}

/// Returns the Python with the packages that `.ci/install` lists, or skips the running test and returns `None`.
pub fn require_python() -> Option<PathBuf> {
    let python = cache().join("python/bin/python");
    if python.exists() {
        return Some(python);
    }
    skip("the Python packages are not installed; .ci/install installs what tests need");
    None
}

/// Looks for `program` in the cache, in `PATH`, and where Debian keeps servers.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let mut folders = vec![cache().join("bin")];
    folders.extend(std::env::split_paths(&path));
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.extend(postgres_folders());
    folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Debian keeps PostgreSQL's servers by version, outside of `PATH`.
fn postgres_folders() -> Vec<PathBuf> {
    let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect()
}

fn cache() -> PathBuf {
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from);
    base.unwrap_or_else(|| PathBuf::from(variable("HOME").unwrap_or_default()).join(".cache"))
        .join("weft-tools")
}

#[expect(
    clippy::disallowed_methods,
    reason = "where programs are is told by the environment of whoever runs the tests"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
