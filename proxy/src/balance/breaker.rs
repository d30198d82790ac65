//! The circuit breaker of an endpoint: closed (traffic flows), open, half-open with one request as a probe.
//!
//! The state lives with the endpoint and outlives changes of policy; the rule comes with each outcome. One state a proxy, in
//! atomics: workers see the same. Which outcomes are failures is read in `balance/verdict.rs`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use weft_policy::breaker::Breaker;

use crate::discovery::endpoint::{Endpoint, Member};
use crate::discovery::service::Service;

/// What an outcome says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It works.
    Good,
    /// It failed: connection, reset, time-out, 5xx.
    Bad,
    /// Says nothing of it.
    Neither,
}

/// A change that is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Opened,
    Closed,
}

impl Change {
    /// As metric and log have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "open",
            Self::Closed => "closed",
        }
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// All.
    Closed,
    /// Nothing, or a probe that is due and nobody has made yet.
    Open,
    /// The probe that runs.
    HalfOpen,
}

impl Position {
    pub(crate) const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// As the metric has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The breaker of one endpoint. Times are since the endpoint was first seen.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// [`CLOSED`], [`HALF_OPEN`], or the nanoseconds until which it is open.
    phase: AtomicU64,
    in_a_row: AtomicU32,
    /// How often it has opened without a healthy time between.
    openings: AtomicU32,
    /// Nanoseconds at which it last closed.
    closed_at: AtomicU64,
    window: Window,
}

