//! Finds how many requests an app serves without queueing them, from how long its answers take.
//!
//! Once a window the median latency is held against that of the app at ease. As long as it is within a factor of 1.5 the limit
//! grows, by the root of itself; beyond that it shrinks in proportion, by half at most. That is the gradient of Envoy's adaptive
//! concurrency and of Netflix's concurrency-limits, with three differences:
//!
//! - How long answers take at ease is learnt in passing from windows in which few were in flight. Only an app that is never
//!   at ease is given half of its limit for two short windows, every 30 s; Envoy goes down to 3 for 50 requests. If that makes answers
//!   much quicker there was a queue: the half becomes the limit, and half of that is tried.
//! - The median, because half of the callers would have to send slowly to make the app look slow.
//! - A request that its caller gave up has taken at least that long. Without it an app that answers nobody in time
//!   would look idle.
//!
//! Whoever ends a window computes the next limit; nobody waits for it.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The limit and what it is made from.
#[derive(Debug)]
pub(super) struct Gradient {
    limit: AtomicU32,
    began: Instant,
    /// Latencies in microseconds, the latest ones.
    samples: [AtomicU64; SAMPLES],
    count: AtomicUsize,
    /// Most in flight in this window.
    peak: AtomicU32,
    /// End of the window, microseconds after `began`.
    window: AtomicU64,
    /// Latency at ease in microseconds, for who wants to know whether one is long; 0 before the first window.
    ease: AtomicU64,
    control: Mutex<Control>,
}

impl Default for Gradient {
    fn default() -> Self {
        let control = Control::default();
        Self {
            limit: AtomicU32::new(control.limit()),
            began: Instant::now(),
            samples: [const { AtomicU64::new(0) }; SAMPLES],
            count: AtomicUsize::new(0),
            peak: AtomicU32::new(0),
            window: AtomicU64::new(WINDOW),
            ease: AtomicU64::new(0),
            control: Mutex::new(control),
        }
    }
}

impl Gradient {
    /// How many may be in flight now.
    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The answer to a request began at `now`, which came at `since` and made the requests in flight `among`.
    pub(super) fn answered(&self, since: Instant, now: Instant, among: u32) {
        self.sample(micros(now.saturating_duration_since(since)), now, among);
    }

    /// The request went without an answer.
    pub(super) fn given_up(&self, since: Instant, now: Instant, among: u32) {
        let latency = micros(now.saturating_duration_since(since));
        // One that was given up at once says nothing.
        if latency > self.ease.load(Ordering::Relaxed) {
            self.sample(latency, now, among);
        }
    }

    fn sample(&self, latency: u64, now: Instant, among: u32) {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(place) = self.samples.get(count % SAMPLES) {
            place.store(latency.max(1), Ordering::Relaxed);
        }
        self.peak.fetch_max(among, Ordering::Relaxed);
        let now = micros(now.saturating_duration_since(self.began));
        if count + 1 >= ENOUGH && now >= self.window.load(Ordering::Relaxed) {
            self.end_window(now);
        }
    }

    fn end_window(&self, now: u64) {
        // Whoever holds it is doing the same.
        let Some(mut control) = self.control.try_lock() else {
            return;
        };
        if now < self.window.load(Ordering::Relaxed) {
            return;
        }
        let count = self.count.swap(0, Ordering::Relaxed).min(SAMPLES);
        let peak = self.peak.swap(0, Ordering::Relaxed);
        let taken = self.samples.iter().take(count);
        let mut latencies: Vec<u64> = taken.map(|sample| sample.load(Ordering::Relaxed)).collect();
        latencies.sort_unstable();
        let Some(median) = latencies.get(latencies.len() / 2) else {
            return;
        };
        control.step(*median, peak, now);
        self.limit.store(control.limit(), Ordering::Relaxed);
        self.ease.store(control.ease, Ordering::Relaxed);
        // Long enough for what was admitted under the last limit to be answered.
        let length = median.saturating_mul(2).clamp(WINDOW, LONGEST_WINDOW);
        self.window
            .store(now.saturating_add(length), Ordering::Relaxed);
    }
}

