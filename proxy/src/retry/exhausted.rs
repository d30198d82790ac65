//! Remembers for which traces a call of our app was tried until no more was allowed.
//!
//! An app that then fails because of it answers its own caller, whose proxy must not try again: each hop of a chain that did would
//! multiply the load on the one that fails. The app need do nothing but hand its trace on; one that hands on our header is
//! understood as well.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// The latest of them; looked at only where a request has failed.
#[derive(Debug, Default)]
pub(crate) struct Exhausted(Mutex<VecDeque<(TraceId, Instant)>>);

type TraceId = [u8; 16];

impl Exhausted {
    /// Notes a call in `trace` that nobody is to repeat.
    pub(crate) fn note(&self, trace: TraceId, now: Instant) {
        let mut latest = self.0.lock();
        if latest.len() >= MOST {
            latest.pop_front();
        }
        latest.push_back((trace, now));
    }

    /// Whether such a call was made in `trace`, a moment ago.
    pub(crate) fn has(&self, trace: TraceId, now: Instant) -> bool {
        let latest = self.0.lock();
        let recent = |at: Instant| now.saturating_duration_since(at) < RECENT;
        let mut latest = latest.iter().rev();
        latest.any(|(noted, at)| *noted == trace && recent(*at))
    }
}

/// Traces that are remembered: 32 KiB. Should more fail at once, some are tried again, within the budget.
const MOST: usize = 1024;
/// How long an app may take from the failed call to its own answer.
const RECENT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_traces_are_known_for_a_while() {
        let (exhausted, now) = (Exhausted::default(), Instant::now());
        let id = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        exhausted.note(id(0), now);
        assert!(exhausted.has(id(0), now) && !exhausted.has(id(1), now));
        assert!(!exhausted.has(id(0), now + RECENT));
        (1..=MOST as u64).for_each(|number| exhausted.note(id(number), now));
        assert!(!exhausted.has(id(0), now) && exhausted.has(id(1), now));
    }
}
