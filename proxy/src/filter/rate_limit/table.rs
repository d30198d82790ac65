//! The buckets of a limit that counts apart: as many as fit, found without a lock, and never more memory than that.
//!
//! A key is its hash under a seed that nobody outside knows. The hash names a set of [`WAYS`] slots; a slot holds a key and its
//! bucket. What makes this safe against whoever invents keys:
//!
//! - A slot is given to another key only when its bucket is full again. A full bucket is as good as a new one, so nobody gains by
//!   being forgotten, and nobody can push out a bucket that holds somebody back.
//! - A key that finds no such slot shares one bucket with all such keys of its set, and a slot that it gets later begins where
//!   the shared bucket stands. So the limit of each key holds exactly, whatever others do; sharing only makes it stricter.
//! - Memory is at most [`SEGMENTS`] x 4 KiB a limit, and grows with the keys that were seen.
//!
//! Some 20,000 keys at a time with a bucket that is not full have a slot of their own before the first ones share.
//!
//! A known key costs a search of its set and one compare-and-swap. Only giving a slot to a key takes the set's lock, so that no key
//! has two. Times in a slot only grow from one owner to the next, so a swap by a late reader of the last owner fails.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::gcra::{Gcra, Wait};

/// Buckets by key.
pub(super) struct Table {
    segments: Box<[OnceLock<Box<[Set; SETS]>>]>,
}

#[derive(Default)]
struct Set {
    slots: [Slot; WAYS],
    /// Of keys without a slot.
    shared: AtomicU64,
    /// Held while a slot is given to a key.
    giving: Mutex<()>,
}

#[derive(Default)]
struct Slot {
    key: AtomicU64,
    time: AtomicU64,
}

/// A request that was counted; it can be handed back.
#[derive(Clone, Copy)]
pub(super) struct Taken<'a> {
    bucket: &'a AtomicU64,
    /// Whose bucket it is, where it can become somebody else's.
    owner: Option<(&'a AtomicU64, u64)>,
    /// Where the bucket stands since.
    pub(super) time: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self::with_segments(SEGMENTS)
    }
}

impl Table {
    fn with_segments(count: usize) -> Self {
        Self {
            segments: (0..count).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Counts a request of `key`.
    ///
    /// # Errors
    /// None may pass yet, and nothing was counted.
    pub(super) fn take(&self, key: u64, now: u64, gcra: Gcra) -> Result<Taken<'_>, Wait> {
        let (set, key) = (self.set(key), key.max(1));
        loop {
            match set.find(key) {
                Some((slot, time)) => {
                    let next = gcra.take(time, now)?;
                    if swap(&slot.time, time, next) {
                        return Ok(slot.taken(key, next));
                    }
                }
                None => {
                    if let Some(outcome) = set.give(key, now, gcra) {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Whether a request of `key` would pass; counts nothing.
    ///
    /// # Errors
    /// None may pass yet.
    pub(super) fn look(&self, key: u64, now: u64, gcra: Gcra) -> Result<(), Wait> {
        let set = self.set(key);
        let time = match set.find(key.max(1)) {
            Some((_, time)) => time,
            None => set.shared.load(Ordering::Acquire),
        };
        gcra.take(time, now).map(|_next| ())
    }

    fn set(&self, key: u64) -> &Set {
        let (segment, set) = (key >> 32, key);
        let segment = self.segments.get(index(segment, self.segments.len()));
        let segment = segment.expect("an index below the length");
        let sets = segment.get_or_init(Box::default);
        sets.get(index(set, SETS))
            .expect("an index below the length")
    }
}

impl Set {
    fn find(&self, key: u64) -> Option<(&Slot, u64)> {
        self.slots.iter().find_map(|slot| {
            if slot.key.load(Ordering::Acquire) != key {
                return None;
            }
            let time = slot.time.load(Ordering::Acquire);
            // Asked again after the time was read: whoever gives the slot away writes the key before the new time.
            let still = slot.key.load(Ordering::Acquire) == key;
            (still && time != GIVEN).then_some((slot, time))
        })
    }

    /// Counts a request of a key that has no slot; `None` when it has got one meanwhile.
    fn give(&self, key: u64, now: u64, gcra: Gcra) -> Option<Result<Taken<'_>, Wait>> {
        let _giving = self.giving.lock();
        if self.find(key).is_some() {
            return None;
        }
        let next = match gcra.take(self.shared.load(Ordering::Acquire), now) {
            Ok(next) => next,
            Err(wait) => return Some(Err(wait)),
        };
        for slot in &self.slots {
            let time = slot.time.load(Ordering::Acquire);
            if time < now && swap(&slot.time, time, GIVEN) {
                slot.key.store(key, Ordering::Release);
                slot.time.store(next, Ordering::Release);
                return Some(Ok(slot.taken(key, next)));
            }
        }
        Some(take(&self.shared, now, gcra))
    }
}

impl Slot {
    fn taken(&self, key: u64, time: u64) -> Taken<'_> {
        Taken {
            bucket: &self.time,
            owner: Some((&self.key, key)),
            time,
        }
    }
}

impl Taken<'_> {
    /// Counts the request no more.
    pub(super) fn give_back(self, gcra: Gcra) {
        loop {
            let time = self.bucket.load(Ordering::Acquire);
            // A slot that has gone to another key was full: there is nothing left to hand back.
            let gone = self
                .owner
                .is_some_and(|(owner, key)| owner.load(Ordering::Acquire) != key);
            if gone || time == GIVEN || swap(self.bucket, time, gcra.give_back(time)) {
                return;
            }
        }
    }
}

/// Counts a request in a bucket that is nobody else's.
///
/// # Errors
/// None may pass yet, and nothing was counted.
pub(super) fn take(bucket: &AtomicU64, now: u64, gcra: Gcra) -> Result<Taken<'_>, Wait> {
    loop {
        let time = bucket.load(Ordering::Acquire);
        let next = gcra.take(time, now)?;
        if swap(bucket, time, next) {
            let owner = None;
            return Ok(Taken {
                bucket,
                owner,
                time: next,
            });
        }
    }
}

/// Whether a request would pass in a bucket that is nobody else's; counts nothing.
///
/// # Errors
/// None may pass yet.
pub(super) fn look(bucket: &AtomicU64, now: u64, gcra: Gcra) -> Result<(), Wait> {
    gcra.take(bucket.load(Ordering::Acquire), now)
        .map(|_next| ())
}

fn swap(bucket: &AtomicU64, from: u64, to: u64) -> bool {
    bucket
        .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// `count` is a power of two that fits.
fn index(hash: u64, count: usize) -> usize {
    usize::try_from(hash % count as u64).unwrap_or(0)
}

/// Slots of a set.
const WAYS: usize = 16;
/// Sets of a segment, which is allocated when its first key comes: 4.4 KB.
const SETS: usize = 16;
/// Segments of a table: 65,536 slots, 1.1 MB when all are there.
const SEGMENTS: usize = 256;
/// The time of a slot that is being given to another key.
const GIVEN: u64 = u64::MAX;

#[cfg(test)]
mod tests;
