//! Shares, weights, avoidance and load, on a clock that the tests move.

use std::collections::HashMap;

use weft_policy::balance::HashKey;

use super::*;
use crate::discovery::service::ServiceName;

const LEAST_LOADED: Balance = Balance {
    algorithm: Algorithm::LeastLoaded,
    locality: Locality::Prefer,
    warmup: None,
};

fn pick(service: &Service, avoid: &[u64], now: Instant) -> Option<Picked> {
    let wish = Wish {
        avoid,
        ..wish(&LEAST_LOADED, None, now)
    };
    super::pick(service, &wish)
}

fn wish(balance: &Balance, key: Option<u64>, now: Instant) -> Wish<'_> {
    Wish {
        balance,
        breaker: &Breaker::UNWRITTEN,
        key,
        avoid: &[],
        now,
    }
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for latency in [None, Some(ms(20))] {
        let service = service(&[1, 1, 1]);
        let now = Instant::now();
        for endpoint in endpoints(&service) {
            latency
                .into_iter()
                .for_each(|rtt| endpoint.observe(now, rtt));
        }
        for (endpoint, share) in shares(&service, 10_000, now) {
            assert!(
                (0.30..=0.36).contains(&share),
                "latency {latency:?}: endpoint {endpoint} got {share}"
            );
        }
    }
}

#[test]
fn shares_stay_equal_with_noisy_latencies_and_hiccups() {
    let service = service(&[1, 1, 1]);
    let start = Instant::now();
    let mut noise = fastrand::Rng::with_seed(7);
    let mut counts: HashMap<u64, u32> = HashMap::new();
    for n in 0..10_000_u64 {
        let picked = pick(&service, &[], start + Duration::from_micros(400 * n)).unwrap();
        *counts.entry(picked.id).or_default() += 1;
        let hiccup = if noise.u32(..1_000) == 0 { 8_000 } else { 0 };
        picked.observe(
            Duration::from_micros(noise.u64(150..450) + hiccup),
            Outcome::Answered,
        );
    }
    for (endpoint, count) in counts {
        assert!(
            (3_000..=3_600).contains(&count),
            "endpoint {endpoint} got {count} of 10000"
        );
    }
}

#[test]
fn weights_hold_when_idle_and_under_load() {
    let rows: &[(&[u32], &[f64])] = &[
        (&[3, 1], &[0.75, 0.25]),
        (&[6, 3, 1], &[0.6, 0.3, 0.1]),
        (&[0, 1, 1], &[0.0, 0.5, 0.5]),
    ];
    for (weights, want) in rows {
        for in_flight in [0, 40] {
            let service = service(weights);
            let ids: Vec<u64> = endpoints(&service)
                .iter()
                .map(|endpoint| endpoint.id)
                .collect();
            let got = shares_with(&service, 10_000, Instant::now(), in_flight);
            for (id, want) in ids.iter().zip(*want) {
                let share = got.get(id).copied().unwrap_or(0.0);
                assert!(
                    (share - want).abs() <= 0.04,
                    "weights {weights:?}, {in_flight} in flight: {share}, want {want}"
                );
            }
        }
    }
}

#[test]
fn a_slow_endpoint_gets_less() {
    let service = service(&[1, 1, 1]);
    let now = Instant::now();
    let all = endpoints(&service);
    for (endpoint, rtt) in all.iter().zip([ms(100), ms(10), ms(10)]) {
        endpoint.observe(now, rtt);
    }
    let shares = shares(&service, 10_000, now);
    assert!(
        shares.get(&all[0].id).copied().unwrap_or(0.0) < 0.05,
        "{shares:?}"
    );
}

#[test]
fn an_endpoint_that_is_fast_again_gets_its_share_back() {
    let service = service(&[1, 1]);
    let now = Instant::now();
    let all = endpoints(&service);
    all[0].observe(now, Duration::from_secs(1));
    all[1].observe(now, ms(10));
    let mut late = now;
    for _ in 0..6_000 {
        late += ms(20);
        pick(&service, &[], late)
            .unwrap()
            .observe(ms(10), Outcome::Answered);
    }
    let share = shares(&service, 10_000, late)[&all[0].id];
    assert!((0.45..=0.55).contains(&share), "{share}");
}

