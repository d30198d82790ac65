//! How callers behave when a service is slow, fails or is not there: time-outs, deadlines, retries, breakers and fallbacks, as policy
//! says it under `to`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use tokio::time::{Instant, sleep};
use weft_tests::app::{self, App};
use weft_tests::client::{Answer, Http1, Http2, grpc_call};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Endpoint, Mesh, Pair, Proxy};
use weft_tests::metrics::Scrape;

/// An app that answers as it is told, and counts.
#[derive(Clone, Default)]
struct Told {
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Told {
    fn new(status: u16) -> Self {
        let told = Self::default();
        told.answers(status);
        told
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// How often it was asked since the last question.
    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    /// `/slow` takes two seconds; other paths are answered at once. What it reads of deadlines comes back.
    fn app(&self) -> App {
        let told = self.clone();
        App::http(move |request| {
            let told = told.clone();
            async move {
                told.asked.fetch_add(1, Ordering::Relaxed);
                if request.uri().path().starts_with("/slow") {
                    sleep(Duration::from_secs(2)).await;
                }
                let mut response = app::echoed(request);
                let status = told.status.load(Ordering::Relaxed);
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response
            }
        })
    }
}

fn calling(told: &Told, policy: &str) -> Pair {
    let policy = format!("to: {{orders: {{{policy}}}}}\n");
    Pair::with(told.app(), |web| web.policy(policy), |orders| orders)
}

/// The same over HTTP/1 and HTTP/2.
async fn ask(proxy: &Proxy, path: &str) -> [Answer; 2] {
    let one = Http1::connect(proxy.outbound)
        .await
        .get("orders", path)
        .await;
    let two = Http2::connect(proxy.outbound)
        .await
        .get("orders", path)
        .await;
    [one, two]
}

fn said(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.reject())
}

#[tokio::test]
async fn a_time_out_names_itself_and_comes_in_time() {
    let told = Told::new(200);
    for (policy, reject) in [
        ("timeout: 300ms", "timeout_request"),
        ("timeout: {try: 300ms}, retry: 1", "timeout_try"),
        ("retry: {attempts: 1, try-timeout: 300ms}", "timeout_try"),
    ] {
        let pair = calling(&told, policy);
        let start = Instant::now();
        for answer in ask(&pair.web, "/slow").await {
            assert_eq!(said(&answer), (504, reject), "{policy}");
        }
        assert!(start.elapsed() < Duration::from_millis(1500), "{policy}");
        for answer in ask(&pair.web, "/ok").await {
            assert_eq!(answer.status, 200, "{policy}");
        }
        let web = Http2::connect(pair.web.outbound).await;
        let call = grpc_call("orders", "/slow/Call");
        let answer = web.send(call, "", HeaderMap::new()).await.unwrap();
        assert_eq!(answer.header("grpc-status"), "4", "{policy}: {answer:?}");
    }
}

#[tokio::test]
async fn deadlines_travel_and_get_shorter() {
    let told = Told::new(200);
    let pair = calling(&told, "timeout: 5s");
    for answer in ask(&pair.web, "/ok").await {
        let left: u64 = answer.header("seen-x-weft-deadline").parse().unwrap();
        assert!((4000..=5000).contains(&left), "{left}");
    }
    let mut client = Http1::connect(pair.web.outbound).await;
    let head = "GET /slow HTTP/1.1\r\nhost: orders\r\nx-weft-deadline: 200\r\n\r\n";
    let start = Instant::now();
    client.send(head).await;
    assert_eq!(said(&client.answer().await), (504, "deadline"));
    assert!(start.elapsed() < Duration::from_secs(1));
    let web = Http2::connect(pair.web.outbound).await;
    let mut call = grpc_call("orders", "/ok/Call");
    call.headers_mut()
        .insert("grpc-timeout", "2S".parse().unwrap());
    let answer = web.send(call, "", HeaderMap::new()).await.unwrap();
    let left = answer.header("seen-grpc-timeout");
    let micros: u64 = left.strip_suffix('u').unwrap().parse().unwrap();
    assert!((1_500_000..2_000_000).contains(&micros), "{left}");
    // A hop that cannot make it says so without asking.
    told.asked();
    let head = "GET /ok HTTP/1.1\r\nhost: orders\r\nx-weft-deadline: 0\r\n\r\n";
    let mut client = Http1::connect(pair.web.outbound).await;
    client.send(head).await;
    assert_eq!(said(&client.answer().await), (504, "deadline"));
    assert_eq!(told.asked(), 0);
}

#[tokio::test]
async fn what_policy_names_is_tried_again_where_that_is_safe() {
    let rows = [
        ("retry: {attempts: 3, on: 503, backoff: 1ms}", "GET", 503, 3),
        (
            "retry: {attempts: 3, on: gateway-error, backoff: 1ms}",
            "GET",
            500,
            1,
        ),
        ("retry: {attempts: 3, on: 5xx, backoff: 1ms}", "GET", 500, 3),
        (
            "retry: {attempts: 3, on: 5xx, backoff: 1ms}",
            "POST",
            500,
            1,
        ),
        (
            "retry: {attempts: 3, on: 5xx, methods: POST, backoff: 1ms}",
            "POST",
            500,
            3,
        ),
        ("retry: 3", "GET", 503, 1),
        ("retry: {attempts: 1, on: 5xx}", "GET", 503, 1),
    ];
    for (policy, method, status, want) in rows {
        let told = Told::new(status);
        let pair = calling(&told, policy);
        let mut client = Http1::connect(pair.web.outbound).await;
        let head = format!("{method} / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nhi");
        client.send(head).await;
        let answer = client.answer().await;
        assert_eq!(said(&answer), (status, ""), "{policy} {method}");
        assert_eq!(
            answer.text(),
            "hi",
            "{policy} {method}: the body went again"
        );
        assert_eq!(told.asked(), want, "{policy} {method} {status}");
    }
}

#[tokio::test]
async fn a_grpc_status_is_tried_again_if_policy_says_that_the_method_may() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let app = App::http(move |_| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(app::text(""));
        let headers = response.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        let status = if nth < 2 { "14" } else { "0" };
        headers.insert("grpc-status", status.parse().unwrap());
        async { response }
    });
    let policy =
        "to: {orders: {retry: {attempts: 3, on: unavailable, methods: POST, backoff: 1ms}}}";
    let pair = Pair::with(app, |web| web.policy(policy), |orders| orders);
    let web = Http2::connect(pair.web.outbound).await;
    let call = grpc_call("orders", "/shop.Orders/List");
    let answer = web.send(call, "", HeaderMap::new()).await.unwrap();
    assert_eq!(answer.header("grpc-status"), "0", "{answer:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn retries_stay_within_the_budget() {
    let told = Told::new(503);
    let policy =
        "retry: {attempts: 2, on: 503, backoff: 1ms, budget: {share: 10%, min-rate: 1/min}}";
    let pair = calling(&told, policy);
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..200 {
        assert_eq!(client.get("orders", "/").await.status, 503);
    }
    let retries = told.asked() - 200;
    assert!(
        (5..=22).contains(&retries),
        "{retries} retries of 200 requests"
    );
}

