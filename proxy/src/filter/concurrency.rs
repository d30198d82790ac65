//! Refuses requests above what the app can have in flight, counted over all workers: 503 at once instead of a queue without end.
//!
//! A place is held until the answer is complete, so a stream, a tunnel and a slow download are in flight as long as they
//! last. What is refused has not been processed, and a mesh caller is told so: its proxy may send it to another endpoint.
//!
//! Requests by which an orchestrator asks whether the app lives are never refused for being too many: a pod that is killed because it
//! is busy makes the others busier. What such a request looks like anybody can write, so it gains them little: they have a
//! reserve of [`RESERVE`] places of their own, one for callers with a verified identity and one for the others, among which is the
//! kubelet. Beyond that they are counted as any other request.

mod gradient;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use tokio::time::Instant;
use weft_policy::limits::Concurrency as Rule;

use self::gradient::Gradient;
use crate::cx::Cx;
use crate::http::body::Body;
use crate::http::grpc;
use crate::reject::Reject;

/// How many may be in flight, ready to be asked.
pub(crate) struct Concurrency {
    rule: Rule,
    gate: Arc<Gate>,
}

/// What is in flight; outlives a change of policy.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    in_flight: AtomicU32,
    /// Probes, of callers without and with an identity.
    probes: [AtomicU32; 2],
    gradient: Gradient,
}

/// A request's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Fixed,
    /// Until its answer begins, with how many were in flight when it came.
    Measured {
        since: Instant,
        among: u32,
    },
    Probe {
        secure: bool,
    },
}

impl Concurrency {
    /// `None` where policy sets no limit.
    pub(crate) fn new(rule: Option<Rule>, gate: &Arc<Gate>) -> Option<Self> {
        let gate = Arc::clone(gate);
        rule.map(|rule| Self { rule, gate })
    }

    /// A place for `request`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn enter(&self, cx: &Cx, request: &Request<Body>) -> Result<Permit, Reject> {
        let secure = cx.facts.secure;
        if is_probe(request) && take(self.gate.probes(secure), RESERVE).is_some() {
            return Ok(self.permit(Kind::Probe { secure }));
        }
        self.enter_at(Instant::now())
    }

    /// How many may be in flight now.
    pub(crate) fn limit(&self) -> u32 {
        match self.rule {
            Rule::Fixed(limit) => limit.get(),
            Rule::Auto => self.gate.gradient.limit(),
        }
    }

    fn enter_at(&self, now: Instant) -> Result<Permit, Reject> {
        let among = take(&self.gate.in_flight, self.limit()).ok_or(Reject::Overloaded)?;
        Ok(self.permit(match self.rule {
            Rule::Fixed(_) => Kind::Fixed,
            Rule::Auto => Kind::Measured { since: now, among },
        }))
    }

    fn permit(&self, kind: Kind) -> Permit {
        let gate = Arc::clone(&self.gate);
        Permit { gate, kind }
    }
}

impl Gate {
    /// Requests in flight now.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn probes(&self, secure: bool) -> &AtomicU32 {
        let [plain, meshed] = &self.probes;
        if secure { meshed } else { plain }
    }
}

