use std::sync::Arc;

use tokio::time::Instant;
use weft_policy::units::Share;

use super::*;
use crate::discovery::endpoint::Endpoints;
use crate::discovery::service::ServiceName;

/// At which second, and whether it was bad.
type Outcomes<'a> = &'a [(u64, bool)];

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    /// Was open for long enough: the next request is the probe.
    Due,
    /// The probe runs.
    HalfOpen,
}

impl State {
    fn phase(&self, at: Duration) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            CLOSED => Phase::Closed,
            HALF_OPEN => Phase::HalfOpen,
            until if nanos(at) < until => Phase::Open,
            _ => Phase::Due,
        }
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A service with so many endpoints.
fn service(count: u16) -> (Service, Vec<Arc<Endpoint>>) {
    let endpoint = |port| Endpoint::new(([127, 0, 0, 1], port).into(), None, None, Instant::now());
    let endpoints: Vec<_> = (1..=count).map(|port| Arc::new(endpoint(port))).collect();
    let member = |endpoint: &Arc<Endpoint>| Member {
        endpoint: Arc::clone(endpoint),
        weight: 1,
        priority: 0,
        zone: None,
        near: true,
    };
    let members = endpoints.iter().map(member).collect();
    let name: Arc<str> = Arc::from("orders");
    let name = ServiceName {
        name: Arc::clone(&name),
        namespace: Arc::clone(&name),
        host: name,
        port: 80,
    };
    (
        Service::new(Arc::new(name), None, Endpoints::new(members)),
        endpoints,
    )
}

fn bad(service: &Service, endpoint: &Endpoint, rule: &Breaker) -> Option<Change> {
    learn(service, endpoint, (Verdict::Bad, false), seconds(1), rule)
}

#[test]
fn five_failures_in_a_row_leave_an_endpoint_out_and_one_success_forgives() {
    let (service, endpoints) = service(2);
    let rule = Breaker::UNWRITTEN;
    for _ in 0..4 {
        assert_eq!(bad(&service, &endpoints[0], &rule), None);
    }
    learn(
        &service,
        &endpoints[0],
        (Verdict::Good, false),
        seconds(1),
        &rule,
    );
    for _ in 0..4 {
        assert_eq!(bad(&service, &endpoints[0], &rule), None);
    }
    learn(
        &service,
        &endpoints[0],
        (Verdict::Neither, false),
        seconds(1),
        &rule,
    );
    assert_eq!(bad(&service, &endpoints[0], &rule), Some(Change::Opened));
    assert_eq!(endpoints[0].breaker.phase(seconds(2)), Phase::Open);
    assert_eq!(endpoints[0].breaker.phase(seconds(14)), Phase::Due);
}

#[test]
fn no_more_than_the_cap_is_open_at_once() {
    let written = Breaker {
        consecutive: Some(1),
        ..Breaker::WRITTEN
    };
    let once = Breaker {
        consecutive: Some(1),
        ..Breaker::UNWRITTEN
    };
    let tenth = Breaker {
        max_ejected: Share::FIFTH,
        ..written
    };
    let rows = [
        ("unwritten, alone", once, 1, 0),
        ("unwritten, two", once, 2, 1),
        ("unwritten, three", once, 3, 1),
        ("unwritten, four", once, 4, 2),
        ("written, alone", written, 1, 1),
        ("written, three", written, 3, 3),
        ("a fifth of three is one still", tenth, 3, 1),
    ];
    for (name, rule, count, want) in rows {
        let (service, endpoints) = service(count);
        let opened = endpoints
            .iter()
            .filter(|one| bad(&service, one, &rule).is_some());
        assert_eq!(opened.count(), want, "{name}");
        let open = endpoints.iter().filter(|one| !one.breaker.is_closed());
        assert_eq!(open.count(), want, "{name}");
    }
}

#[test]
fn half_of_the_requests_in_the_window_open_it_once_there_were_enough() {
    let rule = Breaker {
        ratio: Some(Share::HALF),
        ..Breaker::WRITTEN
    };
    let rows: &[(&str, Outcomes<'_>, bool)] = &[
        (
            "four are too few",
            &[(0, true), (0, true), (0, true), (0, true)],
            false,
        ),
        (
            "five",
            &[(0, true), (1, false), (2, false), (3, true), (4, true)],
            true,
        ),
        (
            "two of five",
            &[(0, true), (1, false), (2, false), (3, false), (4, true)],
            false,
        ),
        (
            "the first has left the window",
            &[
                (0, true),
                (9, false),
                (9, false),
                (9, false),
                (11, true),
                (11, true),
            ],
            false,
        ),
    ];
    for (name, outcomes, want) in rows {
        let state = State::default();
        let mut open = false;
        for (at, failed) in *outcomes {
            let verdict = if *failed { Verdict::Bad } else { Verdict::Good };
            open = state.learn(seconds(100 + at), verdict, &rule);
        }
        assert_eq!(open, *want, "{name}");
    }
}

#[test]
fn one_probe_decides_and_failures_keep_it_open_for_longer() {
    let (service, endpoints) = service(1);
    let rule = Breaker {
        consecutive: Some(1),
        open_for: seconds(10),
        max_open_for: seconds(30),
        ..Breaker::WRITTEN
    };
    let (one, state) = (&endpoints[0], &endpoints[0].breaker);
    assert_eq!(bad(&service, one, &rule), Some(Change::Opened));
    let mut at = seconds(1);
    for (least, most) in [(10, 12), (20, 24), (30, 36), (30, 36)] {
        assert_eq!(
            state.phase(at + seconds(least) - Duration::from_millis(1)),
            Phase::Open
        );
        at += seconds(most);
        assert!(state.begin_probe(at), "due after {most} s");
        assert!(!state.begin_probe(at), "one probe at a time");
        assert!(!state.is_closed());
        learn(&service, one, (Verdict::Bad, true), at, &rule);
        assert_eq!(state.phase(at), Phase::Open);
    }
    at += seconds(36);
    assert!(state.begin_probe(at));
    learn(&service, one, (Verdict::Neither, true), at, &rule);
    assert!(
        state.begin_probe(at),
        "a probe that told nothing is repeated"
    );
    let closed = learn(&service, one, (Verdict::Good, true), at, &rule);
    assert_eq!(
        (closed, state.phase(at)),
        (Some(Change::Closed), Phase::Closed)
    );
    // It fails again at once: the growth goes on. Later it begins anew.
    learn(&service, one, (Verdict::Bad, false), at + seconds(1), &rule);
    assert_eq!(state.phase(at + seconds(25)), Phase::Open);
    at += seconds(40);
    assert!(state.begin_probe(at));
    learn(&service, one, (Verdict::Good, true), at, &rule);
    at += seconds(100);
    learn(&service, one, (Verdict::Bad, false), at, &rule);
    assert_eq!(state.phase(at + seconds(13)), Phase::Due);
}
