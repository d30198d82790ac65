//! What was known last, in a directory that outlives the container but not the pod: read at the start, written on change.
//!
//! The file is our user's alone, is replaced as a whole, and is no more than a start: the control plane corrects it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prost::Message;
use tracing::{info, warn};
use weft_api::weft::LastKnown;

/// The file.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    written: Vec<u8>,
}

impl State {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(NAME),
            written: Vec::new(),
        }
    }

    /// What is there; what cannot be read is told of and counts as nothing.
    pub(super) fn read(&mut self) -> LastKnown {
        let known = match self.bytes() {
            Ok(bytes) => LastKnown::decode(bytes.as_slice()).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return LastKnown::default(),
            Err(error) => Err(error),
        };
        match known {
            Ok(known) => {
                info!(resources = known.resources.len(), "last-known state read");
                known
            }
            Err(error) => {
                warn!(%error, file = %self.path.display(), "last-known state is not used");
                LastKnown::default()
            }
        }
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(&self.path)?
            .take(MAX_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes it if it is another one than before.
    pub(super) fn write(&mut self, known: &LastKnown) {
        let bytes = known.encode_to_vec();
        if bytes == self.written {
            return;
        }
        match self.replace(&bytes) {
            Ok(()) => self.written = bytes,
            Err(error) => {
                warn!(%error, file = %self.path.display(), "last-known state is not kept");
            }
        }
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let next = self.path.with_extension("next");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&next)?.write_all(bytes)?;
        fs::rename(next, &self.path)
    }
}

const NAME: &str = "discovery.pb";
/// Far more than a proxy that calls hundreds of services needs.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
