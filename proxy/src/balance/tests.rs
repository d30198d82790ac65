//! Shares, weights, avoidance and load, on a clock that the tests move.

use std::collections::HashMap;

use super::*;
use crate::discovery::ServiceName;

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
