//! Decides which new traces are sampled, by share or by rate.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_policy::units::Share;

/// A token bucket that all threads share: at most `count` at once, and `count` more every `per`.
///
/// Kept as the time at which it is full again (GCRA), so that one number is all of its state.
#[derive(Debug)]
pub(super) struct Rate {
    /// What one token takes to come back, in nanoseconds.
    interval: u64,
    /// What all tokens take.
    period: u64,
    /// Nanoseconds since the beginning.
    full_at: AtomicU64,
}

impl Rate {
    pub(super) fn new(count: NonZeroU32, per: Duration) -> Self {
        let period = nanos(per);
        let interval = (period / u64::from(count.get())).max(1);
        Self {
            interval,
            period,
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes a token if there is one; `since` is the time since the beginning.
    pub(super) fn take(&self, since: Duration) -> bool {
        let now = nanos(since);
        let taken = |full_at: u64| {
            let full_at = full_at.max(now).saturating_add(self.interval);
            (full_at - now <= self.period).then_some(full_at)
        };
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }
}

/// Whether a trace is within `share`, told from its id alone, so that all who ask get the same answer.
pub(super) fn within(share: Share, trace_id: &[u8; 16]) -> bool {
    // The last 56 bits are random in all ids (W3C Trace Context level 2, section 3.2.2.3.1).
    let random = u128::from_be_bytes(*trace_id) & ((1 << RANDOM_BITS) - 1);
    let threshold = (u128::from(share.millionths()) << RANDOM_BITS) / 1_000_000;
    random < threshold
}

/// 584 years fit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const RANDOM_BITS: u32 = 56;
