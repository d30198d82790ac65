//! Chooses an endpoint of a service, once an attempt.
//!
//! `retry` calls it for each attempt; `pool` then finds a connection to what was picked. Policy names the algorithm, each a
//! file below; here is what they have in common: tiers and zones, who is passed over, and how much of its weight a new
//! endpoint has. Which endpoints exist is up to `discovery`.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_policy::balance::{Algorithm, Balance, Locality};
use weft_policy::breaker::Breaker;

use self::breaker::{Change, Verdict};
use crate::discovery::endpoint::{Endpoint, Endpoints, Member, Tier};
use crate::discovery::service::Service;

pub(crate) mod breaker;
mod draw;
pub(crate) mod ewma;
pub(crate) mod hash;
mod least_loaded;
mod locality;
mod round_robin;
pub(crate) mod verdict;

/// An endpoint chosen for a request; counts as load of the endpoint while it lives.
///
/// Keep it until the answer has ended, and [`observe`](Self::observe) the head of the answer: what is dropped unobserved,
/// like a call that its caller gave up, teaches nothing about the endpoint.
#[derive(Debug)]
pub(crate) struct Picked {
    endpoint: Arc<Endpoint>,
    at: Instant,
    /// The request is the probe of a breaker that was open.
    probe: Cell<bool>,
}

impl Picked {
    fn new(member: &Member, now: Instant, probe: bool) -> Self {
        member.endpoint.begin();
        Self {
            endpoint: Arc::clone(&member.endpoint),
            at: now,
            probe: Cell::new(probe),
        }
    }

    /// Has the breaker learn what became of the request.
    pub(crate) fn learn(
        &self,
        service: &Service,
        verdict: Verdict,
        rule: &Breaker,
    ) -> Option<Change> {
        let outcome = (verdict, self.probe.take());
        // No look at the clock for an endpoint that does well.
        if outcome == (Verdict::Good, false) && self.endpoint.breaker.is_untroubled(rule) {
            return None;
        }
        let at = self.endpoint.age(Instant::now());
        breaker::learn(service, &self.endpoint, outcome, at, rule)
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
        if self.probe.take() {
            self.endpoint.breaker.release_probe();
        }
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

/// What is asked of a pick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// The service's own.
    pub(crate) balance: &'a Balance,
    /// The service's own.
    pub(crate) breaker: &'a Breaker,
    /// What [`hash::key`] read from the request.
    pub(crate) key: Option<u64>,
    /// Ids of endpoints that are to be passed over while there are others.
    pub(crate) avoid: &'a [u64],
    pub(crate) now: Instant,
}

impl Wish<'_> {
    /// Whether the endpoint's breaker lets traffic flow.
    fn admits(&self, member: &Member) -> bool {
        member.endpoint.breaker.is_closed() || !self.breaker.is_on()
    }

    /// Whether this request is now the probe of the endpoint's breaker.
    fn begins_probe(&self, member: &Member) -> bool {
        let endpoint = &member.endpoint;
        member.weight > 0
            && self.breaker.is_on()
            && !self.avoid.contains(&endpoint.id)
            && endpoint.breaker.begin_probe(endpoint.age(self.now))
    }
}

/// Picks an endpoint of `service`, one that is not to be avoided if there is any.
///
/// `None` only if the service has no endpoint of a weight above zero, or none in our zone where it must be, or if the
/// breakers of all are open: where all are taken out, the one that was taken out first is tried again, so that a lone
/// endpoint is never left out.
pub(crate) fn pick(service: &Service, wish: &Wish<'_>) -> Option<Picked> {
    let endpoints = service.endpoints();
    if let Some(probed) = breaker::due(service, endpoints.iter(), |member| {
        wish.begins_probe(member)
    }) {
        return Some(Picked::new(probed, wish.now, true));
    }
    let wanted = |endpoint: &Endpoint| !wish.avoid.contains(&endpoint.id);
    let chosen = among(service, &endpoints, wish, wanted)
        .or_else(|| among(service, &endpoints, wish, |_| true))
        .or_else(|| least_recently_taken_out(&endpoints, wish));
    chosen.map(|member| Picked::new(member, wish.now, false))
}

/// The choice among the available endpoints that are `wanted`, from the first tier that has any.
fn among<'a>(
    service: &Service,
    endpoints: &'a Endpoints,
    wish: &Wish<'_>,
    wanted: impl Fn(&Endpoint) -> bool,
) -> Option<&'a Member> {
    let open = |member: &Member| {
        let is_open = member.weight > 0
            && member.endpoint.is_available(wish.now)
            && wish.admits(member)
            && wanted(&member.endpoint);
        if is_open { warmth(member, wish) } else { 0 }
    };
    endpoints.tiers().iter().find_map(|tier| {
        let parts = locality::parts(tier, wish.balance.locality, open);
        let mut parts = parts.into_iter().flatten();
        parts.find_map(|part| one_of(service, part, wish, open))
    })
}

fn one_of<'a>(
    service: &Service,
    tier: &'a Tier,
    wish: &Wish<'_>,
    open: impl Fn(&Member) -> u32 + Copy,
) -> Option<&'a Member> {
    match (&wish.balance.algorithm, wish.key) {
        (Algorithm::LeastLoaded, _) | (Algorithm::Hash(_), None) => {
            least_loaded::choose(tier, wish.now, open)
        }
        (Algorithm::RoundRobin, _) => round_robin::choose(tier, &service.turns, open),
        (Algorithm::Random, _) => draw::draw(tier, open),
        (Algorithm::Hash(_), Some(key)) => hash::choose(tier, key, open),
    }
}

/// How much of a member's weight counts, in thousandths: from a tenth, when it is new, to all of it.
fn warmth(member: &Member, wish: &Wish<'_>) -> u32 {
    let Some(warmup) = wish.balance.warmup else {
        return draw::WHOLE;
    };
    let age = member.endpoint.age(wish.now).as_millis();
    let grown = age * u128::from(draw::WHOLE) / warmup.as_millis().max(1);
    let grown = u32::try_from(grown).unwrap_or(draw::WHOLE);
    grown.clamp(draw::WHOLE / 10, draw::WHOLE)
}

/// The last resort: who was out the longest has the best chance to be back.
fn least_recently_taken_out<'a>(endpoints: &'a Endpoints, wish: &Wish<'_>) -> Option<&'a Member> {
    let strict = wish.balance.locality == Locality::Strict;
    let eligible = endpoints
        .iter()
        .filter(|member| member.weight > 0 && (member.near || !strict) && wish.admits(member));
    eligible.min_by_key(|member| {
        (
            wish.avoid.contains(&member.endpoint.id),
            member.endpoint.taken_out_at(),
        )
    })
}

/// What a failure counts as at least, however quickly it came: failing fast must not attract traffic.
const FAILURE_COST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
