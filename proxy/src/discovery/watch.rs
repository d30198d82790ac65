//! Tells when a file may have changed, whichever way it is replaced.
//!
//! What the file contains is the caller's matter, who must be ready to find it unchanged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

/// Tells when a file may have changed.
#[derive(Debug)]
pub(crate) struct Watch {
    _path: PathBuf,
}

impl Watch {
    /// Watches `path`, which need not exist yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self { _path: path.into() }
    }

    /// Waits until the file may have changed.
    pub(crate) async fn changed(&mut self) {
        sleep(POLL).await;
    }
}

/// Interval of looks at the file.
const POLL: Duration = Duration::from_millis(500);
