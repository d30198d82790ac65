//! The last requests and connections that have ended, for whoever asks the admin listener.
//!
//! What failed and what is sampled is kept in any case, as an entry of it is made anyway, and no other request takes its place.
//! All else is kept only while somebody watches, and costs nothing when nobody does but one look at a number.

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
    /// Number of the next entry.
    next: u64,
    notable: VecDeque<Numbered>,
    others: VecDeque<Numbered>,
}

/// Whether an entry stays when nobody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// It failed, or is sampled.
    Notable,
    Other,
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
            self.0.ring.lock().others = VecDeque::new();
        }
        watched
    }

    /// Keeps an entry, in place of the oldest one of its worth.
    pub(super) fn keep(&self, entry: Arc<Entry>, worth: Worth) {
        let mut ring = self.0.ring.lock();
        let number = ring.next;
        ring.next += 1;
        let kept = match worth {
            Worth::Notable => &mut ring.notable,
            Worth::Other => &mut ring.others,
        };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Numbered { number, entry });
    }

    /// Keeps all requests for [`WATCHED`] from now on.
    pub(crate) fn watch(&self) {
        let until = self.now().saturating_add(millis(WATCHED));
        self.0.watched.store(until, Ordering::Relaxed);
    }

    /// The entries from number `from` on, and the number of the next one to come.
    pub(crate) fn since(&self, from: u64) -> (Vec<Numbered>, u64) {
        let ring = self.0.ring.lock();
        let all = ring.notable.iter().chain(&ring.others);
        let mut entries: Vec<_> = all.filter(|one| one.number >= from).cloned().collect();
        entries.sort_unstable_by_key(|one| one.number);
        (entries, ring.next)
    }

    fn now(&self) -> u64 {
        millis(self.0.begun.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Of either worth; some 300 KB at most.
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

    #[tokio::test(start_paused = true)]
    async fn the_oldest_entries_make_room_for_those_of_their_worth() {
        let recent = Recent::new();
        let entry = Arc::new(Entry::of_request(&sample::request(Direction::Inbound)));
        recent.keep(Arc::clone(&entry), Worth::Notable);
        for _ in 0..KEPT + 3 {
            recent.keep(Arc::clone(&entry), Worth::Other);
        }
        recent.keep(Arc::clone(&entry), Worth::Notable);
        let (all, next) = recent.since(0);
        let numbers: Vec<u64> = all.iter().map(|one| one.number).collect();
        let kept = KEPT as u64;
        let want: Vec<u64> = [0].into_iter().chain(4..=kept + 4).collect();
        assert_eq!((numbers, next), (want, kept + 5));
        assert_eq!(recent.since(next - 1).0.len(), 1);
        assert!(recent.since(next).0.is_empty());
        // What was kept for one who watches goes when nobody does.
        recent.watch();
        tokio::time::advance(WATCHED).await;
        assert!(!recent.is_watched());
        assert_eq!(recent.since(0).0.len(), 2);
    }
}
