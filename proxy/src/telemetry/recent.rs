//! The last requests and connections that have ended, for whoever asks the admin listener.
//!
//! What failed and what is sampled is kept in any case, as an entry of it is made anyway. All else is kept only while
//! somebody watches, and costs nothing when nobody does but one look at a number.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::entry::Entry;

/// The last entries; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Recent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// Milliseconds after `begun` until which somebody watches; 0 where nobody does.
    watched: AtomicU64,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Number of the first entry.
    first: u64,
    entries: VecDeque<Arc<Entry>>,
}

/// An entry and its number, counted from 0 since the start.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) entry: Arc<Entry>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            begun: Instant::now(),
            watched: AtomicU64::new(0),
            ring: Mutex::default(),
        }))
    }

    /// Whether all requests are to be kept.
    pub(super) fn is_watched(&self) -> bool {
        let until = self.0.watched.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        let watched = self.now() < until;
        if !watched {
            // Somebody may have begun to watch this very moment, and will ask again.
            self.0.watched.store(0, Ordering::Relaxed);
        }
        watched
    }

    /// Keeps an entry, in place of the oldest one.
    pub(super) fn keep(&self, entry: Arc<Entry>) {
        let mut ring = self.0.ring.lock();
        if ring.entries.len() == KEPT {
            ring.entries.pop_front();
            ring.first += 1;
        }
        ring.entries.push_back(entry);
    }

    /// Keeps all requests for [`WATCHED`] from now on.
    pub(crate) fn watch(&self) {
        let until = self.now().saturating_add(millis(WATCHED));
        self.0.watched.store(until, Ordering::Relaxed);
    }

    /// The entries from number `from` on, and the number of the next one to come.
    pub(crate) fn since(&self, from: u64) -> (Vec<Numbered>, u64) {
        let ring = self.0.ring.lock();
        let numbered = ring.entries.iter().zip(ring.first..);
        let entries = numbered
            .filter(|(_, number)| *number >= from)
            .map(|(entry, number)| Numbered {
                number,
                entry: Arc::clone(entry),
            });
        (entries.collect(), ring.first + ring.entries.len() as u64)
    }

    fn now(&self) -> u64 {
        millis(self.0.begun.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Some 300 KB at most.
const KEPT: usize = 256;
/// How long one question keeps the requests that come after it.
const WATCHED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::Direction;
    use crate::telemetry::sample;

    #[tokio::test(start_paused = true)]
    async fn watching_ends_by_itself() {
        let recent = Recent::new();
        assert!(!recent.is_watched());
        recent.watch();
        assert!(recent.is_watched());
        tokio::time::advance(WATCHED).await;
        assert!(!recent.is_watched());
    }

    #[tokio::test]
    async fn the_oldest_entries_make_room() {
        let recent = Recent::new();
        let entry = Arc::new(Entry::of_request(&sample::request(Direction::Inbound)));
        for _ in 0..KEPT + 3 {
            recent.keep(Arc::clone(&entry));
        }
        let (all, next) = recent.since(0);
        assert_eq!((all.len(), all[0].number, next), (KEPT, 3, KEPT as u64 + 3));
        assert_eq!(recent.since(next - 1).0.len(), 1);
        assert!(recent.since(next).0.is_empty());
    }
}
