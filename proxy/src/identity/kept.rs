//! The leaf, its key and the roots in a directory that outlives the container but not the pod: who restarts while the authority is away
//! is still who it was.
//!
//! The directory is in memory and the file is our user's alone. What is kept is no more than a start: a new leaf is asked for at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::{info, warn};
use weft_certs::authority::Material;
use weft_certs::identity::Identity;
use weft_policy::spiffe::SpiffeId;

/// The file.
#[derive(Debug)]
pub(super) struct Kept(PathBuf);

impl Kept {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.join(NAME))
    }

    /// What was kept, if it is of `id` and good now.
    pub(super) fn read(&self, id: &SpiffeId) -> Option<Identity> {
        let identity = match self.text() {
            Ok(text) => Material::from_json(&text).and_then(|material| material.identity()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(%error, "the identity that was kept cannot be read");
                return None;
            }
        };
        match identity {
            Ok(identity) => {
                let leaf = &identity.leaf;
                let good = leaf.id() == id && leaf.is_valid_at(SystemTime::now());
                info!(id = %leaf.id(), good, "identity kept from before");
                good.then_some(identity)
            }
            Err(error) => {
                warn!(%error, "the identity that was kept is none");
                None
            }
        }
    }

    fn text(&self) -> io::Result<String> {
        let mut text = String::new();
        File::open(&self.0)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// Replaces it as a whole.
    pub(super) fn write(&self, material: &Material) {
        if let Err(error) = self.replace(material) {
            warn!(%error, "the identity is not kept");
        }
    }

    fn replace(&self, material: &Material) -> io::Result<()> {
        let next = self.0.with_extension("next");
        // A file that is there already keeps its mode.
        let _gone = fs::remove_file(&next);
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        options.open(&next)?.write_all(material.json().as_bytes())?;
        fs::rename(next, &self.0)
    }
}

const NAME: &str = "identity.json";
const MAX_BYTES: u64 = 1024 * 1024;