impl Permit {
    /// The app's answer begins.
    pub(crate) fn answered(&mut self) {
        if let Kind::Measured { since, among } = self.kind {
            self.kind = Kind::Fixed;
            self.gate.gradient.answered(since, Instant::now(), among);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let counter = match self.kind {
            Kind::Fixed => &self.gate.in_flight,
            Kind::Measured { since, among } => {
                self.gate.gradient.given_up(since, Instant::now(), among);
                &self.gate.in_flight
            }
            Kind::Probe { secure } => self.gate.probes(secure),
        };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells a refused caller when to come again: this app's queue is short, so soon.
pub(crate) fn retry_after(headers: &mut HeaderMap) {
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    grpc::push_back(headers, 1000);
}

/// One more, and how many that makes; `None` at `limit`.
fn take(counter: &AtomicU32, limit: u32) -> Option<u32> {
    let more = |count: u32| (count < limit).then(|| count + 1);
    let before = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    before.ok().map(|before| before + 1)
}

/// Whether it looks like a question for the app's health: by the kubelet's name, a common path, or gRPC's health service.
fn is_probe(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    match *request.method() {
        Method::GET | Method::HEAD => {
            let agent = request
                .headers()
                .get(USER_AGENT)
                .map_or(&b""[..], |agent| agent.as_bytes());
            (agent.starts_with(b"kube-probe/") || PATHS.contains(&path)) && request.body().is_end()
        }
        Method::POST => path == GRPC_HEALTH,
        _ => false,
    }
}

/// Paths that Kubernetes, Spring, and their users ask for health by.
const PATHS: &[&str] = &[
    "/healthz",
    "/livez",
    "/readyz",
    "/startupz",
    "/health",
    "/live",
    "/ready",
    "/health/live",
    "/health/ready",
    "/actuator/health",
    "/actuator/health/liveness",
    "/actuator/health/readiness",
];
/// gRPC Health Checking Protocol.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";
/// More than an orchestrator asks at a time, and too few to do harm with.
const RESERVE: u32 = 8;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limited(rule: Rule) -> (Concurrency, Arc<Gate>) {
        let gate = Arc::default();
        (Concurrency::new(Some(rule), &gate).unwrap(), gate)
    }

    #[test]
    fn no_more_than_the_limit_are_in_flight_and_places_come_back() {
        let (three, gate) = limited(Rule::Fixed(NonZeroU32::new(3).unwrap()));
        let now = Instant::now();
        let mut places: Vec<Permit> = (0..3).map(|_| three.enter_at(now).unwrap()).collect();
        assert_eq!(three.enter_at(now).unwrap_err(), Reject::Overloaded);
        places.pop();
        let _place = three.enter_at(now).unwrap();
        assert_eq!(gate.in_flight(), 3);
        // Another policy counts on.
        let two = Concurrency::new(Some(Rule::Fixed(NonZeroU32::new(2).unwrap())), &gate).unwrap();
        assert!(two.enter_at(now).is_err());
        drop(places);
        assert!(two.enter_at(now).is_ok());
    }

    #[test]
    fn an_answer_is_measured_once_and_its_place_held_to_its_end() {
        let (auto, gate) = limited(Rule::Auto);
        let mut permit = auto.enter_at(Instant::now()).unwrap();
        permit.answered();
        permit.answered();
        assert_eq!(gate.in_flight(), 1);
        drop(permit);
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn a_probe_gives_back_the_place_that_it_had() {
        let (one, gate) = limited(Rule::Fixed(NonZeroU32::MIN));
        let _held = one.enter_at(Instant::now()).unwrap();
        for secure in [false, true] {
            assert!(take(gate.probes(secure), RESERVE).is_some());
            let mut probe = one.permit(Kind::Probe { secure });
            probe.answered();
            drop(probe);
            assert_eq!(gate.probes(secure).load(Ordering::Relaxed), 0);
        }
        assert_eq!(gate.in_flight(), 1);
    }

    #[test]
    fn probes_are_known_by_name_and_path() {
        let rows = [
            ("GET", "/", "kube-probe/1.34", true),
            ("HEAD", "/healthz", "", true),
            ("GET", "/health/ready", "", true),
            ("POST", GRPC_HEALTH, "grpc-go", true),
            ("GET", "/healthz/../orders", "", false),
            ("GET", "/orders", "not kube-probe/1.34", false),
            ("POST", "/healthz", "kube-probe/1.34", false),
            ("DELETE", "/", "kube-probe/1.34", false),
        ];
        for (method, path, agent, want) in rows {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(USER_AGENT, agent);
            let request = request.body(Body::empty()).unwrap();
            assert_eq!(is_probe(&request), want, "{method} {path} {agent}");
        }
    }
}
