//! The life of names, on a clock that the tests move.

use std::net::SocketAddr;

use hickory_resolver::net::NetError;
use tokio::sync::oneshot;

use super::*;
use crate::discovery::cache::entry::MAX_RETRY_DELAY;
use crate::discovery::dns::Target;
use crate::discovery::endpoint::Endpoint;

/// Names under test, and a clock.
struct World<'a> {
    names: Names<'a>,
    shared: &'a Shared,
    now: Instant,
}

impl<'a> World<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            names: Names::new(shared),
            shared,
            now: Instant::now(),
        }
    }

    /// Asks for a host as a worker does that does not know it.
    fn ask(
        &mut self,
        host: &str,
    ) -> (
        Option<Lookup>,
        oneshot::Receiver<Result<Arc<Service>, LookupError>>,
    ) {
        let (answer, answered) = oneshot::channel();
        let name = ServiceName::called(host, 80).unwrap();
        (
            self.names.ask(
                Question {
                    name,
                    answer: Waiting(answer),
                },
                self.now,
            ),
            answered,
        )
    }

    /// Asks, has the lookup end with `found`, and returns what was told.
    fn resolve(
        &mut self,
        host: &str,
        found: Result<Answer, Failure>,
    ) -> Result<Arc<Service>, LookupError> {
        let (lookup, mut answered) = self.ask(host);
        self.names
            .answered(&lookup.expect("a lookup is needed").id, found, self.now);
        answered.try_recv().unwrap()
    }

    /// Passes time, and returns the lookups that come due.
    fn pass(&mut self, time: Duration) -> Vec<Lookup> {
        self.now += time;
        self.names.expire(self.now)
    }

    /// A worker's use of a name that it knows.
    fn use_known(&self, host: &str) -> Option<Arc<Service>> {
        self.shared
            .resolved
            .load()
            .get(&Key::new(host, 80).unwrap())
    }
}

fn addresses(hosts: &[u8], ttl: Duration) -> Result<Answer, Failure> {
    let target = |host: &u8| Target {
        address: ([10, 0, 0, *host], 80).into(),
        weight: 1,
        priority: 0,
    };
    Ok(Answer {
        targets: hosts.iter().map(target).collect(),
        ttl,
    })
}

fn silence() -> Result<Answer, Failure> {
    Err(Failure::Unanswered(NetError::Timeout))
}

fn missing(ttl: u64) -> Result<Answer, Failure> {
    Err(Failure::NotFound {
        ttl: Some(secs(ttl)),
    })
}

fn endpoints(service: &Service) -> HashMap<u8, Arc<Endpoint>> {
    let last = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    service
        .endpoints()
        .iter()
        .map(|member| (last(member.endpoint.address), Arc::clone(&member.endpoint)))
        .collect()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn all_who_wait_share_one_lookup() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let (first, mut one) = world.ask("a.example");
    let (second, mut other) = world.ask("A.example.");
    assert!(second.is_none(), "asked already");
    world
        .names
        .answered(&first.unwrap().id, addresses(&[1], secs(30)), world.now);
    let (one, other) = (
        one.try_recv().unwrap().unwrap(),
        other.try_recv().unwrap().unwrap(),
    );
    assert!(Arc::ptr_eq(&one, &other));
    assert!(Arc::ptr_eq(&one, &world.use_known("a.example").unwrap()));
}

#[test]
fn a_used_name_is_refreshed_and_an_unused_one_is_asked_for_again() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let service = world
        .resolve("a.example", addresses(&[1, 2], secs(30)))
        .unwrap();
    let before = endpoints(&service);
    assert!(world.pass(secs(29)).is_empty());
    world.use_known("a.example").unwrap();

    let lookups = world.pass(secs(1));
    assert_eq!(lookups.len(), 1, "refreshed when the TTL ends");
    assert!(
        world.use_known("a.example").is_some(),
        "served while the refresh runs"
    );
    world
        .names
        .answered(&lookups[0].id, addresses(&[2, 3], secs(30)), world.now);
    let after = endpoints(&service);
    assert_eq!(
        after[&2].id, before[&2].id,
        "an endpoint that stays keeps its state"
    );
    assert!(before[&1].retired() && !after[&2].retired() && !after[&3].retired());

    // Used while the refresh ran, so it is refreshed once more.
    assert_eq!(world.pass(secs(30)).len(), 1);
    world
        .names
        .answered(&lookups[0].id, addresses(&[2, 3], secs(30)), world.now);
    assert!(world.pass(secs(30)).is_empty(), "nobody used it");
    assert!(world.use_known("a.example").is_none(), "its TTL has ended");
    assert!(!after[&2].retired(), "connections may still be of use");
    let (lookup, _answered) = world.ask("a.example");
    assert!(lookup.is_some());
}

#[test]
fn ttls_are_kept_within_bounds() {
    let rows = [
        (Duration::ZERO, secs(1)),
        (secs(7), secs(7)),
        (Duration::MAX, secs(300)),
    ];
    for (ttl, want) in rows {
        let shared = Shared::default();
        let mut world = World::new(&shared);
        world.resolve("a.example", addresses(&[1], ttl)).unwrap();
        assert_eq!(world.names.next_due(), Some(world.now + want), "{ttl:?}");
    }
}

#[test]
fn a_forgotten_name_retires_its_endpoints() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let service = world
        .resolve("a.example", addresses(&[1], secs(30)))
        .unwrap();
    world.pass(secs(30));
    assert!(!endpoints(&service)[&1].retired());
    world.pass(MAX_IDLE);
    assert!(endpoints(&service)[&1].retired());
    assert!(world.names.entries.is_empty() && world.names.due.is_empty());
}

