//! How many retries a service may be asked for: a share of its requests, but at least a minimum rate, so that retries cannot
//! become the load that keeps a service down. One budget a service and proxy, counted with atomics.
//!
//! The share and the rate do not add up: the larger one holds (Envoy's `retry_budget`), so that a service which is asked
//! often gets its share and not a retry more.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::time::Instant;
use weft_policy::retry::Budget as Rule;

/// What is counted for the budget; the rule comes with each question, so a change of policy needs no new count.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Since time was last credited; a retry is none.
    requests: AtomicU64,
    /// Millionths of a retry.
    balance: AtomicI64,
    began: Instant,
    /// Milliseconds after `began` up to which was credited, plus [`RESERVE_MS`]: so the first question finds a reserve.
    credited: AtomicU64,
    /// How often it was asked in vain.
    refused: AtomicU64,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            requests: AtomicU64::new(0),
            balance: AtomicI64::new(0),
            began: now,
            credited: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts a request that is not a retry.
    pub(crate) fn deposit(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry out, if there is one.
    pub(crate) fn withdraw(&self, rule: &Rule, now: Instant) -> bool {
        self.credit(rule, now);
        let taken = self
            .balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                (balance >= RETRY).then_some(balance - RETRY)
            });
        if taken.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// How many retries it did not have.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whoever moves the clock credits what has come since; for the others of the same millisecond it waits.
    fn credit(&self, rule: &Rule, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began).as_millis();
        let now = u64::try_from(elapsed)
            .unwrap_or(u64::MAX)
            .saturating_add(RESERVE_MS);
        let before = self.credited.fetch_max(now, Ordering::Relaxed);
        let millis = now.saturating_sub(before);
        if millis == 0 {
            return;
        }
        let requests = self.requests.swap(0, Ordering::Relaxed);
        let earned = earned(rule, requests, millis);
        let most = earned.scaled(millis).max(RETRY);
        let _always = self
            .balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                Some(balance.saturating_add(earned.0).min(most.max(balance)))
            });
    }
}

/// Millionths of retries.
#[derive(Clone, Copy)]
struct Earned(i64);

/// What so many requests in so much time are good for.
fn earned(rule: &Rule, requests: u64, millis: u64) -> Earned {
    let share = i64::from(rule.share.millionths());
    let of_requests = i64::try_from(requests)
        .unwrap_or(i64::MAX)
        .saturating_mul(share);
    let per = i64::try_from(rule.min_rate.per.as_millis())
        .unwrap_or(i64::MAX)
        .max(1);
    let rate = i64::from(rule.min_rate.count.get()) * RETRY;
    let of_time = rate.saturating_mul(i64::try_from(millis).unwrap_or(i64::MAX)) / per;
    Earned(of_requests.max(of_time))
}

impl Earned {
    /// As if it had been earned in [`RESERVE_MS`]: what is kept for bad times is no more than that.
    fn scaled(self, millis: u64) -> i64 {
        let reserve = i128::from(self.0) * i128::from(RESERVE_MS) / i128::from(millis.max(1));
        i64::try_from(reserve).unwrap_or(i64::MAX)
    }
}

const RETRY: i64 = 1_000_000;
/// A budget that nobody draws on keeps what this time brings.
const RESERVE_MS: u64 = 2000;

#[cfg(test)]
mod tests {
    use tokio::time::Duration;
    use weft_policy::retry::Retry;

    use super::*;

    fn taken(budget: &Budget, rule: &Rule, now: Instant) -> usize {
        (0..10_000).filter(|_| budget.withdraw(rule, now)).count()
    }

    #[test]
    fn an_idle_service_has_the_minimum_rate() {
        let (start, rule) = (Instant::now(), Retry::default().budget);
        let budget = Budget::new(start);
        assert_eq!(taken(&budget, &rule, start), 20, "two seconds' worth");
        assert_eq!(taken(&budget, &rule, start), 0);
        let later = start + Duration::from_secs(1);
        assert_eq!(taken(&budget, &rule, later), 10);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(taken(&budget, &rule, much_later), 20);
    }

    #[test]
    fn a_busy_service_has_its_share_and_the_rate_is_not_added() {
        let (start, rule) = (Instant::now(), Retry::default().budget);
        let budget = Budget::new(start);
        assert_eq!(taken(&budget, &rule, start), 20);
        let mut retries = 0;
        for second in 1..=30 {
            (0..200).for_each(|_| budget.deposit());
            retries += taken(&budget, &rule, start + Duration::from_secs(second));
        }
        assert_eq!(retries, 30 * 200 / 5);
    }

    #[test]
    fn a_long_quiet_time_saves_no_more_than_the_reserve() {
        let (start, rule) = (Instant::now(), Retry::default().budget);
        let budget = Budget::new(start);
        (0..100_000).for_each(|_| budget.deposit());
        let later = start + Duration::from_secs(98);
        assert_eq!(
            taken(&budget, &rule, later),
            400,
            "a fifth of 1000/s in two seconds"
        );
    }
}
