//! What a real Jaeger shows of a call: every hop, its parent, its time, its attempts, and why it was refused.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use weft_tests::app::{self, App, Body};
use weft_tests::client::{Answer, Http1, Http2};
use weft_tests::jaeger::{Jaeger, Span};
use weft_tests::mesh::{Endpoint, Mesh, Proxy};

/// An app that hands each call on to `next` through its own proxy, with the trace it got.
fn passes_on(next: &'static str) -> (App, Arc<OnceLock<SocketAddr>>) {
    let proxy = Arc::<OnceLock<SocketAddr>>::default();
    let own = Arc::clone(&proxy);
    let app = App::http(move |request| {
        let proxy = *own.get().unwrap();
        async move {
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
        .map_or("", |value| value.to_str().unwrap());
    let mut client = Http1::connect(proxy).await;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\ntraceparent: {trace}\r\n\r\n");
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
        let jaeger = Jaeger::start().await?;
        let mesh = Mesh::new();
        let (web_app, web_calls) = passes_on("orders");
        let (orders_app, orders_calls) = passes_on("users");
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
    let mut one = Http1::connect(shop.web.inbound).await;
    let two = Http2::connect(shop.web.inbound).await;
    for (number, kind) in [(1, "HTTP/1"), (2, "HTTP/2"), (3, "gRPC")] {
        let (id, parent) = traceparent(number);
        let request = Request::post("http://web/shop.Orders/Get").header("traceparent", &parent);
        let answer = match kind {
            "HTTP/1" => {
                one.send(format!("GET /orders/7?token=secret HTTP/1.1\r\nhost: web\r\ntraceparent: {parent}\r\n\r\n")).await;
                one.answer().await
            }
            "HTTP/2" => two
                .send(request.body(()).unwrap(), "", HeaderMap::new())
                .await
                .unwrap(),
            _ => {
                let request = request.header(CONTENT_TYPE, "application/grpc");
                two.send(request.body(()).unwrap(), "", HeaderMap::new())
                    .await
                    .unwrap()
            }
        };
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
    // Closed at once, so that nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    let shop = Shop::open("http/protobuf", |users| {
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
    });
    let Some(shop) = shop.await else { return };
    for number in 10..40 {
        let (id, parent) = traceparent(number);
        let mut client = Http1::connect(shop.web.inbound).await;
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: web\r\ntraceparent: {parent}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, StatusCode::OK);
        let spans = shop.jaeger.trace(&id, 5).await;
        let Some(whole) = spans.iter().find(|span| span.kind.ends_with("INTERNAL")) else {
            continue;
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
        assert_eq!(tries.len(), spans.len() - 5, "{spans:#?}");
        let (answered, failed) = tries.split_last().unwrap();
        for (index, span) in failed.iter().enumerate() {
            assert_eq!(span.kind, "SPAN_KIND_CLIENT");
            assert_eq!(span.get("weft.attempt"), (index + 1).to_string());
            assert_eq!(
                (span.get("error.type"), span.status),
                ("connect", 2),
                "{span:#?}"
            );
        }
        assert_eq!(answered.get("http.response.status_code"), "200");
        assert_eq!(whole.events, vec!["weft.retry"; failed.len()]);
        let served = spans.iter().find(|span| span.service == "users").unwrap();
        assert_eq!(
            served.parent, answered.id,
            "the attempt that was answered is its parent"
        );
        return;
    }
    panic!("no request was sent twice");
}

#[tokio::test]
async fn a_refusal_says_who_refused_and_why() {
    let Some(shop) = Shop::open("grpc", |_| Vec::new()).await else {
        return;
    };
    let (id, parent) = traceparent(50);
    let mut client = Http1::connect(shop.web.inbound).await;
    client
        .send(format!(
            "GET / HTTP/1.1\r\nhost: web\r\ntraceparent: {parent}\r\n\r\n"
        ))
        .await;
    assert_eq!(
        client.answer().await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let spans = shop.jaeger.trace(&id, 4).await;
    check_tree(&spans);
    let refused = spans.last().unwrap();
    assert_eq!((refused.service.as_str(), refused.status), ("orders", 2));
    assert_eq!(refused.get("weft.reject"), "no_endpoint", "{refused:#?}");
    assert_eq!(refused.get("error.type"), "no_endpoint");
}
