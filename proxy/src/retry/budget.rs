//! How many retries the proxy may add: a share of its requests and a minimum rate, so that retries cannot become the load
//! that keeps a service down. One budget a proxy, counted with atomics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::time::Instant;

/// A token bucket: each request puts in a share of a retry, time puts in the minimum rate.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Thousandths of a retry.
    balance: AtomicI64,
    began: Instant,
    /// Milliseconds after `began` up to which time has been credited.
    credited: AtomicU64,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            balance: AtomicI64::new(MAX),
            began: now,
            credited: AtomicU64::new(0),
        }
    }

    /// Counts a request that is not a retry.
    pub(crate) fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < MAX {
            self.balance.fetch_add(SHARE, Ordering::Relaxed);
        }
    }

    /// Takes one retry out, if there is one.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.credit(now);
        let taken = self
            .balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                (balance >= RETRY).then_some(balance - RETRY)
            });
        taken.is_ok()
    }

    fn credit(&self, now: Instant) {
        let elapsed = u64::try_from(now.saturating_duration_since(self.began).as_millis())
            .unwrap_or(u64::MAX);
        let before = self.credited.fetch_max(elapsed, Ordering::Relaxed);
        let earned = elapsed
            .saturating_sub(before)
            .min(TTL_MS)
            .saturating_mul(MIN_PER_SECOND);
        let earned = i64::try_from(earned).unwrap_or(MAX);
        let _always = self
            .balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                Some(balance.saturating_add(earned).min(MAX))
            });
    }
}

const RETRY: i64 = 1000;
/// 20 % (XBackendTrafficPolicy `retryConstraint.budget.percent`).
const SHARE: i64 = RETRY / 5;
/// 10 a second (`minRetryRate`): a thousandth of a retry is earned in a tenth of a millisecond, so 10 a millisecond.
const MIN_PER_SECOND: u64 = 10;
const TTL_MS: u64 = 10_000;
/// What ten seconds at the minimum rate put in.
const MAX: i64 = 100 * RETRY;

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    #[test]
    fn retries_stop_when_the_budget_is_empty_and_return_with_time() {
        let now = Instant::now();
        let budget = Budget::new(now);
        let taken = (0..1000).filter(|_| budget.withdraw(now)).count();
        assert_eq!(taken, 100);
        (0..50).for_each(|_| budget.deposit());
        assert_eq!((0..1000).filter(|_| budget.withdraw(now)).count(), 10);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.withdraw(later)).count(), 10);
    }
}
