//! Exponential back-off with jitter, for every loop that tries something again.
//!
//! Half of each delay is random, so that many proxies which fail together do not come back together.

use std::time::Duration;

/// The delays of one loop, each about twice the one before.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Begins with about `first` and does not go beyond `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// Returns how long to wait after a failure.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let delay = delay(self.first, self.longest, self.failures, fastrand::f64());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Begins anew after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Between half of the full delay and all of it; `jitter` is from 0.0 to 1.0.
fn delay(first: Duration, longest: Duration, failures: u32, jitter: f64) -> Duration {
    let factor = 1_u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX);
    let full = first.saturating_mul(factor).min(longest);
    full.mul_f64(0.5 + 0.5 * jitter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let [first, longest] = [Duration::from_millis(100), Duration::from_secs(1)];
        let rows = [
            (0, 100),
            (1, 200),
            (2, 400),
            (3, 800),
            (4, 1000),
            (31, 1000),
            (u32::MAX, 1000),
        ];
        for (failures, want) in rows {
            let got = delay(first, longest, failures, 1.0);
            assert_eq!(
                got,
                Duration::from_millis(want),
                "after {failures} failures"
            );
        }
    }

    #[test]
    fn success_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));
        for _ in 0..10 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }

    proptest! {
        #[test]
        fn no_delay_is_shorter_than_half_or_longer_than_the_limit(failures: u32, jitter in 0.0..=1.0_f64) {
            let [first, longest] = [Duration::from_millis(100), Duration::from_secs(60)];
            let delay = delay(first, longest, failures, jitter);
            prop_assert!(delay >= first / 2 && delay <= longest);
        }
    }
}
