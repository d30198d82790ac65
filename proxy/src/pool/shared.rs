//! Shared HTTP/2 connections: many requests at a time on one, a further one when all are full.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use super::{Lane, Open};
use crate::connect::ConnectError;
use crate::http::h2;
use crate::tls::Speaks;

/// A shared HTTP/2 connection.
pub(super) struct SharedClient {
    pub(super) client: h2::client::Client,
    expires: Option<Instant>,
    /// Requests that it was given.
    served: Cell<u64>,
    _open: Open,
}

impl Lane {
    /// A place on a shared HTTP/2 connection; with `fresh` a new one is used once it is accepted.
    ///
    /// # Errors
    /// All are full or gone, and none could be opened.
    pub(crate) async fn http2(&self, fresh: bool) -> Result<h2::client::Client, ConnectError> {
        self.used.set(Instant::now());
        if let Some(client) = self.take_shared() {
            return Ok(client);
        }
        // On the heap: rare beside the requests that find a place, and most of their future's size.
        Box::pin(self.open_shared(fresh)).await
    }

    async fn open_shared(&self, fresh: bool) -> Result<h2::client::Client, ConnectError> {
        let _one = self.opening.lock().await;
        if let Some(client) = self.take_shared() {
            return Ok(client);
        }
        let (connected, open) = self.open(Speaks::Http2).await?;
        if fresh {
            self.accepted(&connected).await?;
        }
        let client =
            h2::client::Client::connect(connected.io, self.config.limits, &self.tasks).await;
        let client = client.map_err(|error| ConnectError::Tcp {
            endpoint: self.target.address,
            source: std::io::Error::other(error),
        })?;
        let shared = SharedClient {
            client: client.clone(),
            expires: connected.expires,
            served: Cell::new(1),
            _open: open,
        };
        self.shared.borrow_mut().push(Rc::new(shared));
        Ok(client)
    }

    fn take_shared(&self) -> Option<h2::client::Client> {
        let now = Instant::now();
        let mut shared = self.shared.borrow_mut();
        // One that has ended or expired takes nothing more; what runs on it holds it by itself.
        let most = self.rule.get().pool.requests_per_connection;
        shared.retain(|one| {
            let spent = most.is_some_and(|most| one.served.get() >= most.get());
            one.client.is_open() && !spent && one.expires.is_none_or(|at| now < at)
        });
        let found = shared.iter().find(|one| !one.client.is_full())?;
        found.served.set(found.served.get().saturating_add(1));
        Some(found.client.clone())
    }

    /// Drops those that have ended, or expired with nothing on them.
    pub(super) fn sweep_shared(&self, now: Instant) {
        let keep = |one: &Rc<SharedClient>| {
            one.client.is_open()
                && (one.client.in_flight() > 0 || one.expires.is_none_or(|at| now < at))
        };
        self.shared.borrow_mut().retain(keep);
    }
}
