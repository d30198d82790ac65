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
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::token::fetch::{FetchError, fetch};

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
    current: ArcSwapOption<Vec<Key>>,
    last_read: Mutex<Option<Instant>>,
    /// When a token last caused a reading; held while reading, so that there is one at a time.
    last_miss: tokio::sync::Mutex<Option<Instant>>,
}

/// One key that can sign tokens.
#[derive(Clone)]
pub struct Key {
    /// Its name, if it has one.
    pub kid: Option<String>,
    /// What it may be used with.
    pub algorithms: Vec<Algorithm>,
    /// Itself.
    pub decoding: DecodingKey,
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
        self.current.store(Some(Arc::new(parse(text)?)));
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

    /// Returns the keys that a token may be signed with: those of its name, or all if it names none.
    ///
    /// # Errors
    /// If no keys were ever read.
    pub async fn candidates(&self, kid: Option<&str>) -> Result<Vec<Key>, KeyError> {
        let found = self.named(kid);
        if !found.is_empty() {
            return Ok(found);
        }
        self.refresh_after_miss().await;
        match self.current.load().is_some() {
            true => Ok(self.named(kid)),
            false => Err(KeyError::Never),
        }
    }

    fn named(&self, kid: Option<&str>) -> Vec<Key> {
        let current = self.current.load();
        let keys = current.iter().flat_map(|keys| keys.iter());
        keys.filter(|key| kid.is_none() || key.kid.as_deref() == kid)
            .cloned()
            .collect()
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
    /// Not a JSON object with `keys`.
    #[error("the key set is broken")]
    Format(#[from] serde_json::Error),
    /// A key that cannot be written or does not sign.
    #[error("the key cannot be used")]
    Key(#[from] jsonwebtoken::errors::Error),
    /// A set without a public signature key of a kind we know.
    #[error("the key set has no key that signs tokens")]
    NoneUsable,
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

#[derive(serde::Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// "Implementations SHOULD ignore JWKs within a JWK Set that use "kty" values that are not understood" (RFC 7517 section 5).
fn parse(text: &str) -> Result<Vec<Key>, KeyError> {
    let set: Set = serde_json::from_str(text)?;
    let keys = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value(key).ok());
    let keys: Vec<Key> = keys
        .filter_map(|jwk: Jwk| usable(&jwk))
        .take(MAX_KEYS)
        .collect();
    match keys.is_empty() {
        true => Err(KeyError::NoneUsable),
        false => Ok(keys),
    }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    let for_signatures = jwk
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let mut algorithms = algorithms(&jwk.algorithm);
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| format!("{algorithm:?}") == only.to_string());
    }
    let decoding = DecodingKey::from_jwk(jwk).ok()?;
    let usable = for_signatures && !algorithms.is_empty();
    usable.then(|| Key {
        kid: jwk.common.key_id.clone(),
        algorithms,
        decoding,
    })
}

/// What a kind of key can sign; a secret shared with the issuer signs nothing here.
fn algorithms(parameters: &AlgorithmParameters) -> Vec<Algorithm> {
    match parameters {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            EllipticCurve::P521 | EllipticCurve::Ed25519 => vec![],
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        AlgorithmParameters::OctetKey(_) => vec![],
    }
}

/// Between two readings of a URL that works.
const URL_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Between two readings that tokens with unknown keys can cause.
const MISS_INTERVAL: Duration = Duration::from_secs(10);
/// Keys of a set that are looked at; issuers publish two or three.
const MAX_KEYS: usize = 32;
