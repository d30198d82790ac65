//! Discovery over a real DNS server on a UDP socket, which each test fills and misuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::discovery::service::Service;
use crate::discovery::{Discovery, DiscoveryConfig, LookupError};

#[tokio::test]
async fn addresses_become_endpoints_and_ipv4_is_preferred() {
    let zone = Zone::default();
    zone.set(
        "db.example.",
        60,
        &[a([10, 0, 0, 1]), a([10, 0, 0, 2]), aaaa("fd00::1")],
    );
    zone.set("six.example.", 60, &[aaaa("fd00::2")]);
    resolving(&zone, async |discovery| {
        let service = discovery.by_name("DB.example", 5432).await.unwrap();
        assert_eq!(
            addresses(&service),
            ["10.0.0.1:5432", "10.0.0.2:5432", "[fd00::1]:5432"]
        );
        assert_eq!(
            (&*service.name.name, service.name.port),
            ("db.example", 5432)
        );
        assert_eq!(service.endpoints().tiers().len(), 2);
        let service = discovery.by_name("six.example", 80).await.unwrap();
        assert_eq!(addresses(&service), ["[fd00::2]:80"]);
    })
    .await;
}

#[tokio::test]
async fn a_known_name_costs_no_query() {
    let zone = Zone::default();
    zone.set("db.example.", 60, &[a([10, 0, 0, 1])]);
    resolving(&zone, async |discovery| {
        assert!(discovery.known("db.example", 80).is_none());
        let first = discovery.by_name("db.example", 80).await.unwrap();
        let queries = zone.queries();
        for host in ["db.example", "DB.EXAMPLE", "db.example."] {
            assert!(
                Arc::ptr_eq(&first, &discovery.by_name(host, 80).await.unwrap()),
                "{host}"
            );
            assert!(discovery.known(host, 80).is_some(), "{host}");
        }
        assert_eq!(zone.queries(), queries);
        let other = discovery.by_name("db.example", 81).await.unwrap();
        assert_eq!(addresses(&other), ["10.0.0.1:81"]);
    })
    .await;
}

#[tokio::test]
async fn many_callers_share_one_lookup() {
    let zone = Zone::default();
    zone.set("db.example.", 60, &[a([10, 0, 0, 1])]);
    resolving(&zone, async |discovery| {
        let callers = (0..50).map(|_| discovery.by_name("db.example", 80));
        let services = join_all(callers).await;
        assert!(services.iter().all(|service| service.is_ok()));
        assert_eq!(zone.queries(), 2, "A and AAAA");
    })
    .await;
}

