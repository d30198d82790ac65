//! An identity from three files that somebody else writes, such as cert-manager's CSI driver.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::error::CertError;
use weft_certs::identity::Identity;
use weft_certs::leaf::Leaf;

/// The texts of the files; equal texts make equal identities.
#[derive(PartialEq, Eq)]
pub(crate) struct Files {
    chain: String,
    key: String,
    roots: String,
}

/// Reads the files, which may be in the middle of a change.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn read(dir: &Path) -> Result<Files, FilesError> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(|source| FilesError::Read { path, source })
    };
    Ok(Files {
        chain: read(CERTIFICATE)?,
        key: read("tls.key")?,
        roots: read("ca.crt")?,
    })
}

impl Files {
    /// Makes the identity of the files; who we are is what the leaf says.
    ///
    /// # Errors
    /// If a file is broken, or the three do not belong together.
    pub(crate) fn identity(&self) -> Result<Identity, FilesError> {
        let leaf = Leaf::from_pem(&self.chain, &self.key).map_err(FilesError::Leaf)?;
        let bundle = Bundle::from_pem(&self.roots).map_err(FilesError::Roots)?;
        if !bundle.vouches_for(&leaf) {
            return Err(FilesError::OtherRoots);
        }
        let trust = TrustBundles::of(leaf.id().trust_domain(), bundle);
        Identity::new(Arc::new(leaf), Arc::new(trust)).map_err(FilesError::Leaf)
    }
}

/// Why files make no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("tls.crt and tls.key make no identity")]
    Leaf(#[source] CertError),
    #[error("ca.crt cannot be used")]
    Roots(#[source] CertError),
    #[error("tls.crt does not chain to a root in ca.crt")]
    OtherRoots,
}

/// The file whose change is waited for.
pub(crate) const CERTIFICATE: &str = "tls.crt";
