//! What a real Jaeger shows of a call: every hop, its parent, its time, its attempts, and why it was refused.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use weft_tests::app::{self, App, Body, read_head, tcp_echo};
use weft_tests::client::{Answer, Http1, Http2};
use weft_tests::eventually::{PATIENCE, eventually};
use weft_tests::jaeger::{Jaeger, Span};
use weft_tests::mesh::{Endpoint, Mesh, Pair, Proxy};
use weft_tests::metrics::Scrape;

/// An app that hands each call on to `next` through its own proxy, and the trace it got if it `hands_on` that.
fn passes_on(next: &'static str, hands_on: bool) -> (App, Arc<OnceLock<SocketAddr>>) {
    let proxy = Arc::<OnceLock<SocketAddr>>::default();
    let own = Arc::clone(&proxy);
    let app = App::http(move |request| {
        let proxy = *own.get().unwrap();
        async move {
            let mut request = request;
            if !hands_on {
                request.headers_mut().remove("traceparent");
            }
            let answer = call(proxy, next, &request).await;
            let mut response = Response::new(app::text(answer.body));
            *response.status_mut() = answer.status;
            if let Some(kind) = answer.headers.get(CONTENT_TYPE) {
                response.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            if let Some(status) = answer.headers.get("grpc-status") {
                response.headers_mut().insert("grpc-status", status.clone());
            }
            response
        }
    });
    (app, proxy)
}

async fn call(proxy: SocketAddr, host: &str, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    let headers = request.headers();
    if request.version() == Version::HTTP_2 {
        let mut next = Request::post(format!("http://{host}{path}"));
        for name in ["traceparent", "tracestate", "content-type"] {
            if let Some(value) = headers.get(name) {
                next = next.header(name, value);
            }
        }
        let client = Http2::connect(proxy).await;
        return client
            .send(next.body(()).unwrap(), "", HeaderMap::new())
            .await
            .unwrap();
    }
    let trace = headers
        .get("traceparent")
        .map(|value| value.to_str().unwrap());
    let trace = trace.map(|trace| format!("traceparent: {trace}\r\n"));
    let trace = trace.unwrap_or_default();
    let mut client = Http1::connect(proxy).await;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{trace}\r\n");
    client.send(head).await;
    client.answer().await
}

/// The last app: answers 200, or gRPC's OK.
fn last() -> App {
    App::http(async |request: Request<Incoming>| {
        let mut response: Response<Body> = Response::new(app::text(""));
        if let Some(kind) = request.headers().get(CONTENT_TYPE) {
            response.headers_mut().insert(CONTENT_TYPE, kind.clone());
            response
                .headers_mut()
                .insert("grpc-status", "0".parse().unwrap());
        }
        response
    })
}

/// `web` calls `orders` calls `users`, and all tell Jaeger.
struct Shop {
    jaeger: Jaeger,
    web: Proxy,
    _rest: (Vec<App>, Vec<Proxy>, Mesh),
}

impl Shop {
    /// `users` has the endpoints that `users` makes of the right one.
    async fn open(protocol: &str, users: impl FnOnce(Endpoint) -> Vec<Endpoint>) -> Option<Self> {
        Self::of_apps(protocol, users, true).await
    }

    /// `orders` may keep the trace to itself.
    async fn of_apps(
        protocol: &str,
        users: impl FnOnce(Endpoint) -> Vec<Endpoint>,
        orders_hands_on: bool,
    ) -> Option<Self> {
        let jaeger = Jaeger::start().await?;
        let mesh = Mesh::new();
        let (web_app, web_calls) = passes_on("orders", true);
        let (orders_app, orders_calls) = passes_on("users", orders_hands_on);
        let users_app = last();
        let collector = match protocol {
            "grpc" => jaeger.grpc,
            _ => jaeger.http,
        };
        let start = |account: &str, app: &App| {
            let proxy = mesh.proxy(account).serves(80, app.address);
            proxy
                .set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
                .set("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
                .set("OTEL_BSP_SCHEDULE_DELAY", "20")
                .set("WEFT_TRACE_SAMPLE", "always")
                .set("WEFT_POD_NAME", format!("{account}-0"))
                .start()
        };
        // Each proxy reads at its start whom it calls.
        let users_proxy = start("users", &users_app);
        let users = users(users_proxy.endpoint());
        mesh.services(&[("users", 80, "-", &users)]);
        let orders = start("orders", &orders_app);
        let called = [orders.endpoint()];
        mesh.services(&[("orders", 80, "-", &called), ("users", 80, "-", &users)]);
        let web = start("web", &web_app);
        web_calls.set(web.outbound).unwrap();
        orders_calls.set(orders.outbound).unwrap();
        let apps = vec![web_app, orders_app, users_app];
        Some(Self {
            jaeger,
            web,
            _rest: (apps, vec![orders, users_proxy], mesh),
        })
    }
}

/// Calls `web` in one of the protocols that all hops then speak.
async fn ask(shop: &Shop, kind: &str, parent: &str) -> Answer {
    if kind == "HTTP/1" {
        let mut client = Http1::connect(shop.web.inbound).await;
        client
            .send(format!(
                "GET /orders/7?token=secret HTTP/1.1\r\nhost: web\r\ntraceparent: {parent}\r\n\r\n"
            ))
            .await;
        return client.answer().await;
    }
    let mut request = Request::post("http://web/shop.Orders/Get").header("traceparent", parent);
    if kind == "gRPC" {
        request = request.header(CONTENT_TYPE, "application/grpc");
    }
    let client = Http2::connect(shop.web.inbound).await;
    let request = request.body(()).unwrap();
    client.send(request, "", HeaderMap::new()).await.unwrap()
}

const KINDS: [&str; 3] = ["HTTP/1", "HTTP/2", "gRPC"];

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traceparent(number: u8) -> (String, String) {
    let id = format!("{}{number:02x}", &TRACE[..30]);
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    (id, parent)
}

/// Each span hangs under another of the same trace, and lies within its time.
fn check_tree(spans: &[Span]) {
    let roots = spans
        .iter()
        .filter(|span| span.parent == "00f067aa0ba902b7");
    assert_eq!(roots.count(), 1, "{spans:#?}");
    for span in spans {
        assert!(span.start <= span.end, "{span:?}");
        let parent = spans.iter().find(|parent| parent.id == span.parent);
        if let Some(parent) = parent {
            assert!(parent.start <= span.start, "{parent:?} {span:?}");
            assert!(span.end <= parent.end + SKEW, "{parent:?} {span:?}");
        }
    }
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len());
}

/// A proxy notes the end when the last byte is gone, which its caller may see a moment earlier.
const SKEW: u64 = 50_000_000;

fn hops(spans: &[Span]) -> Vec<(&str, &str)> {
    let hop = |span: &Span| -> (&'static str, &'static str) {
        let service = ["web", "orders", "users"]
            .into_iter()
            .find(|name| *name == span.service);
        let kind = ["SERVER", "CLIENT", "INTERNAL"]
            .into_iter()
            .find(|kind| span.kind.ends_with(kind));
        (service.unwrap(), kind.unwrap())
    };
    spans.iter().map(hop).collect()
}

const THREE: [(&str, &str); 5] = [
    ("web", "SERVER"),
    ("web", "CLIENT"),
    ("orders", "SERVER"),
    ("orders", "CLIENT"),
    ("users", "SERVER"),
];

#[tokio::test]
async fn one_call_through_three_services_is_one_trace_with_every_hop() {
    let Some(shop) = Shop::open("grpc", |users| vec![users]).await else {
        return;
    };
    for (number, kind) in (1..).zip(KINDS) {
        let (id, parent) = traceparent(number);
        let answer = ask(&shop, kind, &parent).await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}");
        let spans = shop.jaeger.trace(&id, 5).await;
        assert_eq!(hops(&spans), THREE, "{kind}: {spans:#?}");
        check_tree(&spans);
        for pair in spans.windows(2) {
            assert_eq!(pair[1].parent, pair[0].id, "{kind}");
        }
        let (out, orders) = (&spans[1], &spans[2]);
        let common: &[(&Span, &str, &str)] = &[
            (out, "server.address", "orders.default.svc.cluster.local"),
            (out, "server.port", "80"),
            (out, "weft.attempt", "1"),
            (
                out,
                "weft.peer.identity",
                "spiffe://cluster.local/ns/default/sa/orders",
            ),
            (
                orders,
                "weft.peer.identity",
                "spiffe://cluster.local/ns/default/sa/web",
            ),
            (orders, "client.address", "127.0.0.1"),
            (orders, "http.response.status_code", "200"),
        ];
        let own: &[(&Span, &str, &str)] = match kind {
            "HTTP/1" => &[
                (out, "network.protocol.version", "1.1"),
                (orders, "http.request.method", "GET"),
                (orders, "url.path", "/orders/7"),
            ],
            "HTTP/2" => &[
                (out, "network.protocol.version", "2"),
                (orders, "http.request.method", "POST"),
            ],
            _ => &[
                (out, "rpc.system.name", "grpc"),
                (orders, "rpc.method", "shop.Orders/Get"),
                (orders, "rpc.status_code", "OK"),
            ],
        };
        for (span, name, want) in common.iter().chain(own) {
            assert_eq!(span.get(name), *want, "{kind} {name}: {span:#?}");
        }
        assert_eq!(out.resource["k8s.pod.name"], "web-0");
        assert!(!format!("{spans:?}").contains("secret"), "{kind}");
    }
}

