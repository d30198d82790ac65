//! Keeps what DNS answered: asks once for all who wait, refreshes what is used, forgets what is not.
//!
//! A name goes through these states:
//! - *asked*: a lookup runs, those who need it wait, others go on with the last answer;
//! - *fresh*: workers find it without asking, until its TTL ends. Then it is looked up again if it was used meanwhile, so
//!   that nobody who uses a name all the time ever waits, and *dormant* if not;
//! - *dormant*: the next one to need it waits for a lookup; the last answer is kept in case that fails;
//! - *missing*: DNS said that it does not exist, or said nothing and never did before; told to all who ask, for a moment.
//!
//! Names come from the application, so their number is bounded, and so is the number of lookups that run.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_resolver::net::NetError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use self::names::{Lookup, Names};
use crate::discovery::dns::system::Dns;
use crate::discovery::dns::{Answer, DnsSource, Failure};
use crate::discovery::name::Key;
use crate::discovery::service::{Service, ServiceName};
use crate::discovery::{LookupError, Shared};

mod entry;
mod names;

/// Answers questions and refreshes names, on the control thread.
#[derive(Debug)]
pub(in crate::discovery) struct Cache<'a> {
    dns: Dns,
    names: Names<'a>,
    lookups: FuturesUnordered<BoxFuture<'static, (Id, Result<Answer, Failure>)>>,
    shared: &'a Shared,
}

impl<'a> Cache<'a> {
    pub(in crate::discovery) fn new(source: DnsSource, shared: &'a Shared) -> Self {
        let (dns, names) = (Dns::new(source, Instant::now()), Names::new(shared));
        Self {
            dns,
            names,
            lookups: FuturesUnordered::new(),
            shared,
        }
    }

    /// Works until nobody is left who could ask.
    pub(in crate::discovery) async fn run(mut self, mut asked: mpsc::Receiver<Question>) {
        loop {
            let due = self
                .names
                .next_due()
                .unwrap_or_else(|| Instant::now() + FAR);
            tokio::select! {
                biased;
                Some((id, found)) = self.lookups.next() => self.answered(&id, found),
                question = asked.recv() => match question {
                    Some(question) => {
                        let lookup = self.names.ask(question, Instant::now());
                        lookup.into_iter().for_each(|lookup| self.start(lookup));
                    }
                    None => return,
                },
                () = sleep_until(due) => {
                    let lookups = self.names.expire(Instant::now());
                    lookups.into_iter().for_each(|lookup| self.start(lookup));
                }
            }
        }
    }

    fn start(&mut self, lookup: Lookup) {
        self.shared
            .metrics
            .dns_lookups
            .fetch_add(1, Ordering::Relaxed);
        let upstream = self.dns.upstream(Instant::now());
        self.lookups.push(Box::pin(async move {
            let found = match upstream {
                Ok(upstream) => timeout(MAX_LOOKUP, upstream.resolve(&lookup.name)).await,
                Err(error) => Ok(Err(error.into())),
            };
            (
                lookup.id,
                found.unwrap_or(Err(Failure::Unanswered(NetError::Timeout))),
            )
        }));
    }

    fn answered(&mut self, id: &Id, found: Result<Answer, Failure>) {
        if let Err(Failure::Unanswered(_)) = found {
            self.shared
                .metrics
                .dns_failures
                .fetch_add(1, Ordering::Relaxed);
        }
        self.names.answered(id, found, Instant::now());
    }
}

/// A worker needs a name that is not known.
#[derive(Debug)]
pub(in crate::discovery) struct Question {
    pub(in crate::discovery) name: ServiceName,
    pub(in crate::discovery) answer: Waiting,
}

/// Somebody who waits for a name.
#[derive(Debug)]
pub(in crate::discovery) struct Waiting(
    pub(in crate::discovery) oneshot::Sender<Result<Arc<Service>, LookupError>>,
);

impl Waiting {
    fn tell(self, outcome: Result<Arc<Service>, LookupError>) {
        // Who asked may have given up.
        let _unheard = self.0.send(outcome);
    }
}

/// The fresh names, as workers see them; a snapshot.
#[derive(Clone, Debug, Default)]
pub(in crate::discovery) struct Resolved(HashMap<Id, Arc<Held>>);

impl Resolved {
    pub(in crate::discovery) fn get(&self, key: &Key) -> Option<Arc<Service>> {
        let held = self.0.get(key.as_bytes())?;
        // Mostly set already; a store each time would move the cache line between the workers.
        if !held.used.load(Ordering::Relaxed) {
            held.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&held.service))
    }

    pub(in crate::discovery) fn len(&self) -> u64 {
        self.0.len().try_into().unwrap_or(u64::MAX)
    }

    pub(in crate::discovery) fn services(&self) -> impl Iterator<Item = Arc<Service>> {
        self.0.values().map(|held| Arc::clone(&held.service))
    }
}

#[derive(Debug)]
struct Held {
    service: Arc<Service>,
    /// Since the last lookup.
    used: AtomicBool,
}

/// The [`Key`] of a name that is held; a clone is one reference count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Id(Arc<[u8]>);

impl From<&Key> for Id {
    fn from(key: &Key) -> Self {
        Self(key.as_bytes().into())
    }
}

impl Borrow<[u8]> for Id {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Limit of a lookup; a little less than a caller waits, so that it learns the reason.
const MAX_LOOKUP: Duration = Duration::from_millis(4_500);

/// A time that does not come, for when nothing is due.
const FAR: Duration = Duration::from_secs(86_400);