impl State {
    /// Whether traffic flows.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == CLOSED
    }

    pub(crate) fn position(&self) -> Position {
        match self.phase.load(Ordering::Relaxed) {
            CLOSED => Position::Closed,
            HALF_OPEN => Position::HalfOpen,
            _until => Position::Open,
        }
    }

    /// Whether one more success changes nothing.
    pub(crate) fn is_untroubled(&self, rule: &Breaker) -> bool {
        rule.ratio.is_none() && self.is_closed() && self.in_a_row.load(Ordering::Relaxed) == 0
    }

    /// Makes the caller's request the probe, unless another one is.
    pub(crate) fn begin_probe(&self, at: Duration) -> bool {
        let until = self.phase.load(Ordering::Relaxed);
        let due = until != CLOSED && until != HALF_OPEN && until <= nanos(at);
        due && self.swap(until, HALF_OPEN)
    }

    /// The probe ended without a verdict: the next request is one.
    pub(crate) fn release_probe(&self) {
        self.swap(HALF_OPEN, LONG_AGO);
    }

    /// Learns from an outcome; true if the breaker should open.
    fn learn(&self, at: Duration, verdict: Verdict, rule: &Breaker) -> bool {
        if self.phase.load(Ordering::Relaxed) != CLOSED || verdict == Verdict::Neither {
            return false;
        }
        let bad = verdict == Verdict::Bad;
        if rule.ratio.is_some() {
            self.window.add(at, rule.window, bad);
        }
        if !bad {
            if self.in_a_row.load(Ordering::Relaxed) > 0 {
                self.in_a_row.store(0, Ordering::Relaxed);
            }
            return false;
        }
        let in_a_row = self
            .in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        rule.consecutive.is_some_and(|most| in_a_row >= most) || self.window.is_over(at, rule)
    }

    /// Opens from `from`; `jitter` is from 0.0 to 1.0. False if another worker was first.
    fn open(&self, from: u64, at: Duration, rule: &Breaker, jitter: f64) -> bool {
        let openings = self.openings.load(Ordering::Relaxed);
        let healthy = nanos(at).saturating_sub(self.closed_at.load(Ordering::Relaxed));
        // A relapse soon after the last time keeps growing; one after as long a healthy time begins anew.
        let openings = if from == CLOSED && healthy > nanos(open_time(rule, openings)) {
            0
        } else {
            openings
        };
        let length = open_time(rule, openings + 1).mul_f64(1.0 + JITTER * jitter);
        let until = nanos(at + length).min(HALF_OPEN - 1);
        let opened = self.swap(from, until.max(LONG_AGO));
        if opened {
            self.openings.store(openings + 1, Ordering::Relaxed);
        }
        opened
    }

    fn close(&self, at: Duration) -> bool {
        let closed = self.swap(HALF_OPEN, CLOSED);
        if closed {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.closed_at.store(nanos(at), Ordering::Relaxed);
            self.window.clear();
        }
        closed
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        self.phase
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

/// Takes in what became of a request to `endpoint` of `service`; `probe` says that it was the probe.
pub(crate) fn learn(
    service: &Service,
    endpoint: &Endpoint,
    (verdict, probe): (Verdict, bool),
    at: Duration,
    rule: &Breaker,
) -> Option<Change> {
    let state = &endpoint.breaker;
    if !probe {
        let opens = state.learn(at, verdict, rule);
        return (opens && trip(service, state, at, rule)).then_some(Change::Opened);
    }
    match verdict {
        Verdict::Neither => {
            state.release_probe();
            None
        }
        Verdict::Good => state.close(at).then_some(Change::Closed),
        Verdict::Bad => {
            state.open(HALF_OPEN, at, rule, fastrand::f64());
            None
        }
    }
}

/// Opens, and takes that back if too many of the service's endpoints are open then.
fn trip(service: &Service, state: &State, at: Duration, rule: &Breaker) -> bool {
    if !state.open(CLOSED, at, rule, fastrand::f64()) {
        return false;
    }
    let endpoints = service.endpoints();
    let weighty = endpoints.iter().filter(|member| member.weight > 0);
    let (mut all, mut open) = (0, 0);
    for member in weighty {
        all += 1;
        open += u64::from(!member.endpoint.breaker.is_closed());
    }
    if open > most_open(all, rule) {
        state.phase.store(CLOSED, Ordering::Relaxed);
        return false;
    }
    service.tripped.fetch_add(1, Ordering::Relaxed);
    true
}

/// How many of `all` endpoints may be open at once: one at least, unless it is the only one and must not.
fn most_open(all: u64, rule: &Breaker) -> u64 {
    let share = all * u64::from(rule.max_ejected.millionths()) / 1_000_000;
    match all {
        0 | 1 if !rule.lone => 0,
        _ if rule.max_ejected.millionths() == 0 => 0,
        _ => share.max(1),
    }
}

/// The member of `members` whose probe is due, which the caller then is.
pub(crate) fn due<'a>(
    service: &Service,
    mut members: impl Iterator<Item = &'a Member>,
    due: impl Fn(&Member) -> bool,
) -> Option<&'a Member> {
    let tripped = service.tripped.load(Ordering::Relaxed);
    if tripped == 0 {
        return None;
    }
    let mut open = false;
    let found = members.find(|member| {
        open |= !member.endpoint.breaker.is_closed();
        due(member)
    });
    if !open {
        // Nothing is open any more; if one has opened since, the number is another one.
        let _raced =
            service
                .tripped
                .compare_exchange(tripped, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
    found
}

/// Doubles with each opening; zero before the first.
fn open_time(rule: &Breaker, openings: u32) -> Duration {
    match openings {
        0 => Duration::ZERO,
        _ => {
            let factor = 1_u32
                .checked_shl((openings - 1).min(31))
                .unwrap_or(u32::MAX);
            rule.open_for
                .saturating_mul(factor)
                .min(rule.max_open_for.max(rule.open_for))
        }
    }
}

/// Outcomes of the latest past, in slots of a tenth of the window: each packs its number (24 bits), all and bad ones (20
/// bits each).
#[derive(Debug, Default)]
struct Window([AtomicU64; 10]);

impl Window {
    fn add(&self, at: Duration, window: Duration, bad: bool) {
        let number = number(at, window);
        let Some(slot) = usize::try_from(number % SLOTS)
            .ok()
            .and_then(|index| self.0.get(index))
        else {
            return;
        };
        let add = |word| {
            let (of, all, failed) = unpack(word);
            let (all, failed) = if of == number & NUMBER {
                (all, failed)
            } else {
                (0, 0)
            };
            let all = (all + 1).min(COUNT);
            Some(pack(number, all, (failed + u64::from(bad)).min(all)))
        };
        // The closure always returns a value, so this cannot fail.
        let _previous = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn is_over(&self, at: Duration, rule: &Breaker) -> bool {
        let Some(ratio) = rule.ratio else {
            return false;
        };
        let now = number(at, rule.window);
        let (mut all, mut bad) = (0, 0);
        for slot in &self.0 {
            let (of, total, failed) = unpack(slot.load(Ordering::Relaxed));
            if now.wrapping_sub(of) & NUMBER < SLOTS {
                all += total;
                bad += failed;
            }
        }
        all >= u64::from(rule.min_requests)
            && bad * 1_000_000 >= all * u64::from(ratio.millionths())
    }

    fn clear(&self) {
        self.0
            .iter()
            .for_each(|slot| slot.store(0, Ordering::Relaxed));
    }
}

/// The slot of time that `at` falls in.
fn number(at: Duration, window: Duration) -> u64 {
    nanos(at) / (nanos(window) / SLOTS).max(1)
}

fn pack(number: u64, all: u64, bad: u64) -> u64 {
    (number & NUMBER) << 40 | all << 20 | bad
}

fn unpack(word: u64) -> (u64, u64, u64) {
    (word >> 40, word >> 20 & COUNT, word & COUNT)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const CLOSED: u64 = 0;
const HALF_OPEN: u64 = u64::MAX;
/// Open until a time that has always passed.
const LONG_AGO: u64 = 1;
/// How much longer than asked for a breaker stays open at most, as a share: so that proxies do not probe together.
const JITTER: f64 = 0.2;
/// As many as [`Window`] has.
const SLOTS: u64 = 10;
const NUMBER: u64 = (1 << 24) - 1;
const COUNT: u64 = (1 << 20) - 1;

#[cfg(test)]
mod tests;
