//! Counts what uses an endpoint, over all workers: connections, and requests that wait for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The uses of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    connections: Arc<AtomicU32>,
    waiting: Arc<AtomicU32>,
}

/// One use; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicU32>);

impl Uses {
    /// A place for one more connection; `None` if there are `most`.
    pub(crate) fn open(&self, most: usize) -> Option<Option<Place>> {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        Place::among(&self.connections, most).map(Some)
    }

    /// A place in the queue for one; `None` if it is `most` long.
    pub(crate) fn wait(&self, most: u32) -> Option<Place> {
        Place::among(&self.waiting, most)
    }
}

impl Place {
    fn among(count: &Arc<AtomicU32>, most: u32) -> Option<Self> {
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < most).then_some(count + 1)
        });
        taken.is_ok().then(|| Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
