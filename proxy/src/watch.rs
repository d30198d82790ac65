//! Watches a file for changes, whichever way it is replaced.
//!
//! The directory is watched, not the file: editors and Kubernetes replace files by renames, the latter behind two symbolic
//! links (`services.yaml -> ..data/services.yaml`, `..data -> ..2026_01_01`). What the file contains is the caller's matter,
//! who must be ready to find it unchanged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

/// Tells when a file may have changed.
pub(crate) struct Watch {
    path: PathBuf,
    events: Option<EventStream<Vec<u8>>>,
}

impl Watch {
    /// Watches `path`, which need not exist yet. Must be called inside a runtime.
    ///
    /// Where the kernel has no watch left to give, the file is looked at twice a second instead.
    pub(crate) fn new(path: &Path) -> Self {
        let events =
            Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; BUFFER_BYTES]));
        let events = events
            .inspect_err(|error| warn!(%error, "no inotify, files are polled"))
            .ok();
        let mut watch = Self {
            path: path.into(),
            events,
        };
        watch.follow_links();
        watch
    }

    /// Waits until the file may have changed and its directory has been quiet for a moment.
    ///
    /// Returns now and then without a change: a change on some network file systems tells nobody.
    ///
    /// # Cancel safety
    /// A change that was noticed, but not returned yet, is lost with the future.
    pub(crate) async fn changed(&mut self) {
        let Some(events) = &mut self.events else {
            return sleep(POLL).await;
        };
        if timeout(DISTRUST, event(events)).await.is_ok() {
            settle(events).await;
        }
        // The new file may be reached over other directories than the old one.
        self.follow_links();
    }

    /// Watches the directory that names the file and the one that it is in; nothing happens if they are watched already.
    fn follow_links(&mut self) {
        let Some(events) = &self.events else { return };
        let real = self.path.canonicalize().ok();
        for path in [Some(&self.path), real.as_ref()].into_iter().flatten() {
            if let Err(error) = events.watches().add(parent(path), EVENTS) {
                warn!(%error, directory = %parent(path).display(), "directory is not watched");
            }
        }
    }
}

/// Waits for an event of any watched directory.
async fn event(events: &mut EventStream<Vec<u8>>) {
    // Events that were too many for the kernel's queue are an event, too; errors of a read are as good a reason to look.
    if events.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Waits until no event came for [`QUIET`], at most [`PATIENCE`]: whoever replaces a file does so in several steps.
async fn settle(events: &mut EventStream<Vec<u8>>) {
    let limit = Instant::now() + PATIENCE;
    while Instant::now() < limit && timeout(QUIET, event(events)).await.is_ok() {}
}

fn parent(path: &Path) -> &Path {
    // A bare file name has the empty path as parent, which means the working directory.
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// What happens to a directory when a file in it is written, replaced or removed, or the directory is.
const EVENTS: WatchMask = WatchMask::CLOSE_WRITE
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

const BUFFER_BYTES: usize = 4096;

const QUIET: Duration = Duration::from_millis(50);

const PATIENCE: Duration = Duration::from_millis(300);

/// Interval of looks at the file where events are to be had.
const DISTRUST: Duration = Duration::from_secs(10);

/// Interval of looks at the file where they are not.
const POLL: Duration = Duration::from_millis(500);
