//! The generic cell rate algorithm (ITU-T I.371, annex A.1): one number a bucket, and exact.
//!
//! A bucket is its theoretical arrival time: the moment at which it will be full again. A request moves it on by one interval,
//! and passes if that leaves it no further ahead of now than `burst` intervals. So in any window t at most `burst + rate x t`
//! pass. Times are nanoseconds since the limit began.

use std::num::NonZeroU32;

use weft_policy::rate_limit::Rate;

/// One limit's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    /// Between two requests in the long run; rounded up, so that never more pass than was allowed.
    interval: u64,
    /// How far a bucket may be ahead of now.
    tolerance: u64,
}

/// What a bucket has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// So many may follow at once.
    pub(super) requests: u64,
    /// Nanoseconds until it is full.
    pub(super) full_in: u64,
}

/// Nanoseconds until the next request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wait(pub(super) u64);

impl Gcra {
    pub(super) fn new(rate: Rate, burst: NonZeroU32) -> Self {
        let period = u64::try_from(rate.per.as_nanos()).unwrap_or(LONGEST);
        let interval = period.div_ceil(u64::from(rate.count.get())).max(1);
        let tolerance = interval.saturating_mul(u64::from(burst.get())).min(LONGEST);
        Self {
            interval,
            tolerance,
        }
    }

    /// Where one more request at `now` moves a bucket that stands at `time`.
    ///
    /// # Errors
    /// None may pass yet.
    pub(super) fn take(self, time: u64, now: u64) -> Result<u64, Wait> {
        let next = time.max(now).saturating_add(self.interval);
        let ahead = next.saturating_sub(now);
        match ahead.checked_sub(self.tolerance) {
            None | Some(0) => Ok(next),
            Some(wait) => Err(Wait(wait)),
        }
    }

    /// Where handing a request back moves a bucket.
    pub(super) fn give_back(self, time: u64) -> u64 {
        time.saturating_sub(self.interval)
    }

    /// What a bucket at `time` has left at `now`.
    pub(super) fn left(self, time: u64, now: u64) -> Left {
        let full_in = time.saturating_sub(now);
        Left {
            requests: self.tolerance.saturating_sub(full_in) / self.interval,
            full_in,
        }
    }

    /// Nanoseconds in which an empty bucket becomes full.
    pub(super) fn window(self) -> u64 {
        self.tolerance
    }
}

impl Wait {
    /// Whole seconds, rounded up, at least one (RFC 9110 section 10.2.3: `delay-seconds`).
    pub(super) fn seconds(self) -> u64 {
        seconds(self.0).max(1)
    }

    /// Whole milliseconds, rounded up.
    pub(super) fn millis(self) -> u64 {
        self.0.div_ceil(1_000_000)
    }
}

/// Whole seconds, rounded up.
pub(super) fn seconds(nanos: u64) -> u64 {
    nanos.div_ceil(1_000_000_000)
}

/// 146 years: no sum of two can overflow.
const LONGEST: u64 = u64::MAX / 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn rate(count: u32, per: Duration) -> Rate {
        Rate {
            count: NonZeroU32::new(count).unwrap(),
            per,
        }
    }

    #[test]
    fn the_wait_is_the_time_to_the_next_request() {
        let hundred = rate(100, Duration::from_secs(60));
        let gcra = Gcra::new(hundred, hundred.count);
        let mut time = 0;
        for number in 0..100 {
            time = gcra.take(time, 1).unwrap();
            assert_eq!(gcra.left(time, 1).requests, 99 - number);
        }
        assert_eq!(gcra.take(time, 1), Err(Wait(600_000_000)));
        assert_eq!(gcra.take(time, 600_000_000), Err(Wait(1)));
        assert!(gcra.take(time, 600_000_001).is_ok());
        let rows = [
            (1, 1),
            (999_999_999, 1),
            (1_000_000_000, 1),
            (1_000_000_001, 2),
            (59_000_000_001, 60),
        ];
        for (nanos, want) in rows {
            assert_eq!(Wait(nanos).seconds(), want, "{nanos}");
        }
    }

    #[test]
    fn no_rate_and_no_burst_overflow() {
        let gcra = Gcra::new(rate(1, Duration::MAX), NonZeroU32::MAX);
        let mut time = u64::MAX / 4;
        for _ in 0..5 {
            time = gcra.take(time, u64::MAX / 4).unwrap_or(time);
        }
        let fast = Gcra::new(rate(u32::MAX, Duration::from_secs(1)), NonZeroU32::MIN);
        assert!(fast.take(0, 1).is_ok());
    }

    proptest! {
        #[test]
        fn in_any_window_at_most_burst_and_rate_pass(
            count in 1..50_u32,
            per in prop::sample::select(vec![1_u64, 60, 3600]),
            burst in 1..50_u32,
            gaps in prop::collection::vec(prop_oneof![Just(0), 0..1_000_000_u64, 0..5_000_000_000_u64, 0..400_000_000_000_u64], 1..300),
        ) {
            let gcra = Gcra::new(rate(count, Duration::from_secs(per)), NonZeroU32::new(burst).unwrap());
            let (mut now, mut time, mut passed) = (1_u64, 0, Vec::new());
            for gap in gaps {
                now += gap;
                if let Ok(next) = gcra.take(time, now) {
                    time = next;
                    passed.push(now);
                }
            }
            for (first, begin) in passed.iter().enumerate() {
                for (last, end) in passed.iter().enumerate().skip(first) {
                    let window = u128::from(end - begin);
                    let allowed = u128::from(burst) + u128::from(count) * window / u128::from(per * 1_000_000_000);
                    prop_assert!((last - first + 1) as u128 <= allowed, "{} in {window} ns", last - first + 1);
                }
            }
        }

        #[test]
        fn after_its_wait_a_request_passes_and_not_before(count in 1..1000_u32, burst in 1..100_u32, ahead in 0..200_u64) {
            let gcra = Gcra::new(rate(count, Duration::from_secs(1)), NonZeroU32::new(burst).unwrap());
            let time = 1 + ahead * gcra.interval;
            if let Err(Wait(wait)) = gcra.take(time, 1) {
                prop_assert!(gcra.take(time, wait).is_err());
                prop_assert!(gcra.take(time, 1 + wait).is_ok());
            }
        }
    }
}
