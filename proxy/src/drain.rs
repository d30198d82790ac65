//! When a connection should say goodbye: the process drains, or the identity it was made with has expired.
//!
//! Where a pod ends, the proxy is told so before its own signal comes: it says goodbye at once, and goes on for its app until that has ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Whether this process is ending. Cheap to ask once a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    begun: Arc<AtomicBool>,
    since: Arc<OnceLock<Instant>>,
    token: CancellationToken,
    last: CancellationToken,
}

impl Drain {
    /// Begins the drain; there is no way back. What runs goes on, and what comes is served.
    pub(crate) fn begin(&self) {
        let _first = self.since.set(Instant::now());
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Begins it if that was not done before, and asks for the end of the process after it.
    pub(crate) fn end(&self) {
        self.begin();
        self.last.cancel();
    }

    /// Waits for the end to be asked for; returns how long callers have been told of it by then.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn ending(&self) -> Duration {
        self.last.cancelled().await;
        self.since.get().map(Instant::elapsed).unwrap_or_default()
    }

    /// Whether the drain has begun.
    pub(crate) fn begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits for the drain.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn started(&self) {
        self.token.cancelled().await;
    }
}

/// How long one connection may take new requests.
#[derive(Clone, Debug)]
pub(crate) struct Lifetime {
    drain: Drain,
    expires: Option<Instant>,
}

impl Lifetime {
    /// `expires` is when the earlier of the two identities of a mesh connection does.
    pub(crate) fn new(drain: Drain, expires: Option<Instant>) -> Self {
        Self { drain, expires }
    }

    /// Whether the next answer must be the last.
    pub(crate) fn is_over(&self) -> bool {
        self.drain.begun() || self.expires.is_some_and(|at| Instant::now() >= at)
    }

    /// Waits until it is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn over(&self) {
        match self.expires {
            None => self.drain.started().await,
            Some(at) => tokio::select! {
                () = self.drain.started() => {}
                () = sleep_until(at) => {}
            },
        }
    }
}