/// The arithmetic, one step a window.
#[derive(Debug)]
struct Control {
    limit: f64,
    /// Median latency at ease, in microseconds; 0 before the first window.
    ease: u64,
    /// When that was measured last, if it was.
    eased: Option<u64>,
    /// Median of the last window.
    last: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Half of the limit holds; what was admitted before is still being answered.
    Settling {
        /// Median latency under the whole limit, in microseconds.
        whole: u64,
    },
    /// Half of the limit holds, and answers show it.
    Measuring {
        /// The same.
        whole: u64,
        /// So many windows more are waited for a queue to go.
        left: u8,
    },
}

impl Default for Control {
    fn default() -> Self {
        Self {
            limit: FIRST,
            ease: 0,
            eased: None,
            last: 0,
            phase: Phase::Running,
        }
    }
}

impl Control {
    /// What holds now.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between LEAST and MOST"
    )]
    fn limit(&self) -> u32 {
        let limit = match self.phase {
            Phase::Running => self.limit,
            Phase::Settling { .. } | Phase::Measuring { .. } => self.limit / 2.0,
        };
        limit.clamp(LEAST, MOST) as u32
    }

    fn step(&mut self, median: u64, peak: u32, now: u64) {
        match self.phase {
            // What ends in this window was admitted under the whole limit.
            Phase::Settling { whole } => {
                self.phase = Phase::Measuring {
                    whole,
                    left: PATIENCE,
                }
            }
            Phase::Measuring { whole, left } if left > 0 && median < self.last / 10 * 9 => {
                // A queue is still being worked off.
                self.phase = Phase::Measuring {
                    whole,
                    left: left - 1,
                };
            }
            Phase::Measuring { whole, .. } => self.measured(whole, median, now),
            Phase::Running => self.run(median, peak, now),
        }
        self.last = median;
    }

    /// Answers took `median` under half of the limit, and `whole` before.
    fn measured(&mut self, whole: u64, median: u64, now: u64) {
        self.phase = Phase::Running;
        if median < whole / 10 * 8 {
            // There was a queue that half of the limit does without, and there may be one still: look again.
            self.limit = (self.limit / 2.0).max(LEAST);
            self.eased = None;
        } else {
            self.eased = Some(now);
        }
        self.ease = median;
    }

    fn run(&mut self, median: u64, peak: u32, now: u64) {
        let busy = f64::from(peak) * 2.0 > self.limit;
        let fresh = |eased: u64| now.saturating_sub(eased) <= EASE_AGE;
        // Not while a queue is still growing: its length is not known yet.
        let steady = median <= self.last / 10 * 11;
        if !busy && steady {
            self.ease = median;
            self.eased = Some(now);
        } else if self.ease == 0 || median < self.ease {
            self.ease = median;
        }
        if busy && !self.eased.is_some_and(fresh) {
            if steady {
                self.phase = Phase::Settling { whole: median };
            }
            return;
        }
        let gradient = (TOLERANCE * as_f64(self.ease) / as_f64(median)).clamp(0.5, 1.0);
        // What nobody uses does not grow.
        if gradient < 1.0 || busy {
            let next = self.limit * gradient + self.limit.sqrt();
            self.limit = f64::midpoint(self.limit, next).clamp(LEAST, MOST);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a latency")]
fn as_f64(micros: u64) -> f64 {
    micros as f64
}

/// Most samples of a window that are looked at.
const SAMPLES: usize = 128;
/// Fewer say nothing.
const ENOUGH: usize = 16;
/// Shortest window, in microseconds.
const WINDOW: u64 = 100_000;
const LONGEST_WINDOW: u64 = 5_000_000;
/// How long the latency at ease is believed, in microseconds.
const EASE_AGE: u64 = 30_000_000;
/// Latency may be so much longer than at ease.
const TOLERANCE: f64 = 1.5;
/// Windows that a queue gets to be worked off.
const PATIENCE: u8 = 10;
const FIRST: f64 = 64.0;
const LEAST: f64 = 4.0;
const MOST: f64 = 10_000.0;

#[cfg(test)]
mod tests;