#[tokio::test]
async fn each_attempt_is_a_span_of_its_own() {
    // An endpoint that was found dead is left out for a while, so each protocol has a shop of its own.
    for (first, kind) in (10..).step_by(30).zip(KINDS) {
        let Some(shop) = Shop::open("http/protobuf", with_dead_ones).await else {
            return;
        };
        let mut numbers = first..first + 30;
        while !is_tried_again(&shop, kind, numbers.next().unwrap()).await {}
    }
}

/// Two endpoints beside `users` where nobody listens.
fn with_dead_ones(users: Endpoint) -> Vec<Endpoint> {
    // Closed at once.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    let dead = |_| Endpoint {
        inbound: Some(nobody),
        address: nobody,
        weight: 50,
        ..users.clone()
    };
    let mut all: Vec<_> = (0..2).map(dead).collect();
    all[1].address.set_port(1);
    all.push(users);
    all
}

/// Calls once; if that took several attempts, checks what Jaeger has of them.
async fn is_tried_again(shop: &Shop, kind: &str, number: u8) -> bool {
    let (id, parent) = traceparent(number);
    assert_eq!(
        ask(shop, kind, &parent).await.status,
        StatusCode::OK,
        "{kind}"
    );
    let spans = shop.jaeger.trace(&id, 5).await;
    let Some(whole) = spans.iter().find(|span| span.kind.ends_with("INTERNAL")) else {
        return false;
    };
    let whole = whole.clone();
    let spans = shop.jaeger.trace(&id, 7).await;
    check_tree(&spans);
    assert_eq!(
        whole.get("weft.attempts").parse::<usize>().unwrap(),
        spans.len() - 5
    );
    let tries: Vec<&Span> = spans
        .iter()
        .filter(|span| span.parent == whole.id)
        .collect();
    assert_eq!(tries.len(), spans.len() - 5, "{kind}: {spans:#?}");
    let (answered, failed) = tries.split_last().unwrap();
    for (index, span) in failed.iter().enumerate() {
        assert_eq!(span.kind, "SPAN_KIND_CLIENT");
        assert_eq!(span.get("weft.attempt"), (index + 1).to_string());
        assert_eq!(
            (span.get("error.type"), span.status),
            ("connect", 2),
            "{kind}: {span:#?}"
        );
    }
    match kind {
        "gRPC" => assert_eq!(answered.get("rpc.status_code"), "OK"),
        _ => assert_eq!(answered.get("http.response.status_code"), "200"),
    }
    assert_eq!(whole.events, vec!["weft.retry"; failed.len()]);
    let served = spans.iter().find(|span| span.service == "users").unwrap();
    assert_eq!(
        served.parent, answered.id,
        "{kind}: the attempt that was answered is its parent"
    );
    true
}