#[test]
fn a_new_endpoint_gets_its_share_at_once() {
    let service = service(&[1, 1, 1, 1]);
    let now = Instant::now();
    let all = endpoints(&service);
    all[..3]
        .iter()
        .for_each(|endpoint| endpoint.observe(now, Duration::from_micros(300)));
    let share = shares(&service, 10_000, now)[&all[3].id];
    assert!((0.22..=0.28).contains(&share), "{share}");
}

#[test]
fn a_busy_endpoint_gets_less() {
    let service = service(&[1, 1]);
    let now = Instant::now();
    let busy = pick(&service, &[], now).unwrap();
    for _ in 0..100 {
        assert_ne!(pick(&service, &[], now).unwrap().id, busy.id);
    }
    drop(busy);
    assert!(
        endpoints(&service)
            .iter()
            .all(|endpoint| endpoint.pending() == 0)
    );
}

#[test]
fn failing_fast_does_not_attract_traffic() {
    let service = service(&[1, 1]);
    let now = Instant::now();
    let all = endpoints(&service);
    all.iter()
        .for_each(|endpoint| endpoint.observe(now, ms(20)));
    let mut failed = 0;
    for n in 0..1_000 {
        let picked = pick(&service, &[], now + ms(n)).unwrap();
        if picked.id == all[0].id {
            failed += 1;
            picked.observe(Duration::from_micros(50), Outcome::Failed);
        } else {
            picked.observe(ms(20), Outcome::Answered);
        }
    }
    assert!(failed < 20, "{failed} of 1000 went to the failing endpoint");
}

#[test]
fn a_retry_goes_to_another_endpoint_first() {
    let service = service(&[1, 1, 0]);
    let now = Instant::now();
    let all = endpoints(&service);
    for _ in 0..100 {
        assert_eq!(pick(&service, &[all[0].id], now).unwrap().id, all[1].id);
    }
    assert!(
        pick(&service, &[all[0].id, all[1].id], now).is_some(),
        "falls back to any"
    );
}

#[test]
fn an_endpoint_that_was_taken_out_rests() {
    let service = service(&[1, 1]);
    let now = Instant::now();
    let all = endpoints(&service);
    all[0].take_out(now, Duration::from_secs(5));
    all[0].take_out(now, Duration::from_secs(1));
    for _ in 0..100 {
        assert_eq!(
            pick(&service, &[], now + Duration::from_secs(4))
                .unwrap()
                .id,
            all[1].id
        );
    }
    assert_eq!(
        pick(&service, &[all[1].id], now + Duration::from_secs(5))
            .unwrap()
            .id,
        all[0].id
    );
}

#[test]
fn a_service_is_never_left_without_an_endpoint() {
    let now = Instant::now();
    let lone = service(&[1]);
    endpoints(&lone)[0].take_out(now, Duration::from_secs(60));
    assert!(pick(&lone, &[], now).is_some(), "a lone endpoint");

    let service = service(&[1, 1, 1]);
    let all = endpoints(&service);
    for (endpoint, at) in all.iter().zip([20, 10, 30]) {
        endpoint.take_out(now + ms(at), Duration::from_secs(60));
    }
    assert_eq!(
        pick(&service, &[], now + ms(50)).unwrap().id,
        all[1].id,
        "who was out the longest"
    );
    assert_eq!(
        pick(&service, &[all[1].id], now + ms(50)).unwrap().id,
        all[0].id,
        "another one first"
    );
    assert!(
        pick(&self::service(&[0, 0]), &[], now).is_none(),
        "weight 0 gets nothing"
    );
    assert!(
        pick(&self::service(&[]), &[], now).is_none(),
        "no endpoints"
    );
}

#[test]
fn a_lower_tier_serves_only_while_the_first_cannot() {
    let now = Instant::now();
    let member = |priority, port| Member {
        priority,
        ..member(1, port)
    };
    let service = Service::new(
        name().into(),
        None,
        Endpoints::new(vec![member(1, 9), member(0, 1), member(0, 2)]),
    );
    let all = endpoints(&service);
    assert_eq!(all[2].address.port(), 9);
    for _ in 0..100 {
        assert_ne!(pick(&service, &[], now).unwrap().id, all[2].id);
    }
    all[..2]
        .iter()
        .for_each(|endpoint| endpoint.take_out(now, Duration::from_secs(1)));
    assert_eq!(pick(&service, &[], now).unwrap().id, all[2].id);
}