#[test]
fn the_last_good_answer_stays_while_nobody_answers() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    world
        .resolve("a.example", addresses(&[1], secs(1)))
        .unwrap();
    world.use_known("a.example").unwrap();
    let mut tries = 0;
    for _ in 0..600 {
        for lookup in world.pass(Duration::from_millis(500)) {
            tries += 1;
            world.names.answered(&lookup.id, silence(), world.now);
        }
        let service = world
            .use_known("a.example")
            .expect("served from the last good answer");
        assert_eq!(endpoints(&service).len(), 1);
    }
    assert!(
        (10..=20).contains(&tries),
        "backs off: {tries} tries in 300 s"
    );
    let lookup = world.pass(MAX_RETRY_DELAY);
    world
        .names
        .answered(&lookup[0].id, addresses(&[2], secs(1)), world.now);
    assert!(
        endpoints(&world.use_known("a.example").unwrap()).contains_key(&2),
        "and followed when it is back"
    );
}

#[test]
fn a_dormant_name_is_served_from_its_last_good_answer_when_the_lookup_fails() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let first = world
        .resolve("a.example", addresses(&[1], secs(1)))
        .unwrap();
    world.pass(secs(60));
    assert!(world.use_known("a.example").is_none());
    let again = world.resolve("a.example", silence()).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(
        world.use_known("a.example").is_some(),
        "the next ones do not wait"
    );
}

#[test]
fn a_failing_name_that_nobody_uses_is_given_up() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let service = world
        .resolve("a.example", addresses(&[1], secs(1)))
        .unwrap();
    world.use_known("a.example");
    for _ in 0..700 {
        for lookup in world.pass(secs(1)) {
            world.names.answered(&lookup.id, silence(), world.now);
        }
    }
    assert!(endpoints(&service)[&1].retired());
    assert!(world.names.entries.is_empty());
}

#[test]
fn a_missing_name_is_remembered_for_five_seconds_at_most() {
    for (ttl, want) in [(3_600, 5), (2, 2), (0, 1)] {
        let shared = Shared::default();
        let mut world = World::new(&shared);
        let told = world.resolve("no.example", missing(ttl));
        assert!(matches!(told, Err(LookupError::NotFound { .. })));
        world.pass(secs(want) - Duration::from_millis(1));
        let (lookup, mut answered) = world.ask("no.example");
        assert!(lookup.is_none(), "ttl {ttl}: known to be missing");
        assert!(matches!(
            answered.try_recv().unwrap(),
            Err(LookupError::NotFound { .. })
        ));
        world.pass(Duration::from_millis(1));
        assert!(
            world.ask("no.example").0.is_some(),
            "ttl {ttl}: asked again"
        );
    }
}

#[test]
fn a_name_that_vanishes_loses_its_endpoints() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let service = world
        .resolve("a.example", addresses(&[1], secs(1)))
        .unwrap();
    world.use_known("a.example");
    let lookups = world.pass(secs(1));
    world.names.answered(&lookups[0].id, missing(30), world.now);
    assert!(endpoints(&service)[&1].retired());
    assert!(world.use_known("a.example").is_none());
}

#[test]
fn silence_about_a_new_name_is_told_and_soon_tried_again() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let told = world.resolve("a.example", silence());
    assert!(matches!(told, Err(LookupError::Dns { .. })));
    assert!(world.ask("a.example").0.is_none());
    world.pass(secs(1));
    assert!(world.ask("a.example").0.is_some());
}

#[test]
fn names_are_bounded_and_those_in_use_stay() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    world
        .resolve("used.example", addresses(&[1], secs(300)))
        .unwrap();
    let idle = world
        .resolve("idle.example", addresses(&[2], secs(300)))
        .unwrap();
    world.use_known("used.example");
    for n in 0..3 * MAX_NAMES {
        world.now += Duration::from_micros(1);
        let _missing = world.resolve(&format!("n{n}.example"), missing(5));
    }
    assert_eq!(world.names.entries.len(), MAX_NAMES);
    assert!(world.names.due.len() <= MAX_NAMES);
    assert!(!endpoints(&idle)[&2].retired(), "missing names go first");
    for n in 0..MAX_NAMES {
        world.now += Duration::from_micros(1);
        world
            .resolve(&format!("m{n}.example"), addresses(&[3], secs(300)))
            .unwrap();
    }
    assert_eq!(world.names.entries.len(), MAX_NAMES);
    assert_eq!(shared.metrics.resolved_names(), MAX_NAMES as u64);
    assert!(world.use_known("used.example").is_some());
    assert!(endpoints(&idle)[&2].retired());
}

#[test]
fn lookups_are_bounded() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let running: Vec<_> = (0..MAX_LOOKUPS)
        .map(|n| world.ask(&format!("n{n}.example")))
        .collect();
    assert!(running.iter().all(|(lookup, _)| lookup.is_some()));
    let (lookup, mut answered) = world.ask("one-more.example");
    assert!(lookup.is_none());
    assert!(matches!(
        answered.try_recv().unwrap(),
        Err(LookupError::Overloaded { .. })
    ));
    assert!(
        world.ask("n0.example").0.is_none(),
        "who asks for the same waits with the others"
    );
    world.names.answered(
        &running[0].0.as_ref().unwrap().id,
        addresses(&[1], secs(1)),
        world.now,
    );
    assert!(world.ask("one-more.example").0.is_some());
}

#[test]
fn repeated_addresses_count_once() {
    let shared = Shared::default();
    let mut world = World::new(&shared);
    let service = world
        .resolve("a.example", addresses(&[1, 1, 2], secs(1)))
        .unwrap();
    assert_eq!(service.endpoints().len(), 2);
}
