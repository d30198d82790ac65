//! How often a service may be called: counted over all workers, told to whoever must wait, changed while it runs.

use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, Request, StatusCode};
use tokio::time::Instant;
use weft_tests::app::echo;
use weft_tests::client::{Answer, Http1, Http2, grpc_call};
use weft_tests::eventually::eventually;
use weft_tests::mesh::Pair;
use weft_tests::metrics::Scrape;

fn pair(policy: &str) -> Pair {
    Pair::with(
        echo(),
        |web| web,
        |orders| orders.policy(policy).set("WEFT_WORKERS", 4),
    )
}

#[tokio::test]
async fn of_101_requests_over_several_workers_exactly_100_pass() {
    let pair = pair("rate-limit: 100/min");
    let began = Instant::now();
    let client = async |count: usize| {
        let mut client = Http1::connect(pair.web.outbound).await;
        let mut answers: Vec<Answer> = Vec::new();
        for _ in 0..count {
            answers.push(client.get("orders", "/").await);
        }
        answers
    };
    let counts = [13, 13, 13, 13, 13, 12, 12, 12];
    let answers = join_all(counts.map(client)).await;
    let answers: Vec<Answer> = answers.into_iter().flatten().collect();
    let took = began.elapsed();
    let (passed, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 200);
    // One token comes back every 600 ms, which a busy machine may need.
    let tokens = usize::try_from(took.as_millis() / 600).unwrap();
    assert!(
        (100..=100 + tokens).contains(&passed.len()),
        "{} in {took:?}",
        passed.len()
    );
    for refused in &refused {
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.reject(), "rate_limited");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.header("ratelimit"), "\"100/min\";r=0;t=1");
        assert_eq!(refused.header("ratelimit-policy"), "\"100/min\";q=100;w=60");
        assert!(refused.text().contains(r#""reason":"rate_limited""#));
    }
    let scrape = Scrape::of(pair.orders.metrics).await;
    for (result, count) in [("passed", passed.len()), ("refused", refused.len())] {
        let result = format!("result=\"{result}\"");
        let counted = scrape.sum("weft_rate_limit_total", &[r#"limit="0""#, &result]);
        assert_eq!(
            counted,
            f64::from(u32::try_from(count).unwrap()),
            "{result}"
        );
    }
}

#[tokio::test]
async fn a_grpc_caller_gets_resource_exhausted_and_a_time_to_wait() {
    let pair = pair("rate-limit: 2/h");
    let client = Http2::connect(pair.web.outbound).await;
    let call = async || {
        let call = grpc_call("orders", "/shop.Orders/Get");
        client.send(call, "", HeaderMap::new()).await.unwrap()
    };
    for left in ["1", "0"] {
        let state = call().await.header("ratelimit").to_owned();
        assert!(state.contains(&format!(";r={left};")), "{state}");
    }
    let refused = call().await;
    assert_eq!(refused.status, StatusCode::OK);
    assert_eq!(refused.header("grpc-status"), "8");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1780..=1800).contains(&seconds), "{seconds}");
    let millis: u64 = refused.header("grpc-retry-pushback-ms").parse().unwrap();
    assert_eq!(millis.div_ceil(1000), seconds, "{millis} ms");
    let plain = client.get("orders", "/").await;
    assert_eq!(plain.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(plain.header("grpc-retry-pushback-ms"), "");
}

#[tokio::test]
async fn keys_are_counted_apart_and_only_what_matches_counts() {
    let pair = pair("rate-limit: [{rate: 2/h, per: header:x-key, match: {path: /api/*}}]");
    let mut client = Http1::connect(pair.web.outbound).await;
    for (path, key, want) in [
        ("/api/a", "one", 200),
        ("/api/b", "one", 200),
        ("/api/a", "one", 429),
        ("/%61pi/x/../a", "one", 429),
        ("/other", "one", 200),
        ("/api/a", "two", 200),
    ] {
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: orders\r\nx-key: {key}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, want, "{path} {key}");
    }
}

#[tokio::test]
async fn callers_are_told_apart_by_identity_and_by_the_address_that_a_trusted_proxy_saw() {
    let pair = pair("rate-limit: [{rate: 1/h, per: [identity, client-ip], trusted-hops: 1}]");
    let shop = pair.mesh.proxy("shop").start();
    for (proxy, forwarded, want) in [
        (pair.web.outbound, "192.0.2.1", 200),
        (pair.web.outbound, "192.0.2.1", 429),
        (pair.web.outbound, "6.6.6.6, 192.0.2.1", 429),
        (pair.web.outbound, "192.0.2.2", 200),
        (shop.outbound, "192.0.2.1", 200),
    ] {
        let mut client = Http1::connect(proxy).await;
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: orders\r\nx-forwarded-for: {forwarded}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, want, "{proxy} {forwarded}");
    }
}

#[tokio::test]
async fn a_new_limit_acts_at_once_and_an_old_one_goes_on_counting() {
    let pair = pair("rate-limit: [{rate: 3/h}]");
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..3 {
        assert_eq!(client.get("orders", "/").await.status, StatusCode::OK);
    }
    assert_eq!(client.get("orders", "/").await.reject(), "rate_limited");
    let more = "{rate-limit: [{rate: 3/h}], headers: {response: {set: {x-new: \"1\"}}}}";
    pair.orders.set_policy(more);
    let ask = async || client.get("orders", "/").await;
    let answer = eventually(LIVE, ask, |answer| answer.header("x-new") == "1").await;
    assert_eq!(answer.reject(), "rate_limited");
    pair.orders.set_policy("rate-limit: 1000/s");
    let ask = async || client.get("orders", "/").await.status;
    eventually(LIVE, ask, |status| *status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_refused_request_takes_from_no_limit() {
    let pair = pair("rate-limit: [{rate: 10/h}, {rate: 4/h, per: header:x-key}]");
    let client = Http2::connect(pair.web.outbound).await;
    let ask = async |key: &'static str| {
        let request = Request::get("http://orders/").header("x-key", key);
        let answer = client
            .send(request.body(()).unwrap(), "", HeaderMap::new())
            .await;
        usize::from(answer.unwrap().status == StatusCode::OK)
    };
    for (key, want) in [("one", 4), ("two", 4), ("three", 2)] {
        let passed: usize = join_all((0..20).map(|_| ask(key))).await.into_iter().sum();
        assert_eq!(passed, want, "{key}");
    }
}

/// Twice of what a change may take.
const LIVE: Duration = Duration::from_secs(4);
