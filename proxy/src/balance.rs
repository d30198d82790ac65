//! Chooses an endpoint of a service, once a request.
//!
//! `retry` calls it for each attempt; `pool` then finds a connection to what was picked. Two endpoints are drawn by weight
//! and the less loaded one wins (power of two choices). The load is the expected latency times what runs there already.
//! Differences in latency that mean nothing, below a factor of two, are left to the draw: so equals get equal shares, and
//! weights hold. Which endpoints exist is up to `discovery`.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::Service;
use crate::discovery::endpoint::{Endpoint, Endpoints, Member, Tier};

pub(crate) mod ewma;

/// An endpoint chosen for a request; counts as load of the endpoint while it lives.
///
/// Keep it until the answer has ended, and [`observe`](Self::observe) the head of the answer: what is dropped unobserved,
/// like a call that its caller gave up, teaches nothing about the endpoint.
#[derive(Debug)]
pub(crate) struct Picked {
    endpoint: Arc<Endpoint>,
    at: Instant,
}

impl Picked {
    fn new(member: &Member, now: Instant) -> Self {
        member.endpoint.begin();
        Self {
            endpoint: Arc::clone(&member.endpoint),
            at: now,
        }
    }

    /// Returns how long ago it was chosen: what earlier attempts took elsewhere is not its doing.
    pub(crate) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// Notes that the endpoint took `rtt` to answer.
    pub(crate) fn observe(&self, rtt: Duration, outcome: Outcome) {
        let rtt = match outcome {
            Outcome::Answered => rtt,
            Outcome::Failed => rtt.max(FAILURE_COST),
        };
        self.endpoint.observe(self.at + rtt, rtt);
    }
}

impl Deref for Picked {
    type Target = Arc<Endpoint>;

    fn deref(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.end();
    }
}

/// How an endpoint did, as far as choosing it again goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered; an error of the application is an answer.
    Answered,
    /// It could not be reached, broke off, timed out, or said that it is overloaded.
    Failed,
}

/// Picks an endpoint of `service`, one whose id is not in `avoid` if there is any.
///
/// `None` only if the service has no endpoint of a weight above zero: where all are taken out, the one that was taken out
/// first is tried again, so that a lone endpoint is never left out.
pub(crate) fn pick(service: &Service, avoid: &[u64], now: Instant) -> Option<Picked> {
    let endpoints = service.endpoints();
    let chosen = among(&endpoints, now, |endpoint| !avoid.contains(&endpoint.id))
        .or_else(|| among(&endpoints, now, |_| true))
        .or_else(|| least_recently_taken_out(&endpoints, avoid));
    chosen.map(|member| Picked::new(member, now))
}

/// The choice among the available endpoints that are `wanted`, from the first tier that has any.
fn among(
    endpoints: &Endpoints,
    now: Instant,
    wanted: impl Fn(&Endpoint) -> bool,
) -> Option<&Member> {
    let eligible = |member: &Member| {
        member.weight > 0 && member.endpoint.is_available(now) && wanted(&member.endpoint)
    };
    endpoints.tiers().iter().find_map(|tier| {
        let first = draw(tier, eligible)?;
        let second = draw(tier, |member| {
            eligible(member) && member.endpoint.id != first.endpoint.id
        });
        Some(second.map_or(first, |second| lighter(tier, first, second, now)))
    })
}

/// Draws an eligible member by weight.
fn draw(tier: &Tier, eligible: impl Fn(&Member) -> bool) -> Option<&Member> {
    let total = tier.total();
    if total == 0 {
        return None;
    }
    // A rejected draw is repeated, which keeps the weights' proportions; most members are eligible most of the time.
    let mut draws = (0..MAX_DRAWS).filter_map(|_| tier.drawn(fastrand::u64(..total)));
    draws
        .find(|member| eligible(member))
        .or_else(|| draw_from_eligible(tier, &eligible))
}

/// Draws by weight when few are eligible: exact, but walks the whole tier.
fn draw_from_eligible(tier: &Tier, eligible: impl Fn(&Member) -> bool) -> Option<&Member> {
    let total: u64 = tier
        .members()
        .iter()
        .filter(|member| eligible(member))
        .map(|member| u64::from(member.weight))
        .sum();
    let mut at = (total > 0).then(|| fastrand::u64(..total))?;
    tier.members()
        .iter()
        .filter(|member| eligible(member))
        .find(|member| {
            let weight = u64::from(member.weight);
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        })
}

/// The one of two with less load; the first where they are equal, as it was drawn by weight.
fn lighter<'a>(tier: &Tier, first: &'a Member, second: &'a Member, now: Instant) -> &'a Member {
    let (one, other) = latencies(&first.endpoint, &second.endpoint, now);
    if load(tier, second, other) < load(tier, first, one) {
        second
    } else {
        first
    }
}

/// Expected latencies in seconds, made equal where the difference is too small to act on.
fn latencies(first: &Endpoint, second: &Endpoint, now: Instant) -> (f64, f64) {
    // What was never measured counts like its rival: a new endpoint gets its share from the start.
    let (Some(first), Some(second)) = (first.latency(now), second.latency(now)) else {
        return (1.0, 1.0);
    };
    let (first, second) = (
        (first + NEGLIGIBLE).as_secs_f64(),
        (second + NEGLIGIBLE).as_secs_f64(),
    );
    if first < second * COMPARABLE && second < first * COMPARABLE {
        return (1.0, 1.0);
    }
    (first, second)
}

/// What a further request would wait for: latency times the queue, which may be longer where the weight is higher.
#[expect(
    clippy::cast_precision_loss,
    reason = "weights and counts are far below 2^52"
)]
fn load(tier: &Tier, member: &Member, latency: f64) -> f64 {
    let mean = tier.total() as f64 / tier.members().len().max(1) as f64;
    latency * (1.0 + f64::from(member.endpoint.pending()) * mean / f64::from(member.weight.max(1)))
}

/// The last resort: who was out the longest has the best chance to be back.
fn least_recently_taken_out<'a>(endpoints: &'a Endpoints, avoid: &[u64]) -> Option<&'a Member> {
    let weighty = endpoints.iter().filter(|member| member.weight > 0);
    weighty.min_by_key(|member| {
        (
            avoid.contains(&member.endpoint.id),
            member.endpoint.taken_out_at(),
        )
    })
}

/// What a failure counts as at least, however quickly it came: failing fast must not attract traffic.
const FAILURE_COST: Duration = Duration::from_secs(1);

/// Latencies are told apart only above this.
const NEGLIGIBLE: Duration = Duration::from_millis(1);

/// Ratio up to which latencies count as equal.
const COMPARABLE: f64 = 2.0;

/// Draws before the tier is walked.
const MAX_DRAWS: usize = 8;

#[cfg(test)]
mod tests;
