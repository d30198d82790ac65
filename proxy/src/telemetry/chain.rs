//! Finds out whether our app breaks traces: it is called with a trace, and calls others without one meanwhile.
//!
//! An app must hand `traceparent` on from what it serves to what it calls; nobody can do that for it. A call without one
//! while requests with one are served is counted and named. Work that the app does on its own account looks the same, so
//! a few are no proof.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::metrics::cell::Cell;
use super::record::DestinationFacts;

/// What all workers serve; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    workers: Arc<ArcSwap<Vec<Arc<Cell>>>>,
    told: Arc<Mutex<Option<Instant>>>,
}

/// The part of one worker thread.
#[derive(Debug)]
pub(crate) struct WorkerChain {
    /// Requests with a trace of their callers' that are being served.
    own: Arc<Cell>,
    all: Chain,
}

impl Chain {
    /// The part of one worker thread; call it there.
    pub(super) fn worker(&self) -> WorkerChain {
        let own = Arc::<Cell>::default();
        self.workers.rcu(|workers| {
            let mut workers = Vec::clone(workers);
            workers.push(Arc::clone(&own));
            workers
        });
        WorkerChain {
            own,
            all: self.clone(),
        }
    }
}

impl WorkerChain {
    /// Notes a request with a trace of its caller's; [`Self::served`] must follow.
    pub(crate) fn serves(&self) {
        self.own.add(1);
    }

    /// Notes the end of such a request.
    pub(crate) fn served(&self) {
        self.own.subtract(1);
    }

    /// Whether a call that begins a trace would be expected to continue one.
    pub(crate) fn is_broken(&self) -> bool {
        self.all.workers.load().iter().any(|cell| cell.read() > 0)
    }

    /// Says whose trace ends here, at most once a [`AGAIN`].
    pub(super) fn tell(&self, destination: Option<&DestinationFacts>) {
        let now = Instant::now();
        let mut told = self.all.told.lock();
        if told.is_some_and(|told| now < told + AGAIN) {
            return;
        }
        *told = Some(now);
        let called = destination.map_or("unknown", |destination| &*destination.service.host);
        warn!(
            called,
            "our app is called with a trace and calls others without: it does not hand on traceparent"
        );
    }
}

const AGAIN: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_broken_while_any_worker_serves_a_trace() {
        let chain = Chain::default();
        let (one, other) = (chain.worker(), chain.worker());
        assert!(!one.is_broken());
        other.serves();
        assert!(one.is_broken() && other.is_broken());
        other.served();
        assert!(!one.is_broken());
    }
}
