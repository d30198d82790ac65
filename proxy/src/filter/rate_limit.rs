//! Refuses what comes more often than policy allows, counted over all workers; what is refused takes from no limit.
//!
//! Comes after authentication, because limits may count by identity and claim. Each limit is exact (`gcra`), and so is each of its
//! keys in bounded memory (`table`). State outlives a change of policy for as long as the limit's own words stay the same.
//!
//! A request that several limits speak of first looks at all of them, then takes from each in their order, and hands back what it has
//! taken if another worker was faster at the last one. So no limit ever passes more than it allows and nothing is lost by
//! a refusal; in the instant between taking and handing back another worker may see one request too many.

mod announce;
mod gcra;
mod key;
mod table;
#[cfg(test)]
mod tests;

use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::Request;
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_policy::rate_limit::RateLimit;

pub(crate) use self::announce::Quota;
use self::announce::Words;
use self::gcra::{Gcra, Wait};
use self::key::Caller;
use self::table::{Table, Taken, take};
use crate::cx::Cx;
use crate::filter::Passed;
use crate::filter::matches::matches_any_reading;
use crate::http::body::Body;
use crate::reject::Reject;
use crate::telemetry::metrics::Decision;

/// The limits of one policy.
pub(crate) struct RateLimits(Vec<Limit>);

struct Limit {
    rule: RateLimit,
    gcra: Gcra,
    words: Words,
    state: Arc<State>,
}

/// What is counted under one limit.
struct State {
    began: Instant,
    seed: RandomState,
    buckets: Buckets,
}

enum Buckets {
    /// All requests together.
    One(AtomicU64),
    Many(Box<Table>),
}

/// State by limit, for the next policy to find.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Vec<(RateLimit, Arc<State>)>>);

impl RateLimits {
    /// `None` without limits.
    pub(crate) fn new(rules: &[RateLimit], kept: &Kept) -> Option<Self> {
        let mut before = kept.0.lock();
        let limits: Vec<Limit> = rules
            .iter()
            .map(|rule| Limit::new(rule, &mut before))
            .collect();
        *before = limits
            .iter()
            .map(|limit| (limit.rule.clone(), Arc::clone(&limit.state)))
            .collect();
        (!limits.is_empty()).then_some(Self(limits))
    }

    /// Counts `request`, and leaves in `passed` what its answer says of the limits.
    ///
    /// # Errors
    /// It comes too soon, and was not counted.
    pub(crate) fn pass(
        &self,
        cx: &Cx,
        request: &Request<Body>,
        passed: &mut Passed,
    ) -> Result<(), Reject> {
        let (address, identity) = (cx.facts.client.ip(), cx.facts.peer.as_ref());
        let caller = Caller { address, identity };
        let outcome = self.decide(caller, request, Instant::now());
        let metrics = cx.worker.telemetry.metrics();
        let (quota, decision) = match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(quota)) => (quota, Decision::Passed),
            Err(quota) => (quota, Decision::Refused),
        };
        metrics.rate_limited(quota.index, decision);
        passed.quota = Some(quota);
        match decision {
            Decision::Passed => Ok(()),
            Decision::Refused => Err(Reject::RateLimited),
        }
    }

    /// The quota that is closest to its end, if any limit speaks of `request`.
    ///
    /// # Errors
    /// The quota that makes it wait longest.
    fn decide(
        &self,
        caller: Caller<'_>,
        request: &Request<Body>,
        now: Instant,
    ) -> Result<Option<Quota>, Quota> {
        if let [limit] = self.0.as_slice() {
            if !limit.speaks_of(request) {
                return Ok(None);
            }
            let asked = limit.asked(0, caller, request, now);
            let taken = asked.take().map_err(|wait| asked.refused(wait))?;
            return Ok(Some(asked.left(taken)));
        }
        let numbered = self.0.iter().enumerate();
        let spoken = numbered.filter(|(_, limit)| limit.speaks_of(request));
        let asked: Vec<Asked<'_>> = spoken
            .map(|(index, limit)| limit.asked(index, caller, request, now))
            .collect();
        take_all(&asked)
    }
}

/// Takes from all or from none.
fn take_all(asked: &[Asked<'_>]) -> Result<Option<Quota>, Quota> {
    let waits = asked
        .iter()
        .filter_map(|one| Some((one, one.look().err()?)));
    if let Some((one, wait)) = waits.max_by_key(|(_, wait)| *wait) {
        return Err(one.refused(wait));
    }
    let mut taken: Vec<Taken<'_>> = Vec::with_capacity(asked.len());
    for one in asked {
        match one.take() {
            Ok(from) => taken.push(from),
            Err(wait) => {
                let back = asked.iter().zip(taken);
                back.for_each(|(one, from)| from.give_back(one.limit.gcra));
                return Err(one.refused(wait));
            }
        }
    }
    let left = asked.iter().zip(taken).map(|(one, from)| one.left(from));
    Ok(left.min_by_key(|quota| quota.requests))
}

impl Limit {
    fn new(rule: &RateLimit, before: &mut Vec<(RateLimit, Arc<State>)>) -> Self {
        let known = before.iter().position(|(known, _)| known == rule);
        let state = match known {
            // Taken out, so that the same limit written twice is two.
            Some(place) => before.swap_remove(place).1,
            None => Arc::new(State::new(rule)),
        };
        let gcra = Gcra::new(rule.rate, rule.burst);
        Self {
            words: Words::new(rule, gcra),
            rule: rule.clone(),
            gcra,
            state,
        }
    }

    fn speaks_of(&self, request: &Request<Body>) -> bool {
        matches_any_reading(&self.rule.matches, request)
    }

    fn asked(
        &self,
        index: usize,
        caller: Caller<'_>,
        request: &Request<Body>,
        now: Instant,
    ) -> Asked<'_> {
        let key = match self.state.buckets {
            Buckets::One(_) => 0,
            Buckets::Many(_) => key::of(&self.rule, &self.state.seed, caller, request),
        };
        let now = self.state.at(now);
        Asked {
            limit: self,
            index,
            key,
            now,
        }
    }
}

impl State {
    fn new(rule: &RateLimit) -> Self {
        let buckets = if rule.per.is_empty() {
            Buckets::One(AtomicU64::new(0))
        } else {
            Buckets::Many(Box::default())
        };
        Self {
            began: Instant::now(),
            seed: RandomState::new(),
            buckets,
        }
    }

    /// Nanoseconds since the beginning; never 0, which is the time of a bucket that was never used.
    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_nanos();
        u64::try_from(since)
            .unwrap_or(u64::MAX / 4)
            .saturating_add(1)
    }
}

/// One limit that speaks of a request.
struct Asked<'a> {
    limit: &'a Limit,
    index: usize,
    key: u64,
    now: u64,
}

impl<'a> Asked<'a> {
    fn take(&self) -> Result<Taken<'a>, Wait> {
        match &self.limit.state.buckets {
            Buckets::One(bucket) => take(bucket, self.now, self.limit.gcra),
            Buckets::Many(table) => table.take(self.key, self.now, self.limit.gcra),
        }
    }

    fn look(&self) -> Result<(), Wait> {
        match &self.limit.state.buckets {
            Buckets::One(bucket) => table::look(bucket, self.now, self.limit.gcra),
            Buckets::Many(table) => table.look(self.key, self.now, self.limit.gcra),
        }
    }

    fn left(&self, taken: Taken<'_>) -> Quota {
        let left = self.limit.gcra.left(taken.time, self.now);
        self.limit.words.passed(self.index, left)
    }

    fn refused(&self, wait: Wait) -> Quota {
        self.limit.words.refused(self.index, wait)
    }
}
