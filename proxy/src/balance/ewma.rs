//! Latency estimate of an endpoint: a peak-sensitive, exponentially weighted moving average.
//!
//! Pure arithmetic over one atomic word; the caller passes the time since the endpoint was first seen. Which of two
//! estimates counts as better is decided in `balance`, not here.
//!
//! As in Finagle's "Peak EWMA", slower answers than expected move the estimate at once, and silence fades it. Unlike there,
//! one answer at most doubles it, which `balance` does not act on, and fast answers bring it back however soon they come: a
//! lone hiccup of a fast endpoint must not keep it idle for half a minute.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How slow an endpoint is thought to be; shared by all workers.
///
/// Packed into one word, so that no reader ever sees half an update: the estimate in microseconds as `f32` above, and
/// below it the milliseconds since the endpoint was first seen. Zero means that nothing was measured yet. The clock wraps
/// after 49 days; a wrapped gap only reads as a shorter one.
#[derive(Debug, Default)]
pub(crate) struct Estimate(AtomicU64);

impl Estimate {
    /// Returns the estimate at `at` (time since the endpoint was first seen), `None` while nothing was measured.
    ///
    /// It fades to zero while no answers come, so that an endpoint which was slow is tried again.
    pub(crate) fn read(&self, at: Duration) -> Option<Duration> {
        let (micros, then) = unpack(self.0.load(Ordering::Relaxed))?;
        Some(Duration::from_secs_f64(
            f64::from(faded(micros, then, millis(at))) / 1e6,
        ))
    }

    /// Takes in an answer that came at `at` and took `rtt`.
    pub(crate) fn observe(&self, at: Duration, rtt: Duration) {
        let (now, sample) = (millis(at), micros(rtt));
        let update = |word| {
            let before = unpack(word);
            // What ran for long is noted late, and must not turn the clock back.
            let now = before.map_or(now, |(_, then)| later(then, now));
            Some(pack(next(before, sample, now), now))
        };
        // The closure always returns a value, so this cannot fail.
        let _previous = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

/// The estimate after `sample` (microseconds), given the one before and its time.
fn next(before: Option<(f32, u32)>, sample: f32, now: u32) -> f32 {
    let Some((micros, then)) = before else {
        return sample;
    };
    if sample >= micros {
        return sample.min(micros * MAX_RISE);
    }
    let keep = faded(1.0, then, now).min(KEPT);
    micros * keep + sample * (1.0 - keep)
}

/// `value`, noted at `then`, as it counts at `now`.
fn faded(value: f32, then: u32, now: u32) -> f32 {
    let elapsed = Duration::from_millis(later(then, now).wrapping_sub(then).into());
    value * (-elapsed.as_secs_f32() / DECAY.as_secs_f32()).exp()
}

/// The later of two times on a clock that wraps.
fn later(one: u32, other: u32) -> u32 {
    if other.wrapping_sub(one) > u32::MAX / 2 {
        one
    } else {
        other
    }
}

fn pack(micros: f32, now: u32) -> u64 {
    u64::from(micros.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(now)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "takes the word's two halves apart"
)]
fn unpack(word: u64) -> Option<(f32, u32)> {
    (word != 0).then(|| (f32::from_bits((word >> 32) as u32), word as u32))
}

#[expect(clippy::cast_possible_truncation, reason = "the clock wraps by design")]
fn millis(at: Duration) -> u32 {
    at.as_millis() as u32
}

fn micros(rtt: Duration) -> f32 {
    rtt.as_secs_f32() * 1e6
}

/// Time in which an estimate loses 63% of its distance to what is measured now.
const DECAY: Duration = Duration::from_secs(10);

/// How many times one answer can raise the estimate.
const MAX_RISE: f32 = 2.0;

/// Share of the estimate that a faster answer leaves at most.
const KEPT: f32 = 31.0 / 32.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn assert_near(got: Option<Duration>, want: Duration) {
        let (got, want) = (got.unwrap().as_secs_f64(), want.as_secs_f64());
        assert!(
            (got - want).abs() <= want * 0.01,
            "{got} s, want about {want} s"
        );
    }

    #[test]
    fn an_unmeasured_endpoint_has_no_estimate() {
        assert_eq!(Estimate::default().read(ms(5)), None);
    }

    #[test]
    fn the_first_answer_is_the_estimate() {
        let estimate = Estimate::default();
        estimate.observe(ms(0), ms(20));
        assert_near(estimate.read(ms(0)), ms(20));
    }

    #[test]
    fn a_slower_answer_counts_at_once_but_only_twofold() {
        let estimate = Estimate::default();
        estimate.observe(ms(0), ms(10));
        estimate.observe(ms(0), ms(15));
        assert_near(estimate.read(ms(0)), ms(15));
        estimate.observe(ms(0), Duration::from_secs(3));
        assert_near(estimate.read(ms(0)), ms(30));
    }

    #[test]
    fn a_faster_answer_counts_by_the_time_that_passed() {
        let estimate = Estimate::default();
        estimate.observe(ms(0), ms(100));
        estimate.observe(DECAY, ms(10));
        let kept = (-1.0_f64).exp();
        assert_near(
            estimate.read(DECAY),
            Duration::from_secs_f64(0.010 + 0.090 * kept),
        );
    }

    #[test]
    fn many_faster_answers_count_even_when_no_time_passes() {
        let estimate = Estimate::default();
        estimate.observe(ms(0), ms(100));
        estimate.observe(ms(0), ms(4));
        assert_near(estimate.read(ms(0)), ms(97));
        (0..200).for_each(|_| estimate.observe(ms(0), ms(4)));
        assert!(estimate.read(ms(0)).unwrap() < ms(5));
    }

    #[test]
    fn what_is_noted_late_does_not_turn_the_clock_back() {
        let estimate = Estimate::default();
        estimate.observe(2 * DECAY, ms(10));
        estimate.observe(DECAY, ms(10));
        assert_near(estimate.read(2 * DECAY), ms(10));
    }

    #[test]
    fn a_silent_endpoint_is_forgiven() {
        let estimate = Estimate::default();
        estimate.observe(ms(0), Duration::from_secs(1));
        assert!(estimate.read(6 * DECAY).unwrap() < ms(3));
    }

    #[test]
    fn a_clock_that_lags_or_wraps_does_no_harm() {
        let wrap = Duration::from_millis(u64::from(u32::MAX));
        let rows = [
            ("lagging", ms(50), ms(40)),
            ("wrapping", wrap, wrap + ms(2)),
            ("zero", ms(0), ms(0)),
        ];
        for (name, first, second) in rows {
            let estimate = Estimate::default();
            estimate.observe(first, ms(10));
            estimate.observe(second, ms(10));
            let got = estimate.read(second).unwrap();
            assert!(got > ms(9) && got <= ms(10), "{name}: {got:?}");
        }
    }

    #[test]
    fn an_instant_answer_still_counts_as_measured() {
        let estimate = Estimate::default();
        estimate.observe(ms(0), Duration::ZERO);
        assert_eq!(estimate.read(ms(0)), Some(Duration::ZERO));
    }
}
