//! The keys that tokens are signed with, from a file or a URL (RFC 7517).
//!
//! They are read again from time to time, and at once, though not often, when a token names a key that is not among them. When reading
//! fails the last good keys stay.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;
use weft_certs::fetch::{FetchError, fetch};
use weft_certs::jwt::error::KeySetError;
use weft_certs::jwt::keyset::KeySet;

/// Where the keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// A URL, and the file with the roots that an `https` server is verified by.
    Url {
        /// `http` or `https`.
        url: http::Uri,
        /// PEM.
        roots: PathBuf,
    },
}

/// Published keys, as they were last read.
pub struct Keys {
    source: KeySource,
    current: ArcSwapOption<KeySet>,
    last_read: Mutex<Option<Instant>>,
    /// When a token last caused a reading; held while reading, so that there is one at a time.
    last_miss: tokio::sync::Mutex<Option<Instant>>,
}

impl Keys {
    /// Knows no keys before the first [`Keys::refresh`].
    #[must_use]
    pub fn new(source: KeySource) -> Self {
        Self {
            source,
            current: ArcSwapOption::empty(),
            last_read: Mutex::default(),
            last_miss: tokio::sync::Mutex::default(),
        }
    }

    /// Reads the keys if they are in a file, so that a mistake in its name is found at the start; a URL may come to life later.
    ///
    /// # Errors
    /// As [`Keys::refresh`].
    pub fn read_file(&self) -> Result<(), KeyError> {
        match &self.source {
            KeySource::File(path) => self.take(&read(path)?),
            KeySource::Url { .. } => Ok(()),
        }
    }

    /// Reads the keys; those that were known stay if that fails.
    ///
    /// # Errors
    /// If they cannot be read, or there is none among them that can be used.
    pub async fn refresh(&self) -> Result<(), KeyError> {
        *self.last_read.lock() = Some(Instant::now());
        match &self.source {
            KeySource::File(path) => self.take(&read(path)?),
            KeySource::Url { url, roots } => {
                self.take(&fetch(url, roots).await.map_err(KeyError::Fetch)?)
            }
        }
    }

    fn take(&self, text: &str) -> Result<(), KeyError> {
        self.current.store(Some(Arc::new(KeySet::parse(text)?)));
        Ok(())
    }

    /// Reads the keys again if they are old: a file each time it is asked, a URL every few minutes, or sooner if it has failed.
    ///
    /// # Errors
    /// As [`Keys::refresh`].
    pub async fn refresh_if_due(&self) -> Result<(), KeyError> {
        let interval = match (&self.source, self.current.load().is_some()) {
            (KeySource::File(_), _) => Duration::ZERO,
            (KeySource::Url { .. }, true) => URL_INTERVAL,
            (KeySource::Url { .. }, false) => MISS_INTERVAL,
        };
        if self
            .last_read
            .lock()
            .is_some_and(|last| last.elapsed() < interval)
        {
            return Ok(());
        }
        self.refresh().await
    }

    /// Returns the keys to verify a token with that names `kid`; reads them again, though not often, if that name is not among them.
    ///
    /// # Errors
    /// If no keys were ever read.
    pub async fn for_token(&self, kid: Option<&str>) -> Result<Arc<KeySet>, KeyError> {
        let known = self.current.load_full();
        if let Some(keys) = known.filter(|keys| keys.named(kid).next().is_some()) {
            return Ok(keys);
        }
        self.refresh_after_miss().await;
        self.current.load_full().ok_or(KeyError::Never)
    }

    async fn refresh_after_miss(&self) {
        let mut last = self.last_miss.lock().await;
        if last.is_some_and(|last| last.elapsed() < MISS_INTERVAL) {
            return;
        }
        if let Err(error) = self.refresh().await {
            warn!(%error, cause = ?std::error::Error::source(&error), "keys not read");
        }
        *last = Some(Instant::now());
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url { url, .. } => url.fmt(f),
        }
    }
}

/// Why there are no keys, or no new ones.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A URL that does not answer as it should.
    #[error("cannot fetch the keys")]
    Fetch(#[source] FetchError),
    /// What was read is no key set that can be used.
    #[error("cannot use the keys")]
    Set(#[from] KeySetError),
    /// Reading has not worked yet.
    #[error("the keys have not been read yet")]
    Never,
}

fn read(path: &Path) -> Result<String, KeyError> {
    fs::read_to_string(path).map_err(|source| KeyError::File {
        path: path.to_owned(),
        source,
    })
}

/// Between two readings of a URL that works.
const URL_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Between two readings that tokens with unknown keys can cause.
const MISS_INTERVAL: Duration = Duration::from_secs(10);