#[tokio::test]
async fn a_refusal_says_who_refused_and_why() {
    let Some(shop) = Shop::open("grpc", |_| Vec::new()).await else {
        return;
    };
    for (number, kind) in (110..).zip(KINDS) {
        let (id, parent) = traceparent(number);
        let answer = ask(&shop, kind, &parent).await;
        match kind {
            "gRPC" => assert_eq!(answer.header("grpc-status"), "14"),
            _ => assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{kind}"),
        }
        let spans = shop.jaeger.trace(&id, 4).await;
        check_tree(&spans);
        assert_eq!(hops(&spans), THREE[..4], "{kind}");
        let refused = spans.last().unwrap();
        assert_eq!((refused.service.as_str(), refused.status), ("orders", 2));
        assert_eq!(refused.get("weft.reject"), "no_endpoint", "{refused:#?}");
        let error = match kind {
            "gRPC" => refused.get("rpc.status_code"),
            _ => refused.get("error.type"),
        };
        let want = if kind == "gRPC" {
            "UNAVAILABLE"
        } else {
            "no_endpoint"
        };
        assert_eq!(error, want, "{refused:#?}");
    }
}

#[tokio::test]
async fn an_app_that_breaks_the_chain_is_found_and_named() {
    let Some(shop) = Shop::of_apps("grpc", |users| vec![users], false).await else {
        return;
    };
    let (id, parent) = traceparent(160);
    let mut client = Http1::connect(shop.web.inbound).await;
    let head = format!("GET / HTTP/1.1\r\nhost: web\r\ntraceparent: {parent}\r\n\r\n");
    client.send(head).await;
    assert_eq!(client.answer().await.status, StatusCode::OK);
    let spans = shop.jaeger.trace(&id, 3).await;
    assert_eq!(
        hops(&spans),
        THREE[..3],
        "the trace ends at the app that breaks it"
    );
    let orders = &shop._rest.1[0];
    assert_eq!(
        Scrape::of(orders.metrics)
            .await
            .sum("weft_trace_broken_total", &[]),
        1.0
    );
    assert_eq!(
        Scrape::of(shop.web.metrics)
            .await
            .sum("weft_trace_broken_total", &[]),
        0.0
    );
    let lost = last_request(orders, "outbound").await;
    let lost = shop
        .jaeger
        .trace(lost["trace_id"].as_str().unwrap(), 2)
        .await;
    assert_eq!(lost[0].get("weft.trace.broken"), "true", "{lost:#?}");
    assert_eq!(
        (lost[0].parent.as_str(), lost[1].service.as_str()),
        ("", "users")
    );
}

