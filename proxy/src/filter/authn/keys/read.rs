//! Reads the keys of an issuer from where the policy says they are.

use std::io;
use std::path::Path;

use http::Uri;
use http::uri::InvalidUri;
use serde::Deserialize;
use weft_certs::fetch::{FetchError, fetch};
use weft_certs::jwt::error::KeySetError;
use weft_certs::jwt::keyset::KeySet;
use weft_policy::jwt::KeySource;

/// What was read.
#[derive(PartialEq, Eq)]
pub(super) enum Read {
    Set(String),
    Secret(Vec<u8>),
}

/// Why there are no keys, or no new ones.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("cannot read the file")]
    File(#[source] io::Error),
    #[error("the URL cannot be used")]
    Url(#[source] InvalidUri),
    #[error("cannot fetch")]
    Fetch(#[source] FetchError),
    #[error("the issuer's configuration is broken")]
    Configuration(#[source] serde_json::Error),
    #[error("the configuration is that of {0:?}")]
    OtherIssuer(String),
    #[error("the keys of an https issuer are not behind https")]
    Downgrade,
    #[error("cannot use the keys")]
    Keys(#[source] KeySetError),
}

pub(super) fn parse(read: &Read) -> Result<KeySet, ReadError> {
    match read {
        Read::Set(text) => KeySet::parse(text),
        Read::Secret(secret) => KeySet::of_secret(secret),
    }
    .map_err(ReadError::Keys)
}

/// The file to watch, if it is one.
pub(super) fn file(source: &KeySource) -> Option<&Path> {
    match source {
        KeySource::File(path) | KeySource::SecretFile(path) => Some(path),
        KeySource::Url(_) | KeySource::Inline(_) | KeySource::Discovery | KeySource::Secret(_) => {
            None
        }
    }
}

/// Reads what is on this machine; `None` where it takes the network.
pub(super) fn local(source: &KeySource) -> Option<Result<Read, ReadError>> {
    Some(match source {
        KeySource::Inline(text) => Ok(Read::Set(text.clone())),
        KeySource::Secret(secret) => Ok(Read::Secret(secret.clone())),
        KeySource::File(path) => std::fs::read_to_string(path)
            .map(Read::Set)
            .map_err(ReadError::File),
        KeySource::SecretFile(path) => std::fs::read(path)
            .map(|secret| Read::Secret(secret.trim_ascii_end().to_vec()))
            .map_err(ReadError::File),
        KeySource::Url(_) | KeySource::Discovery => return None,
    })
}

/// Reads from wherever it is.
///
/// # Errors
/// See [`ReadError`].
pub(super) async fn read(
    issuer: &str,
    source: &KeySource,
    roots: &Path,
) -> Result<Read, ReadError> {
    if let Some(read) = local(source) {
        return read;
    }
    let url = match source {
        KeySource::Url(url) => url.clone(),
        _ => discover(issuer, roots).await?,
    };
    get(&url, roots).await.map(Read::Set)
}

/// OpenID Connect Discovery 1.0 section 4: "The issuer value returned MUST be identical to the Issuer URL that was directly used to
/// retrieve the configuration information".
async fn discover(issuer: &str, roots: &Path) -> Result<String, ReadError> {
    let url = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let text = get(&url, roots).await?;
    let found: Configuration = serde_json::from_str(&text).map_err(ReadError::Configuration)?;
    if found.issuer != issuer {
        return Err(ReadError::OtherIssuer(found.issuer));
    }
    if issuer.starts_with("https:") && !found.jwks_uri.starts_with("https:") {
        return Err(ReadError::Downgrade);
    }
    Ok(found.jwks_uri)
}

async fn get(url: &str, roots: &Path) -> Result<String, ReadError> {
    let url: Uri = url.parse().map_err(ReadError::Url)?;
    Box::pin(fetch(&url, roots)).await.map_err(ReadError::Fetch)
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}
