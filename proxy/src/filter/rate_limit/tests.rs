use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderMap;
use weft_policy::rate_limit::{Rate, RateKey};

use super::*;

fn limit(count: u32, seconds: u64, per: &[RateKey]) -> RateLimit {
    let count = NonZeroU32::new(count).unwrap();
    let per_time = Duration::from_secs(seconds);
    RateLimit {
        rate: Rate {
            count,
            per: per_time,
        },
        burst: count,
        per: per.to_vec(),
        matches: weft_policy::matcher::RequestMatch::default(),
        trusted_hops: 0,
    }
}

fn limits(rules: &[RateLimit]) -> RateLimits {
    RateLimits::new(rules, &Kept::default()).unwrap()
}

fn caller(address: &str) -> Caller<'_> {
    Caller {
        address: address.parse().unwrap(),
        identity: None,
    }
}

fn request(key: &str) -> Request<Body> {
    Request::get("/")
        .header("x-key", key)
        .body(Body::empty())
        .unwrap()
}

fn announced(quota: &Quota) -> HeaderMap {
    let mut headers = HeaderMap::new();
    quota.announce(&mut headers);
    headers
}

#[test]
fn of_101_requests_in_half_a_second_exactly_100_pass_and_the_last_waits_for_the_next_token() {
    let limits = limits(&[limit(100, 60, &[])]);
    let began = Instant::now();
    let at = |number: u32| began + Duration::from_millis(5) * number;
    for number in 0..100 {
        let outcome = limits.decide(caller("192.0.2.1"), &request("a"), at(number));
        assert!(outcome.is_ok(), "request {number}");
    }
    let refused = limits
        .decide(caller("192.0.2.1"), &request("a"), at(100))
        .unwrap_err();
    let headers = announced(&refused);
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["ratelimit"], "\"100/min\";r=0;t=1");
    assert_eq!(headers["ratelimit-policy"], "\"100/min\";q=100;w=60");
    assert!(
        limits
            .decide(caller("192.0.2.1"), &request("a"), at(121))
            .is_ok()
    );
}

#[test]
fn the_wait_is_whole_seconds_rounded_up() {
    let limits = limits(&[limit(2, 60, &[])]);
    let began = Instant::now();
    for _ in 0..2 {
        limits
            .decide(caller("192.0.2.1"), &request("a"), began)
            .unwrap();
    }
    let rows = [(0, "30"), (500, "30"), (1100, "29"), (29_500, "1")];
    for (millis, want) in rows {
        let now = began + Duration::from_millis(millis);
        let refused = limits
            .decide(caller("192.0.2.1"), &request("a"), now)
            .unwrap_err();
        assert_eq!(
            announced(&refused)["retry-after"],
            want,
            "after {millis} ms"
        );
    }
}

#[test]
fn all_workers_together_pass_the_limit() {
    for per in [vec![], vec![RateKey::ClientIp]] {
        let limits = limits(&[limit(1000, 3600, &per)]);
        let now = Instant::now();
        let race = || {
            let passed = |_: &u32| {
                limits
                    .decide(caller("192.0.2.1"), &request("a"), now)
                    .is_ok()
            };
            (0..1000).filter(passed).count()
        };
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(passed, 1000, "{per:?}");
    }
}

#[test]
fn a_refused_request_takes_from_no_limit_even_when_workers_race() {
    let key = RateKey::Header(http::HeaderName::from_static("x-key"));
    let limits = limits(&[limit(1000, 3600, &[]), limit(50, 3600, &[key])]);
    let now = Instant::now();
    let race = |name: &'static str| {
        let passed = |_: &u32| {
            limits
                .decide(caller("192.0.2.1"), &request(name), now)
                .is_ok()
        };
        (0..500).filter(passed).count()
    };
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| race("a"))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(passed, 50);
    // What the refused ones gave back is there for others: 950, and no more.
    let names = [
        "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s",
        "t", "u",
    ];
    assert_eq!(names.map(race).iter().sum::<usize>(), 950);
}

#[test]
fn the_longest_wait_is_told_and_the_scarcest_quota() {
    let limits = limits(&[limit(10, 1, &[]), limit(3, 60, &[RateKey::ClientIp])]);
    let now = Instant::now();
    let ask = || limits.decide(caller("192.0.2.1"), &request("a"), now);
    let quota = ask().unwrap().unwrap();
    assert_eq!((quota.index, quota.requests), (1, 2));
    assert!((0..2).all(|_| ask().is_ok()));
    let refused = ask().unwrap_err();
    assert_eq!(refused.index, 1);
    assert_eq!(announced(&refused)["retry-after"], "20");
    let other = limits
        .decide(caller("192.0.2.2"), &request("a"), now)
        .unwrap()
        .unwrap();
    assert_eq!((other.index, other.requests), (1, 2));
}

#[test]
fn counting_survives_a_change_of_policy_that_leaves_the_limit_as_it_is() {
    let kept = Kept::default();
    let (one, other) = (limit(2, 3600, &[]), limit(5, 3600, &[]));
    let now = Instant::now();
    let first = RateLimits::new(&[one.clone(), one.clone()], &kept).unwrap();
    for _ in 0..2 {
        let passed = first.decide(caller("192.0.2.1"), &request("a"), now);
        assert!(passed.is_ok());
    }
    let second = RateLimits::new(&[other.clone(), one.clone()], &kept).unwrap();
    assert!(
        second
            .decide(caller("192.0.2.1"), &request("a"), now)
            .is_err()
    );
    // A limit that was gone is new again.
    assert!(RateLimits::new(&[], &kept).is_none());
    let third = RateLimits::new(&[one], &kept).unwrap();
    assert!(
        third
            .decide(caller("192.0.2.1"), &request("a"), now)
            .is_ok()
    );
}
