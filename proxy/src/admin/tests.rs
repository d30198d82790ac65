//! What each audience gets, and what slow callers cost.

use std::collections::BTreeMap;

use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::discovery::DiscoveryConfig;
use crate::discovery::dns::DnsSource;

fn config(variables: &[(&str, &str)]) -> Config {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    Config::from_lookup(|name| variables.get(name).map(|value| (*value).to_owned())).unwrap()
}

fn sources() -> Sources {
    let config = Arc::new(config(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2"),
    ]));
    let scope = weft_policy::scope::Scope {
        trust_domain: config.trust_domain.clone(),
        namespace: config.namespace.clone(),
    };
    let discovery = DiscoveryConfig {
        services_file: None,
        namespace: config.namespace.clone(),
        zone: None,
        dns: DnsSource::Servers(Vec::new()),
        ads: None,
    };
    Sources {
        policies: Policies::new(scope, Vec::new()).unwrap(),
        telemetry: Telemetry::new(&config, &weft_policy::Policy::default()).0,
        discovery: Discovery::new(discovery).unwrap().0,
        identities: Identities::default(),
        readiness: Readiness::default(),
        drain: Drain::default(),
        config,
    }
}

async fn ask(sources: &Sources, audience: Audience, method: Method, path: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri(path);
    let answer = answer(
        sources,
        audience,
        request.body(Empty::<Bytes>::new()).unwrap(),
    )
    .await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn an_audience_sees_its_own_pages_only() {
    let sources = sources();
    // Status for the scraper, the kubelet and whoever is on the machine.
    let rows = [
        ("/live", [200, 200, 200]),
        ("/metrics", [200, 404, 200]),
        ("/stats/prometheus", [200, 404, 200]),
        ("/ready", [404, 200, 200]),
        ("/healthz/ready", [404, 200, 200]),
        ("/config", [404, 404, 200]),
        ("/endpoints", [404, 404, 200]),
        ("/identity", [404, 404, 200]),
        ("/", [404, 404, 404]),
        ("/quit", [404, 404, 404]),
        ("/metrics/../config", [404, 404, 404]),
    ];
    for (path, want) in rows {
        let audiences = [Audience::Scraper, Audience::Kubelet, Audience::Local];
        for (audience, want) in audiences.into_iter().zip(want) {
            let (status, body) = ask(&sources, audience, Method::GET, path).await;
            assert_eq!(status, want, "{path} {audience:?}");
            assert!(!body.contains("hunter2"), "{path} {audience:?}");
        }
    }
    for (audience, path) in [
        (Audience::Local, "/config"),
        (Audience::Scraper, "/log-level"),
    ] {
        let (status, _) = ask(&sources, audience, Method::PUT, path).await;
        assert_eq!(status, 405, "{path}");
    }
}

#[tokio::test]
async fn readiness_names_what_is_awaited() {
    let sources = sources();
    let awaited = sources.readiness.wait_for("identity");
    let ready = || ask(&sources, Audience::Kubelet, Method::GET, "/ready");
    let live = || ask(&sources, Audience::Kubelet, Method::GET, "/live");
    assert_eq!(
        ready().await,
        (503, "not ready: waiting for identity\n".to_owned())
    );
    assert_eq!(live().await.0, 200);
    drop(awaited);
    assert_eq!(ready().await.0, 200);
    sources.drain.begin();
    assert_eq!(ready().await.0, 503);
    assert_eq!(
        live().await.0,
        200,
        "a proxy that drains must not be restarted"
    );
}

#[tokio::test]
async fn metrics_say_their_format() {
    let sources = sources();
    let request = Request::get("/metrics")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = answer(&sources, Audience::Scraper, request).await;
    assert_eq!(
        answer.headers()[CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("\nweft_build_info{version="));
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused_in_words() {
    let sources = sources();
    let put = |filter: &'static str| {
        let request =
            Request::put("/log-level").body(Full::new(Bytes::from_static(filter.as_bytes())));
        answer(&sources, Audience::Local, request.unwrap())
    };
    let refused = put("weft_proxy=loud").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(
        String::from_utf8_lossy(&body).contains("weft_proxy=loud"),
        "{body:?}"
    );
}

/// Everything a server says on one connection after `request`.
async fn say(address: SocketAddr, request: &[u8]) -> String {
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn slow_callers_are_cut_and_keep_nobody_out_for_long() {
    let zero = "127.0.0.1:0";
    let listen = [
        "WEFT_METRICS_LISTEN",
        "WEFT_READY_LISTEN",
        "WEFT_ADMIN_LISTEN",
    ]
    .map(|name| (name, zero));
    let (sockets, addresses) = bind(&config(&listen)).unwrap();
    let tasks = Tasks::default();
    serve(sockets, &sources(), &tasks);
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut io = TcpStream::connect(addresses.ready).await.unwrap();
        io.write_all(b"GET /ready HTTP/1.1\r\n").await.unwrap();
        idle.push(io);
    }
    // Other ports have places of their own; this one has again when the slow ones are cut.
    let live = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for address in [addresses.metrics, addresses.ready] {
        let answer = timeout(2 * HEADER_TIMEOUT, say(address, live))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

#[test]
fn the_local_pages_are_not_for_names_of_others() {
    let rows = [
        ("localhost", true),
        ("localhost:15000", true),
        ("127.0.0.1:15000", true),
        ("[::1]:15000", true),
        ("10.1.2.3", true),
        ("evil.example:15000", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("a b", false),
    ];
    for (host, want) in rows {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        assert_eq!(names_this_machine(&headers), want, "{host}");
    }
    assert!(names_this_machine(&HeaderMap::new()));
}

#[tokio::test]
async fn the_end_of_a_pod_is_told_on_this_host_alone() {
    let sources = sources();
    for (audience, want) in [
        (Audience::Kubelet, 405),
        (Audience::Scraper, 405),
        (Audience::Local, 200),
    ] {
        assert!(!sources.drain.begun());
        let (status, _) = ask(&sources, audience, Method::POST, "/drain").await;
        assert_eq!(status, want, "{audience:?}");
    }
    assert!(sources.drain.begun());
    assert_eq!(
        ask(&sources, Audience::Kubelet, Method::GET, "/ready")
            .await
            .0,
        503
    );
}