/// The newest request of one side that a proxy remembers.
async fn last_request(proxy: &Proxy, direction: &str) -> serde_json::Value {
    let look = async || {
        let answer = Http1::connect(proxy.admin)
            .await
            .get("localhost", "/requests")
            .await;
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let requests = answer["requests"].as_array().unwrap().clone();
        requests
            .into_iter()
            .rfind(|one| one["direction"] == direction)
    };
    eventually(PATIENCE, look, Option::is_some).await.unwrap()
}

#[tokio::test]
async fn tunnels_and_opaque_bytes_are_spans() {
    let Some(jaeger) = Jaeger::start().await else {
        return;
    };
    let mesh = Mesh::new();
    let chat = App::tcp(async |mut io| {
        read_head(&mut io).await.unwrap();
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        io.write_all(answer).await.unwrap();
        let (mut from, mut to) = io.split();
        let _copied = tokio::io::copy(&mut from, &mut to).await;
    });
    let bytes = tcp_echo();
    let start = |account: &str, app: SocketAddr| {
        let proxy = mesh.proxy(account).serves(80, app);
        proxy
            .set(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", jaeger.http),
            )
            .set("OTEL_BSP_SCHEDULE_DELAY", "20")
            .set("WEFT_TRACE_SAMPLE", "always")
            .start()
    };
    let (web, db) = (start("web", chat.address), start("db", bytes.address));
    let mut client = Http1::connect(web.inbound).await;
    let (id, parent) = traceparent(170);
    client
        .send(format!("GET /chat HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\ntraceparent: {parent}\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.status, 101);
    client.send(b"hello").await;
    assert_eq!(client.exactly(5).await, b"hello");
    client.finish().await;
    client.rest().await;
    let tunnel = jaeger.trace(&id, 1).await.remove(0);
    assert_eq!(
        (
            tunnel.get("http.response.status_code"),
            tunnel.get("network.protocol.name")
        ),
        ("101", "websocket")
    );
    let mut client = Http1::connect(db.inbound).await;
    client.send(b"\x00\x01no HTTP\r\n").await;
    assert_eq!(client.exactly(11).await.len(), 11);
    client.finish().await;
    client.rest().await;
    let told = last_request(&db, "inbound").await;
    let span = jaeger
        .trace(told["trace_id"].as_str().unwrap(), 1)
        .await
        .remove(0);
    assert_eq!(
        (span.name.as_str(), span.get("network.transport")),
        ("TCP", "tcp")
    );
    assert_eq!(
        (span.get("weft.sent_bytes"), span.get("weft.received_bytes")),
        ("11", "11")
    );
}

#[tokio::test]
async fn policy_decides_at_once_what_is_sampled_and_masked() {
    let pair = Pair::with(
        app::echo(),
        |web| web.policy("trace: 100%"),
        |orders| orders,
    );
    let mut client = Http1::connect(pair.web.outbound).await;
    let mut flags = async || {
        let answer = client.get("orders", "/?page=7&token=hunter2").await;
        answer.header("seen-traceparent")[53..].to_owned()
    };
    assert_eq!(flags().await, "01");
    pair.web
        .change_policy("trace: 0%\nlog: {mask: [page]}")
        .await;
    assert_eq!(flags().await, "00");
    // Nobody watched before.
    Http1::connect(pair.web.admin)
        .await
        .get("localhost", "/requests")
        .await;
    flags().await;
    let told = last_request(&pair.web, "outbound").await;
    assert_eq!(told["query"], "page=***&token=***", "{told:#}");
    pair.web.change_policy("trace: 1000/s").await;
    assert_eq!(flags().await, "01");
}

#[tokio::test]
async fn the_collector_may_be_named_by_policy() {
    let Some(jaeger) = Jaeger::start().await else {
        return;
    };
    let app = last();
    let mesh = Mesh::new();
    let policy = format!("trace: {{sample: 100%, otlp: 'http://{}'}}", jaeger.http);
    let users = mesh
        .proxy("users")
        .serves(80, app.address)
        .policy(&policy)
        .set("OTEL_BSP_SCHEDULE_DELAY", "20")
        .start();
    let (id, parent) = traceparent(180);
    let mut client = Http1::connect(users.inbound).await;
    let head = format!("GET / HTTP/1.1\r\nhost: users\r\ntraceparent: {parent}\r\n\r\n");
    client.send(head).await;
    assert_eq!(client.answer().await.status, StatusCode::OK);
    let spans = jaeger.trace(&id, 1).await;
    assert_eq!(hops(&spans), [("users", "SERVER")]);
}
