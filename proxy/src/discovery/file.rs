//! The services file: read at start, then watched.
//!
//! What it may contain is in `declared`; `directory` makes services of it. An update that is wrong in any way changes
//! nothing: the last good one stays, and the mistakes are logged and counted.

use std::error::Error;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{info, warn};

use self::declared::{DeclaredService, Mistake, parse};
use crate::discovery::Shared;
use crate::watch::Watch;

pub(in crate::discovery) mod declared;

/// Whether `text` is a good services file; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn parses(text: &str) -> bool {
    parse(text, "default").is_ok()
}

/// A services file and the namespace that its short names are in.
#[derive(Debug)]
pub(in crate::discovery) struct ServicesFile {
    path: PathBuf,
    namespace: String,
}

impl ServicesFile {
    pub(in crate::discovery) fn new(path: PathBuf, namespace: &str) -> Self {
        Self {
            path,
            namespace: namespace.into(),
        }
    }

    /// Reads the whole file.
    pub(in crate::discovery) fn read(&self) -> Result<Vec<DeclaredService>, FileError> {
        self.parsed(&self.text()?)
    }

    /// Brings changes of the file into `shared`, for ever.
    pub(in crate::discovery) async fn follow(self, shared: &Shared) {
        let mut watch = Watch::new(&self.path);
        let mut seen = None;
        loop {
            let text = self.text();
            let now = text.as_ref().ok().map(digest);
            if seen != Some(now) {
                // What was read at start is taken in once more, which changes nothing, unless it changed in between.
                self.take_in(text, shared);
                seen = Some(now);
            }
            watch.changed().await;
        }
    }

    fn take_in(&self, text: Result<String, FileError>, shared: &Shared) {
        let metrics = &shared.metrics;
        match text.and_then(|text| self.parsed(&text)) {
            Ok(services) => {
                let count = services.len();
                let next = shared.directory.load().updated(services, &self.namespace);
                shared.directory.store(Arc::new(next));
                metrics.file_updates.fetch_add(1, Ordering::Relaxed);
                info!(file = %self.path.display(), services = count, "services file loaded");
            }
            Err(error) => {
                metrics.rejected_updates.fetch_add(1, Ordering::Relaxed);
                warn!(
                    error = &error as &dyn Error,
                    "services file refused, the last good one stays"
                );
            }
        }
    }

    fn text(&self) -> Result<String, FileError> {
        let mut text = String::new();
        let read = File::open(&self.path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        let read = read.and_then(|bytes| match u64::try_from(bytes) {
            Ok(bytes) if bytes <= MAX_BYTES => Ok(text),
            _ => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it has more than {MAX_BYTES} bytes"),
            )),
        });
        read.map_err(|source| FileError::Unreadable {
            path: self.path.clone(),
            source,
        })
    }

    fn parsed(&self, text: &str) -> Result<Vec<DeclaredService>, FileError> {
        parse(text, &self.namespace).map_err(|mistakes| FileError::Invalid {
            path: self.path.clone(),
            mistakes,
        })
    }
}

fn digest(text: &String) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Why a services file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("services file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("services file {} is invalid: {}", path.display(), listed(mistakes))]
    Invalid {
        path: PathBuf,
        mistakes: Vec<Mistake>,
    },
}

fn listed(mistakes: &[Mistake]) -> String {
    let shown: Vec<String> = mistakes
        .iter()
        .take(MAX_SHOWN)
        .map(Mistake::to_string)
        .collect();
    let more = mistakes.len().saturating_sub(MAX_SHOWN);
    let rest = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    shown.join("; ") + &rest
}

/// Largest file that is read: about 100,000 endpoints.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Mistakes that are told of; with more, the file is no services file at all.
const MAX_SHOWN: usize = 20;

#[cfg(test)]
mod tests;