/// `orders` with two endpoints, behind proxies of their own.
fn two(first: &Told, second: &Told, policy: &str) -> (Mesh, Proxy, [Proxy; 2]) {
    let mesh = Mesh::new();
    let orders = [first, second].map(|told| {
        let app = Box::leak(Box::new(told.app()));
        mesh.proxy("orders").serves(80, app.address).start()
    });
    let endpoints: Vec<Endpoint> = orders.iter().map(Proxy::endpoint).collect();
    mesh.services(&[("orders", 80, "-", &endpoints)]);
    let web = mesh.proxy("web").policy(policy).start();
    (mesh, web, orders)
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint_and_hides_the_one_that_fails() {
    let (bad, good) = (Told::new(503), Told::new(200));
    let policy = "to: {orders: {retry: {attempts: 2, on: 503, budget: 100%}, breaker: off}}\n";
    let (_mesh, web, _orders) = two(&bad, &good, policy);
    let mut client = Http1::connect(web.outbound).await;
    for _ in 0..100 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert!(bad.asked() > 0);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_without_a_word_of_policy() {
    let (bad, good) = (Told::new(500), Told::new(200));
    let (_mesh, web, _orders) = two(&bad, &good, "{}\n");
    let mut client = Http1::connect(web.outbound).await;
    let opened = async || {
        let _status = client.get("orders", "/").await;
        let scrape = Scrape::of(web.metrics).await;
        scrape.sum("weft_breaker_changes_total", &["to=\"open\""])
    };
    eventually(Duration::from_secs(10), opened, |count| *count > 0.5).await;
    assert_eq!(bad.asked(), 5, "five failures in a row");
    for _ in 0..30 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert_eq!(bad.asked(), 0);
    // Both fail: half of them, at most, are left out.
    good.answers(500);
    for _ in 0..30 {
        assert_eq!(client.get("orders", "/").await.status, 500);
    }
}

#[tokio::test]
async fn a_lone_endpoint_is_never_left_out_unless_policy_says_so() {
    let told = Told::new(500);
    let pair = Pair::new(told.app());
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..30 {
        assert_eq!(client.get("orders", "/").await.status, 500);
    }
    assert_eq!(told.asked(), 30);
}

#[tokio::test]
async fn an_open_breaker_answers_with_the_fallback_and_closes_when_the_service_is_well() {
    let told = Told::new(500);
    let policy = "breaker: {consecutive: 3, open-for: 500ms}, \
                  fallback: {status: 200, content-type: application/json, body: '{\"note\": \"订单服务繁忙\"}'}";
    let pair = calling(&told, policy);
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..3 {
        assert_eq!(client.get("orders", "/").await.status, 500);
    }
    let answer = client.get("orders", "/").await;
    assert_eq!(said(&answer), (200, ""));
    assert_eq!(answer.header("x-weft-fallback"), "breaker_open");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.text(), "{\"note\": \"订单服务繁忙\"}");
    assert_eq!(told.asked(), 3, "the service was not asked");
    let web = Http2::connect(pair.web.outbound).await;
    let call = grpc_call("orders", "/shop.Orders/List");
    let answer = web.send(call, "", HeaderMap::new()).await.unwrap();
    assert_eq!(answer.header("grpc-status"), "14", "no text for gRPC");
    assert_eq!(answer.reject(), "breaker_open");
    told.answers(200);
    let well = async || {
        client
            .get("orders", "/")
            .await
            .header("x-weft-fallback")
            .to_owned()
    };
    eventually(Duration::from_secs(5), well, String::is_empty).await;
    for _ in 0..20 {
        assert_eq!(
            client.get("orders", "/").await.header("x-weft-fallback"),
            ""
        );
    }
}

#[tokio::test]
async fn an_open_breaker_without_fallback_is_a_503_and_a_changed_policy_keeps_its_state() {
    let told = Told::new(500);
    let policy = "breaker: {ratio: 50%, min-requests: 4, open-for: 1m}";
    let pair = calling(&told, policy);
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..4 {
        assert_eq!(client.get("orders", "/").await.status, 500);
    }
    assert_eq!(
        said(&client.get("orders", "/").await),
        (503, "breaker_open")
    );
    let next =
        "to: {orders: {breaker: {ratio: 40%, min-requests: 4, open-for: 1m}, timeout: 9s}}\n";
    pair.web.change_policy(next).await;
    assert_eq!(
        said(&client.get("orders", "/").await),
        (503, "breaker_open")
    );
    pair.web
        .change_policy("to: {orders: {breaker: off}}\n")
        .await;
    assert_eq!(said(&client.get("orders", "/").await), (500, ""));
}

#[tokio::test]
async fn a_fallback_fills_in_what_the_route_took_and_acts_on_time_outs_and_dead_endpoints() {
    let told = Told::new(200);
    let policy = "routes: [{match: '/slow/{id}', timeout: 200ms, fallback: 'no {id} today'}]";
    let pair = calling(&told, policy);
    for answer in ask(&pair.web, "/slow/7").await {
        assert_eq!(said(&answer), (200, ""));
        assert_eq!(answer.header("x-weft-fallback"), "timeout_request");
        assert_eq!(answer.text(), "no 7 today");
    }
    let mesh = Mesh::new();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let endpoint = Endpoint::plain(address);
    mesh.services(&[("orders", 80, "-", &[endpoint])]);
    let web = mesh
        .proxy("web")
        .policy("to: {orders: {fallback: closed}}\n")
        .start();
    for answer in ask(&web, "/").await {
        assert_eq!(said(&answer), (200, ""));
        assert_eq!(answer.header("x-weft-fallback"), "connect");
        assert_eq!(answer.text(), "closed");
    }
}

/// A request head to the next app of a chain, through the proxy of this one.
fn forwarding(outbound: std::net::SocketAddr, next: &'static str) -> App {
    App::http(move |request: Request<_>| async move {
        let mut client = Http1::connect(outbound).await;
        let trace = request.headers().get("traceparent").cloned();
        let trace = trace.map_or_else(String::new, |value| {
            format!("traceparent: {}\r\n", value.to_str().unwrap())
        });
        client
            .send(format!("GET / HTTP/1.1\r\nhost: {next}\r\n{trace}\r\n"))
            .await;
        let answer = client.answer().await;
        let mut response = Response::new(app::text("passed on"));
        *response.status_mut() = answer.status;
        response
    })
}

#[tokio::test]
async fn a_chain_whose_last_hop_fails_is_not_asked_much_more_and_is_well_soon_after() {
    let told = Told::new(503);
    let last = told.app();
    let mesh = Mesh::new();
    let retry = "{retry: {attempts: 3, on: 5xx, backoff: 1ms, budget: {share: 20%, min-rate: 1/s}}, breaker: off}";
    let proxy = |name, next: &str| {
        let to = format!("to: {{{next}: {retry}}}\n");
        mesh.proxy(name).policy(to)
    };
    let four = mesh.proxy("four").serves(80, last.address).start();
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (out_three, out_two) = (free(), free());
    let (app_three, app_two) = (forwarding(out_three, "four"), forwarding(out_two, "three"));
    let three = proxy("three", "four")
        .set("WEFT_OUTBOUND_LISTEN", out_three)
        .serves(80, app_three.address)
        .start();
    let second = proxy("two", "three")
        .set("WEFT_OUTBOUND_LISTEN", out_two)
        .serves(80, app_two.address)
        .start();
    let one = proxy("one", "two").start();
    mesh.services(&[
        ("two", 80, "-", &[second.endpoint()]),
        ("three", 80, "-", &[three.endpoint()]),
        ("four", 80, "-", &[four.endpoint()]),
    ]);
    let mut client = Http1::connect(one.outbound).await;
    let well = async || client.get("two", "/").await.status.as_u16();
    eventually(Duration::from_secs(10), well, |status| *status == 503).await;
    told.asked();
    let requests = 600;
    for _ in 0..requests {
        assert_eq!(client.get("two", "/").await.status, 503);
    }
    let asked = told.asked();
    assert!(asked * 100 <= requests * 125, "{asked} of {requests}");
    told.answers(200);
    let healed = Instant::now();
    let well = async || client.get("two", "/").await.status.as_u16();
    eventually(Duration::from_secs(10), well, |status| *status == 200).await;
    assert!(healed.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn no_more_connections_are_made_than_policy_allows_and_requests_wait_for_one() {
    let told = Told::new(200);
    let pair = calling(
        &told,
        "pool: {connections: 1, pending: 1}, timeout: {connect: 5s}",
    );
    let first = Http1::connect(pair.web.outbound);
    let mut clients = [
        first.await,
        Http1::connect(pair.web.outbound).await,
        Http1::connect(pair.web.outbound).await,
    ];
    let slow = "GET /slow HTTP/1.1\r\nhost: orders\r\n\r\n";
    clients[0].send(slow).await;
    eventually(
        Duration::from_secs(5),
        async || told.asked.load(Ordering::Relaxed),
        |asked| *asked == 1,
    )
    .await;
    clients[1].send(slow).await;
    let scrape = async || {
        let scrape = Scrape::of(pair.orders.metrics).await;
        scrape.sum("weft_inbound_connections_accepted_total", &[])
    };
    sleep(Duration::from_millis(200)).await;
    // One is on its way, one waits: that is all there may be.
    let refused = clients[2].get("orders", "/").await;
    assert_eq!(said(&refused), (503, "pool_full"));
    let [one, two, _] = &mut clients;
    assert_eq!(one.answer().await.status, 200);
    assert_eq!(two.answer().await.status, 200);
    assert!(
        (scrape().await - 1.0).abs() < 0.1,
        "one connection carried both"
    );
}

#[tokio::test]
async fn a_connection_is_given_up_after_as_many_requests_as_policy_says() {
    let told = Told::new(200);
    let pair = calling(&told, "pool: {requests-per-connection: 5}");
    let mut client = Http1::connect(pair.web.outbound).await;
    let web = Http2::connect(pair.web.outbound).await;
    for _ in 0..20 {
        assert_eq!(client.get("orders", "/").await.status, 200);
        assert_eq!(web.get("orders", "/").await.status, 200);
    }
    let scrape = Scrape::of(pair.orders.metrics).await;
    let accepted = scrape.sum("weft_inbound_connections_accepted_total", &[]);
    assert!(
        (accepted - 8.0).abs() < 0.1,
        "{accepted} connections for 40 requests"
    );
}