#[test]
fn few_available_among_many_are_found_by_weight() {
    let service = service(&[1; 500]);
    let now = Instant::now();
    let all = endpoints(&service);
    all[2..]
        .iter()
        .for_each(|endpoint| endpoint.take_out(now, Duration::from_secs(1)));
    let shares = shares(&service, 4_000, now);
    assert_eq!(shares.len(), 2);
    for (endpoint, share) in shares {
        assert!(
            (0.45..=0.55).contains(&share),
            "endpoint {endpoint} got {share}"
        );
    }
}

/// Counts who is picked when nothing stays pending.
fn counts(service: &Service, balance: &Balance, picks: u32, now: Instant) -> HashMap<u16, u32> {
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let picked = super::pick(service, &wish(balance, None, now)).unwrap();
        *counts.entry(picked.address.port()).or_default() += 1;
    }
    counts
}

fn by(algorithm: Algorithm) -> Balance {
    Balance {
        algorithm,
        ..LEAST_LOADED
    }
}

fn by_hash() -> Balance {
    by(Algorithm::Hash(HashKey::ClientIp))
}

#[test]
fn round_robin_takes_exact_turns_by_weight() {
    let rows: &[(&[u32], &[u32])] = &[(&[1, 1, 1], &[400, 400, 400]), (&[3, 0, 1], &[900, 0, 300])];
    for (weights, want) in rows {
        let got = counts(
            &service(weights),
            &by(Algorithm::RoundRobin),
            1_200,
            Instant::now(),
        );
        for (port, want) in (1..).zip(*want) {
            let got = got.get(&port).copied().unwrap_or(0);
            assert_eq!(got, *want, "weights {weights:?}, endpoint {port}");
        }
    }
}

#[test]
fn round_robin_shares_the_turns_of_who_is_out() {
    let service = service(&[1, 1, 1]);
    let now = Instant::now();
    endpoints(&service)[1].take_out(now, ms(1_000));
    let got = counts(&service, &by(Algorithm::RoundRobin), 1_000, now);
    assert_eq!((got[&1], got.get(&2), got[&3]), (500, None, 500));
}

#[test]
fn round_robin_goes_on_when_endpoints_change() {
    let service = service(&[1, 1, 1, 1]);
    let now = Instant::now();
    counts(&service, &by(Algorithm::RoundRobin), 2, now);
    let members = service.endpoints().iter().skip(1).cloned().collect();
    service.set_endpoints(Endpoints::new(members));
    let got = counts(&service, &by(Algorithm::RoundRobin), 300, now);
    assert_eq!([got[&2], got[&3], got[&4]], [100, 100, 100]);
}

#[test]
fn random_holds_weights_whatever_runs() {
    let service = service(&[3, 1]);
    let now = Instant::now();
    let _busy: Vec<_> = (0..50).map(|_| pick(&service, &[], now)).collect();
    let got = counts(&service, &by(Algorithm::Random), 10_000, now);
    assert!((7_300..=7_700).contains(&got[&1]), "{got:?}");
}

/// The endpoint of each of many keys when nothing runs.
fn placed(service: &Service) -> Vec<u16> {
    let (balance, now) = (by_hash(), Instant::now());
    let port = |key: u32| {
        let key = Some(hash::of(&key.to_be_bytes()));
        let picked = super::pick(service, &wish(&balance, key, now));
        picked.unwrap().address.port()
    };
    (0..4_000).map(port).collect()
}

#[test]
fn a_key_stays_with_its_endpoint_in_every_proxy() {
    assert_eq!(placed(&service(&[1, 1, 1])), placed(&service(&[1, 1, 1])));
    assert_eq!(
        hash::of(b"alice"),
        14_254_268_223_963_220_572,
        "in every version"
    );
}

#[test]
fn keys_are_shared_out_by_weight() {
    let rows: &[(&[u32], &[f64])] = &[
        (&[1, 1, 1, 1], &[0.25; 4]),
        (&[2, 1, 1, 0], &[0.5, 0.25, 0.25, 0.0]),
    ];
    for (weights, want) in rows {
        let placed = placed(&service(weights));
        for (port, want) in (1..).zip(*want) {
            let got = placed.iter().filter(|at| **at == port).count();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let share = got as f64 / placed.len() as f64;
            assert!(
                (share - want).abs() < 0.03,
                "{weights:?}: {port} has {share}"
            );
        }
    }
}

