//! One attempt of a request: an endpoint, a connection to it, the answer, and what it says of the endpoint.
//!
//! Called by `retry`, which decides whether there is another one.

use std::cell::{Cell, RefCell};
use std::pin::pin;

use http::header::EXPECT;
use http::{HeaderValue, Version, request};
use tokio::time::{Duration, Instant};
use tracing::info;
use weft_policy::Calls;
use weft_policy::breaker::Breaker;

use super::Outbound;
use super::route::Route;
use super::verdict::{failed, judge, late};
use crate::balance::{self, Picked, Wish, verdict};
use crate::deadline;
use crate::discovery::service::Service as Destination;
use crate::forward;
use crate::http::headers;
use crate::http::interim::Interim;
use crate::pool;
use crate::reject::Reject;
use crate::retry::{Attempt, Outcome};
use crate::telemetry::tries::Tries;

/// One request on its way.
pub(super) struct Call<'a> {
    pub(super) route: &'a Route,
    /// How the service is called that it goes to.
    pub(super) calls: &'a Calls,
    pub(super) interim: &'a Interim,
    /// The endpoint of the latest attempt.
    pub(super) chosen: RefCell<Option<Picked>>,
    pub(super) tries: RefCell<Tries>,
    /// For connections.
    pub(super) waited: Cell<Option<Duration>>,
}

impl Outbound {
    /// One attempt, and what its span is to say.
    pub(super) async fn attempt(&self, attempt: Attempt<'_>, call: &Call<'_>) -> Outcome {
        let head = call.tries.borrow_mut().begin(attempt.head);
        let attempt = Attempt {
            head: head.as_ref().unwrap_or(attempt.head),
            ..attempt
        };
        let outcome = self.send(attempt, call).await;
        call.tries
            .borrow_mut()
            .end(outcome.status(), outcome.failure());
        outcome
    }

    async fn send(&self, attempt: Attempt<'_>, call: &Call<'_>) -> Outcome {
        let picked = match call.route {
            Route::Outside(_) => None,
            Route::Service(service) => match self.pick(service, &attempt, call) {
                Some(picked) => Some(picked),
                None => return failed(nobody(service), None),
            },
        };
        if picked
            .as_ref()
            .is_some_and(|picked| self.is_ourselves(picked.dial()))
        {
            return failed(Reject::Loop, None);
        }
        if let Some(picked) = &picked {
            call.tries
                .borrow_mut()
                .to(picked.address, picked.identity.as_ref());
        }
        let lane = self.lane(call.route, picked.as_ref());
        lane.obey(pool::Rule {
            pool: call.calls.pool,
            connect: call.calls.timeout.connect,
        });
        let until = attempt.until;
        let is_stranger = until.is_some() && !is_of_the_mesh(picked.as_ref());
        let head = is_stranger.then(|| deadline::for_stranger(attempt.head));
        let head = match holds(&attempt, picked.as_ref(), call.calls.retry.max_body) {
            true => Some(held(head.as_deref().unwrap_or(attempt.head))),
            false => head,
        };
        let attempt = Attempt {
            head: head.as_deref().unwrap_or(attempt.head),
            ..attempt
        };
        let sending = forward::send(&lane, attempt, call.interim, &self.cx.worker, &call.waited);
        let outcome = match deadline::by(until, pin!(sending)).await {
            Ok(sent) => judge(sent, picked.as_ref(), until),
            Err(whose) => late(whose, picked.as_ref()),
        };
        if let (Route::Service(service), Some(picked)) = (call.route, &picked) {
            self.learn(service, picked, &outcome, &call.calls.breaker);
        }
        *call.chosen.borrow_mut() = picked;
        outcome
    }

    /// A stale connection is replaced at the same endpoint, everything else goes to another one first.
    fn pick(
        &self,
        service: &Destination,
        attempt: &Attempt<'_>,
        call: &Call<'_>,
    ) -> Option<Picked> {
        let again = call
            .chosen
            .borrow_mut()
            .take()
            .filter(|picked| attempt.fresh && !attempt.avoid.contains(&picked.id));
        let balance = &call.calls.balance;
        let client = self.cx.facts.client.ip();
        again.or_else(|| {
            let wish = Wish {
                balance,
                breaker: &call.calls.breaker,
                key: balance::hash::key(balance, &attempt.head.headers, client),
                avoid: attempt.avoid,
                now: Instant::now(),
            };
            balance::pick(service, &wish)
        })
    }

    /// Has the endpoint's breaker learn from an attempt.
    fn learn(&self, service: &Destination, picked: &Picked, outcome: &Outcome, rule: &Breaker) {
        if !rule.is_on() {
            return;
        }
        let changed = picked.learn(service, verdict::of(outcome, rule), rule);
        let Some(change) = changed else { return };
        let (to, endpoint) = (change.as_str(), picked.address);
        info!(service = %service.name.host, %endpoint, to, "circuit breaker");
        self.cx.worker.telemetry.metrics().breaker(to);
    }
}

/// Whether the body must wait at what is kept of it until the endpoint says that it has reached its app. In HTTP/2 flow control
/// does that.
fn holds(attempt: &Attempt<'_>, picked: Option<&Picked>, kept: u64) -> bool {
    attempt.head.version == Version::HTTP_11
        && is_of_the_mesh(picked)
        && attempt.body.length().is_none_or(|length| length > kept)
        && !attempt.head.headers.contains_key(EXPECT)
}

fn held(head: &request::Parts) -> Box<request::Parts> {
    let mut head = Box::new(head.clone());
    let expected = HeaderValue::from_static("100-continue");
    head.headers.insert(EXPECT, expected);
    head.headers
        .insert(headers::HELD, HeaderValue::from_static("1"));
    head
}

/// Why a service has nobody to ask.
fn nobody(service: &Destination) -> Reject {
    let endpoints = service.endpoints();
    let mut weighty = endpoints.iter().filter(|member| member.weight > 0);
    match weighty.any(|member| !member.endpoint.breaker.is_closed()) {
        true => Reject::BreakerOpen,
        false => Reject::NoEndpoint,
    }
}

/// Whether a mesh proxy reads what an attempt sends.
fn is_of_the_mesh(picked: Option<&Picked>) -> bool {
    picked.is_some_and(|picked| picked.identity.is_some())
}