#[tokio::test]
async fn a_name_without_addresses_is_not_found() {
    let zone = Zone::default();
    zone.set("text.example.", 60, &[]);
    resolving(&zone, async |discovery| {
        for host in ["no.example", "text.example"] {
            let error = discovery.by_name(host, 80).await.unwrap_err();
            assert!(
                matches!(error, LookupError::NotFound { .. }),
                "{host}: {error:?}"
            );
        }
        let error = discovery.by_name("no such host", 80).await.unwrap_err();
        assert!(matches!(error, LookupError::Name { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_changed_address_is_followed_when_its_ttl_ends() {
    let zone = Zone::default();
    zone.set("db.example.", 1, &[a([10, 0, 0, 1])]);
    resolving(&zone, async |discovery| {
        let held = discovery.by_name("db.example", 80).await.unwrap();
        zone.set("db.example.", 1, &[a([10, 0, 0, 2])]);
        eventually(Duration::from_secs(3), "the new address", || {
            discovery
                .known("db.example", 80)
                .is_some_and(|service| addresses(&service) == ["10.0.0.2:80"])
        })
        .await;
        assert_eq!(
            addresses(&held),
            ["10.0.0.2:80"],
            "a held service follows, too"
        );
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_delays_the_lookup_by_a_second_at_most() {
    let zone = Zone::default();
    zone.set("db.example.", 60, &[a([10, 0, 0, 1])]);
    zone.set("warm.example.", 60, &[a([10, 0, 0, 1])]);
    resolving(&zone, async |discovery| {
        discovery.by_name("warm.example", 80).await.unwrap();
        zone.lose(2);
        let start = Instant::now();
        discovery.by_name("db.example", 80).await.unwrap();
        assert!(
            start.elapsed() <= Duration::from_millis(1_200),
            "{:?}",
            start.elapsed()
        );
    })
    .await;
}

#[tokio::test]
async fn the_last_answer_is_used_while_the_server_is_down() {
    let zone = Zone::default();
    zone.set("db.example.", 1, &[a([10, 0, 0, 1])]);
    resolving(&zone, async |discovery| {
        discovery.by_name("db.example", 80).await.unwrap();
        zone.lose(usize::MAX);
        eventually(Duration::from_secs(10), "a refresh fails", || {
            assert!(
                discovery.known("db.example", 80).is_some(),
                "never without an answer"
            );
            discovery.metrics().dns_failures() > 0
        })
        .await;
        let start = Instant::now();
        let service = discovery.by_name("db.example", 80).await.unwrap();
        assert_eq!(addresses(&service), ["10.0.0.1:80"]);
        assert!(
            start.elapsed() < Duration::from_millis(100),
            "nobody waits: {:?}",
            start.elapsed()
        );
    })
    .await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_in_time() {
    let zone = Zone::default();
    zone.lose(usize::MAX);
    resolving(&zone, async |discovery| {
        let start = Instant::now();
        let error = discovery.by_name("db.example", 80).await.unwrap_err();
        assert!(matches!(error, LookupError::Dns { .. }), "{error:?}");
        assert!(
            start.elapsed() <= Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    })
    .await;
}

#[tokio::test]
async fn srv_records_give_ports_weights_and_priorities() {
    let zone = Zone::default();
    let srv =
        |priority, weight, port, target| RData::SRV(SRV::new(priority, weight, port, name(target)));
    zone.set(
        "_grpc._tcp.shop.example.",
        60,
        &[
            srv(10, 3, 8080, "a.example."),
            srv(10, 0, 8081, "b.example."),
            srv(20, 0, 9090, "b.example."),
        ],
    );
    zone.set("a.example.", 60, &[a([10, 0, 0, 1])]);
    zone.set("b.example.", 60, &[a([10, 0, 0, 2]), aaaa("fd00::2")]);
    zone.set("_none._tcp.shop.example.", 60, &[srv(0, 0, 0, ".")]);
    zone.set(
        "_dead._tcp.shop.example.",
        60,
        &[srv(0, 0, 1, "gone.example.")],
    );
    resolving(&zone, async |discovery| {
        let service = discovery
            .by_name("_grpc._tcp.shop.example", 80)
            .await
            .unwrap();
        let endpoints = service.endpoints();
        let tiers: Vec<Vec<(String, u32)>> = endpoints
            .tiers()
            .iter()
            .map(|tier| {
                let mut tier: Vec<_> = tier
                    .members()
                    .iter()
                    .map(|member| (member.endpoint.address.to_string(), member.weight))
                    .collect();
                tier.sort();
                tier
            })
            .collect();
        let of = |members: &[(&str, u32)]| {
            members
                .iter()
                .map(|(at, weight)| (String::from(*at), *weight))
                .collect()
        };
        let want: [Vec<(String, u32)>; 4] = [
            of(&[("10.0.0.1:8080", 300), ("10.0.0.2:8081", 1)]),
            of(&[("[fd00::2]:8081", 1)]),
            of(&[("10.0.0.2:9090", 1)]),
            of(&[("[fd00::2]:9090", 1)]),
        ];
        assert_eq!(tiers, want);
        for host in ["_none._tcp.shop.example", "_dead._tcp.shop.example"] {
            let error = discovery.by_name(host, 80).await.unwrap_err();
            assert!(
                matches!(error, LookupError::NotFound { .. }),
                "{host}: {error:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn aliases_are_followed() {
    let zone = Zone::default();
    zone.set(
        "www.example.",
        60,
        &[RData::CNAME(CNAME(name("db.example.")))],
    );
    zone.set(
        "loose.example.",
        60,
        &[RData::CNAME(CNAME(name("gone.example.")))],
    );
    zone.set("db.example.", 60, &[a([10, 0, 0, 1])]);
    resolving(&zone, async |discovery| {
        let service = discovery.by_name("www.example", 80).await.unwrap();
        assert_eq!(addresses(&service), ["10.0.0.1:80"]);
        let error = discovery.by_name("loose.example", 80).await.unwrap_err();
        assert!(matches!(error, LookupError::NotFound { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn addresses_and_localhost_are_not_asked_for() {
    let zone = Zone::default();
    resolving(&zone, async |discovery| {
        let rows = [
            ("127.0.0.1", vec!["127.0.0.1:80"]),
            ("[::1]", vec!["[::1]:80"]),
            ("localhost", vec!["127.0.0.1:80", "[::1]:80"]),
            ("LocalHost.", vec!["127.0.0.1:80", "[::1]:80"]),
        ];
        for (host, want) in rows {
            let service = discovery.by_name(host, 80).await.unwrap();
            assert_eq!(addresses(&service), want, "{host}");
            assert!(discovery.known(host, 80).is_some(), "{host}");
        }
        assert_eq!(zone.queries(), 0);
    })
    .await;
}

#[tokio::test]
async fn names_are_searched_for_as_the_system_says() {
    let zone = Zone::default();
    zone.set("orders.shop.test.", 60, &[a([10, 0, 0, 1])]);
    zone.set("orders.test.", 60, &[a([10, 0, 0, 2])]);
    zone.set("a.b.", 60, &[a([10, 0, 0, 3])]);
    zone.set("a.b.shop.test.", 60, &[a([10, 0, 0, 4])]);
    serving(&zone, async |server| {
        let rows = [
            ("orders", 1, "10.0.0.1"),
            ("a.b", 1, "10.0.0.3"),
            ("a.b", 2, "10.0.0.4"),
            ("orders.test", 2, "10.0.0.2"),
        ];
        for (host, ndots, want) in rows {
            let upstream = upstream(server, &["shop.test.", "test."], ndots);
            let answer = upstream
                .resolve(&ServiceName::called(host, 80).unwrap())
                .await
                .unwrap();
            assert_eq!(
                answer.targets[0].address,
                format!("{want}:80").parse().unwrap(),
                "{host}, ndots {ndots}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_failing_search_domain_is_no_proof_that_a_name_is_missing() {
    let zone = Zone::default();
    zone.fail("orders.broken.test.");
    zone.fail("users.broken.test.");
    zone.set("users.test.", 60, &[a([10, 0, 0, 1])]);
    serving(&zone, async |server| {
        let upstream = upstream(server, &["broken.test.", "test."], 1);
        let found = upstream
            .resolve(&ServiceName::called("users", 80).unwrap())
            .await;
        assert_eq!(found.unwrap().targets.len(), 1);
        let found = upstream
            .resolve(&ServiceName::called("orders", 80).unwrap())
            .await;
        assert!(matches!(found, Err(Failure::Unanswered(_))), "{found:?}");
        let found = upstream
            .resolve(&ServiceName::called("nobody", 80).unwrap())
            .await;
        assert!(matches!(found, Err(Failure::NotFound { .. })), "{found:?}");
    })
    .await;
}

#[tokio::test]
async fn the_hosts_file_comes_before_the_search_domains() {
    let zone = Zone::default();
    zone.set("db.test.", 60, &[a([10, 0, 0, 1])]);
    serving(&zone, async |server| {
        let mut upstream = upstream(server, &["test."], 1);
        upstream
            .hosts
            .read_hosts_conf(b"192.0.2.7 db\n".as_slice())
            .unwrap();
        let answer = upstream
            .resolve(&ServiceName::called("DB", 80).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.targets[0].address, "192.0.2.7:80".parse().unwrap());
        assert_eq!(zone.queries(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_worker_of_another_runtime_gets_its_answer() {
    let zone = Zone::default();
    zone.set("db.example.", 60, &[a([10, 0, 0, 1])]);
    resolving(&zone, async |discovery| {
        let discovery = discovery.clone();
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(discovery.by_name("db.example", 80))
                .map(|service| addresses(&service))
        });
        eventually(Duration::from_secs(5), "the worker ends", || {
            worker.is_finished()
        })
        .await;
        assert_eq!(worker.join().unwrap().unwrap(), ["10.0.0.1:80"]);
    })
    .await;
}

#[tokio::test]
async fn a_name_fails_at_once_when_discovery_has_ended() {
    let (discovery, supply) = Discovery::new(config(Vec::new())).unwrap();
    drop(supply);
    assert!(matches!(
        discovery.by_name("db.example", 80).await,
        Err(LookupError::Stopped)
    ));
}

#[test]
fn srv_names_are_told_by_their_form() {
    let rows = [
        ("_http._tcp.example", true),
        ("_http._tcp", false),
        ("_http.example", false),
        ("http._tcp.example", false),
    ];
    for (host, want) in rows {
        assert_eq!(is_srv(host), want, "{host}");
    }
}

/// What the server answers; a name with a list that is empty exists without records.
#[derive(Clone, Debug, Default)]
struct Zone(Arc<ZoneState>);

#[derive(Debug, Default)]
struct ZoneState {
    records: Mutex<HashMap<Name, Option<Vec<Record>>>>,
    queries: AtomicUsize,
    lose: AtomicUsize,
}

impl Zone {
    fn set(&self, host: &str, ttl: u32, data: &[RData]) {
        let records = data
            .iter()
            .map(|data| Record::from_rdata(name(host), ttl, data.clone()));
        self.0
            .records
            .lock()
            .insert(name(host), Some(records.collect()));
    }

    /// Answers SERVFAIL for `host`.
    fn fail(&self, host: &str) {
        self.0.records.lock().insert(name(host), None);
    }

    /// Answers none of the next `count` queries.
    fn lose(&self, count: usize) {
        self.0.lose.store(count, Ordering::Relaxed);
    }

    /// Queries so far, answered or not.
    fn queries(&self) -> usize {
        self.0.queries.load(Ordering::Relaxed)
    }

    fn reply(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.0.queries.fetch_add(1, Ordering::Relaxed);
        let less = |left: usize| left.checked_sub(1);
        if self
            .0
            .lose
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
        {
            return None;
        }
        let mut reply = Message::from_vec(query).unwrap().into_response();
        let asked = reply.queries[0].clone();
        match self.0.records.lock().get(asked.name()) {
            Some(Some(records)) => {
                let of_kind = |record: &&Record| {
                    [asked.query_type(), RecordType::CNAME].contains(&record.record_type())
                };
                reply.add_answers(records.iter().filter(of_kind).cloned());
            }
            Some(None) => reply.metadata.response_code = ResponseCode::ServFail,
            None => reply.metadata.response_code = ResponseCode::NXDomain,
        }
        Some(reply.to_vec().unwrap())
    }
}

/// Runs `test` with a server of `zone`.
async fn serving(zone: &Zone, test: impl AsyncFnOnce(SocketAddr)) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = async {
        let mut packet = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut packet).await.unwrap();
            if let Some(reply) = zone.reply(&packet[..length]) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    };
    tokio::select! {
        () = server => {}
        () = test(socket.local_addr().unwrap()) => {}
    }
}

/// Runs `test` with a discovery that asks a server of `zone`.
async fn resolving(zone: &Zone, test: impl AsyncFnOnce(&Discovery)) {
    serving(zone, async |server| {
        let (discovery, supply) = Discovery::new(config(vec![server])).unwrap();
        tokio::select! {
            () = supply.run(CancellationToken::new()) => panic!("discovery ended"),
            () = test(&discovery) => {}
        }
    })
    .await;
}

fn config(servers: Vec<SocketAddr>) -> DiscoveryConfig {
    DiscoveryConfig {
        services_file: None,
        namespace: "default".into(),
        zone: None,
        dns: DnsSource::Servers(servers),
        ads: None,
    }
}

fn upstream(server: SocketAddr, search: &[&str], ndots: usize) -> Upstream {
    let settings = Settings::of(&DnsSource::Servers(vec![server]));
    let search = search.iter().map(|domain| name(domain)).collect();
    Upstream::new(Settings {
        search,
        ndots,
        ..settings
    })
    .unwrap()
}

fn addresses(service: &Service) -> Vec<String> {
    let mut addresses: Vec<_> = service
        .endpoints()
        .iter()
        .map(|member| member.endpoint.address.to_string())
        .collect();
    addresses.sort();
    addresses
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(ip: [u8; 4]) -> RData {
    RData::A(A(ip.into()))
}

fn aaaa(ip: &str) -> RData {
    RData::AAAA(AAAA(ip.parse().unwrap()))
}

async fn eventually(within: Duration, what: &str, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