#[test]
fn one_endpoint_more_or_less_moves_only_its_keys() {
    for count in [2_usize, 5, 10, 30] {
        let (few, many) = (
            placed(&service(&vec![1; count])),
            placed(&service(&vec![1; count + 1])),
        );
        let moved: Vec<_> = few
            .iter()
            .zip(&many)
            .filter(|(one, other)| one != other)
            .collect();
        let new = u16::try_from(count + 1).unwrap();
        assert!(
            moved.iter().all(|(_, to)| **to == new),
            "keys move to the new one only"
        );
        let fair = few.len() / (count + 1);
        assert!(
            (fair * 7 / 10..=fair * 13 / 10).contains(&moved.len()),
            "{count} endpoints and one more: {} of {} keys moved",
            moved.len(),
            few.len()
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_endpoint_has_more_than_a_quarter_above_the_mean(
        count in 1_usize..8, keys in proptest::collection::vec(0_u64..4, 1..200),
    ) {
        let service = service(&vec![1; count]);
        let (balance, now) = (by_hash(), Instant::now());
        let mut running = Vec::new();
        for key in keys {
            let key = Some(hash::of(&key.to_be_bytes()));
            running.push(super::pick(&service, &wish(&balance, key, now)).unwrap());
            let bound = (running.len() * 5).div_ceil(count * 4);
            let most = endpoints(&service).iter().map(|endpoint| endpoint.pending()).max();
            proptest::prop_assert!(most.unwrap() as usize <= bound, "{most:?} of {}", running.len());
        }
    }
}

#[test]
fn a_key_is_read_from_where_policy_says() {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-user", http::HeaderValue::from_static("alice"));
    headers.insert(
        "cookie",
        http::HeaderValue::from_static("a=b; session=s1; x"),
    );
    headers.append("cookie", http::HeaderValue::from_static("other=2"));
    let client = [10, 0, 0, 1].into();
    let key = |of: HashKey| hash::key(&by(Algorithm::Hash(of)), &headers, client);
    let header = |name: &'static str| key(HashKey::Header(http::HeaderName::from_static(name)));
    let cookie = |name: &str| key(HashKey::Cookie(name.to_owned()));
    assert!(header("x-user").is_some());
    assert_eq!(header("x-other"), None);
    assert_eq!(cookie("session"), Some(hash::of(b"s1")));
    assert_eq!(cookie("other"), Some(hash::of(b"2")));
    assert_eq!(cookie("sess"), None);
    assert_eq!(cookie("x"), None);
    assert_eq!(key(HashKey::ClientIp), Some(hash::of(&[10, 0, 0, 1])));
    assert_eq!(hash::key(&LEAST_LOADED, &headers, client), None);
}

#[test]
fn without_a_key_the_least_loaded_is_taken() {
    let service = service(&[1, 1]);
    let now = Instant::now();
    let busy = pick(&service, &[], now).unwrap();
    for _ in 0..50 {
        let picked = super::pick(&service, &wish(&by_hash(), None, now)).unwrap();
        assert_ne!(picked.id, busy.id);
    }
}

/// Endpoints 1, 2, ... each in its zone, seen from zone `a`.
fn zoned(zones: &[&str]) -> Service {
    let members = zones.iter().zip(1..).map(|(zone, port)| Member {
        zone: Some((*zone).into()),
        near: *zone == "a",
        ..member(1, port)
    });
    Service::new(name().into(), None, Endpoints::new(members.collect()))
}

fn near(locality: Locality) -> Balance {
    Balance {
        locality,
        ..by(Algorithm::RoundRobin)
    }
}

#[test]
fn locality_decides_who_is_near_enough() {
    let now = Instant::now();
    let service = zoned(&["a", "b", "a", "b"]);
    let ports = |locality| {
        let mut ports: Vec<_> = counts(&service, &near(locality), 400, now)
            .into_keys()
            .collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(ports(Locality::Prefer), [1, 3]);
    assert_eq!(ports(Locality::Strict), [1, 3]);
    assert_eq!(ports(Locality::Off), [1, 2, 3, 4]);
}

#[test]
fn what_is_near_is_left_as_its_endpoints_fail() {
    let now = Instant::now();
    let service = zoned(&["a", "a", "b", "b"]);
    let all = endpoints(&service);
    all[0].take_out(now, ms(1_000));
    let half = counts(&service, &near(Locality::Prefer), 4_000, now);
    assert!((2_600..=3_000).contains(&half[&2]), "70% stay: {half:?}");
    all[1].take_out(now, ms(1_000));
    let none = counts(&service, &near(Locality::Prefer), 400, now);
    assert_eq!((none[&3], none[&4]), (200, 200));
    let strict = counts(&service, &near(Locality::Strict), 400, now);
    assert!(strict.keys().all(|port| *port <= 2), "{strict:?}");
}

#[test]
fn strict_has_nobody_where_nobody_is_near() {
    let service = zoned(&["b", "c"]);
    let now = Instant::now();
    let strict = near(Locality::Strict);
    assert!(super::pick(&service, &wish(&strict, None, now)).is_none());
    assert!(
        pick(&service, &[], now).is_some(),
        "prefer takes what there is"
    );
}

#[test]
fn a_new_endpoint_warms_up() {
    let warmup = Some(Duration::from_secs(10));
    for algorithm in [
        Algorithm::LeastLoaded,
        Algorithm::RoundRobin,
        Algorithm::Random,
    ] {
        let balance = Balance {
            warmup,
            ..by(algorithm)
        };
        let start = Instant::now();
        let old = member(1, 1);
        let new = Arc::new(Endpoint::new(
            ([127, 0, 0, 1], 2).into(),
            None,
            None,
            start + Duration::from_secs(60),
        ));
        let service = Service::new(
            name().into(),
            None,
            Endpoints::new(vec![
                old,
                Member {
                    endpoint: new,
                    ..member(1, 3)
                },
            ]),
        );
        for (after, want) in [(0, 0.09), (5, 0.33), (10, 0.5), (60, 0.5)] {
            let now = start + Duration::from_secs(60 + after);
            let got = counts(&service, &balance, 10_000, now)
                .get(&2)
                .copied()
                .unwrap_or(0);
            let share = f64::from(got) / 10_000.0;
            assert!(
                (share - want).abs() < 0.03,
                "{:?} after {after} s: {share}",
                balance.algorithm
            );
        }
    }
}

fn shares(service: &Service, picks: u32, now: Instant) -> HashMap<u64, f64> {
    shares_with(service, picks, now, 0)
}

/// The share of each endpoint while `in_flight` requests are kept running.
fn shares_with(service: &Service, picks: u32, now: Instant, in_flight: usize) -> HashMap<u64, f64> {
    let mut counts: HashMap<u64, u32> = HashMap::new();
    let mut running = Vec::new();
    for _ in 0..picks {
        let picked = pick(service, &[], now).unwrap();
        *counts.entry(picked.id).or_default() += 1;
        running.push(picked);
        if running.len() > in_flight {
            running.swap_remove(fastrand::usize(..running.len()));
        }
    }
    counts
        .into_iter()
        .map(|(id, count)| (id, f64::from(count) / f64::from(picks)))
        .collect()
}

fn service(weights: &[u32]) -> Service {
    let members = weights
        .iter()
        .zip(1..)
        .map(|(weight, port)| member(*weight, port))
        .collect();
    Service::new(name().into(), None, Endpoints::new(members))
}

fn member(weight: u32, port: u16) -> Member {
    let endpoint = Endpoint::new(([127, 0, 0, 1], port).into(), None, None, Instant::now());
    Member {
        endpoint: Arc::new(endpoint),
        weight,
        priority: 0,
        zone: None,
        near: true,
    }
}

fn endpoints(service: &Service) -> Vec<Arc<Endpoint>> {
    service
        .endpoints()
        .iter()
        .map(|member| Arc::clone(&member.endpoint))
        .collect()
}

fn name() -> ServiceName {
    ServiceName {
        name: "orders".into(),
        namespace: "shop".into(),
        host: "orders.shop.svc.cluster.local".into(),
        port: 80,
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
