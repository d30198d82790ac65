//! Spans as a collector receives them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::config::{AccessLogMode, Config, LogFormat};
use crate::telemetry::live::Made;
use crate::telemetry::mask::Mask;
use crate::telemetry::metrics::labels::Own;
use crate::telemetry::otlp::span::Kind;
use crate::telemetry::record::{Direction, End, RequestRecord, RouteFacts, TraceContext};
use crate::telemetry::sample;
use crate::telemetry::tries::Try;

fn live() -> Live {
    Live::new(AccessLogMode::Off, LogFormat::Json)
}

/// What a span says, apart from its attributes.
struct Told {
    kind: Kind,
    name: String,
    parent: Option<[u8; 8]>,
    trace: TraceContext,
    error: Option<&'static str>,
}

fn told(span: &span::Span<'_>) -> (Told, BTreeMap<String, String>) {
    let pairs = span.attributes.0.iter();
    let attributes: BTreeMap<String, String> = pairs
        .map(|(name, value)| ((*name).to_owned(), value.to_string()))
        .collect();
    assert_eq!(
        attributes.len(),
        span.attributes.0.len(),
        "no attribute twice"
    );
    let told = Told {
        kind: span.kind,
        name: span.name.to_string(),
        parent: span.trace.parent_id,
        trace: span.trace,
        error: span.error,
    };
    (told, attributes)
}

fn described(record: &RequestRecord) -> (Told, BTreeMap<String, String>) {
    told(&span::of(&Entry::of_request(record), 1, &Mask::default()))
}

#[test]
fn inbound_is_a_server_span_with_our_ids() {
    let (span, attributes) = described(&sample::request(Direction::Inbound));
    assert_eq!(span.kind, Kind::Server);
    assert_eq!(span.name, "POST");
    assert_eq!(span.trace.trace_id, [0xab; 16]);
    assert_eq!(span.trace.span_id, [0xcd; 8]);
    assert!(span.trace.sampled);
    assert_eq!(span.parent, Some([0xef; 8]));
    assert_eq!(span.error, None);
    let rows = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", "/orders/7"),
        ("url.scheme", "http"),
        ("server.address", "orders.shop.svc.cluster.local"),
        ("server.port", "8080"),
        ("client.address", "10.0.0.7"),
        ("network.peer.address", "10.0.0.7"),
        ("network.protocol.version", "2"),
        ("user_agent.original", "curl/8.14"),
        ("weft.attempts", "1"),
        (
            "weft.peer.identity",
            "spiffe://cluster.local/ns/shop/sa/web",
        ),
    ];
    for (name, want) in rows {
        assert_eq!(
            attributes.get(name).map(String::as_str),
            Some(want),
            "{name}"
        );
    }
    assert!(
        attributes.values().all(|value| !value.contains("secret")),
        "{attributes:?}"
    );
    assert!(!attributes.contains_key("url.full"));
}

#[test]
fn outbound_is_a_client_span() {
    let mut record = sample::request(Direction::Outbound);
    record.attempts = 3;
    record.method = Method::from_bytes(b"BREW").unwrap();
    record.trace.parent_id = None;
    let (span, attributes) = described(&record);
    assert_eq!((span.kind, span.name.as_ref()), (Kind::Client, "HTTP"));
    assert_eq!(span.parent, None);
    let rows = [
        ("http.request.method", "_OTHER"),
        ("http.request.method_original", "BREW"),
        ("http.request.resend_count", "2"),
        ("url.full", "http://orders.shop:8080/orders/7"),
        ("network.peer.address", "10.0.0.9"),
        (
            "weft.peer.identity",
            "spiffe://cluster.local/ns/shop/sa/users",
        ),
    ];
    for (name, want) in rows {
        assert_eq!(
            attributes.get(name).map(String::as_str),
            Some(want),
            "{name}"
        );
    }
    assert!(!attributes.contains_key("client.address"));
}

#[tokio::test]
async fn each_attempt_of_several_is_a_span_below_the_request() {
    let mut record = sample::request(Direction::Outbound);
    record.attempts = 2;
    let one = |span: u8, failed| Try {
        span_id: [span; 8],
        start: record.start,
        duration: Duration::from_millis(3),
        endpoint: Some("10.0.0.8:8080".parse().unwrap()),
        peer: None,
        status: None,
        failed,
    };
    record.tries = vec![one(1, Some("connect")), one(2, None)];
    let mut all = Vec::new();
    let made = Made {
        attributes: vec![("team".to_owned(), "shop".to_owned())],
        ..Made::clone(&live().made())
    };
    let mut retries = 0;
    span::each(&Entry::of_request(&record), &made, |span| {
        let (told, attributes) = told(span);
        let get = |name: &str| attributes.get(name).cloned().unwrap_or_default();
        retries += span.events.len();
        all.push((
            told.kind,
            told.parent.unwrap()[0],
            get("weft.attempt"),
            get("error.type"),
            get("http.request.resend_count"),
            get("team"),
        ));
    });
    let row = |kind, parent, attempt: &str, error: &str, resent: &str| {
        let text = str::to_owned;
        (
            kind,
            parent,
            text(attempt),
            text(error),
            text(resent),
            text("shop"),
        )
    };
    let want = [
        row(Kind::Client, 0xcd, "1", "connect", ""),
        row(Kind::Client, 0xcd, "2", "", "1"),
        row(Kind::Internal, 0xef, "", "", "1"),
    ];
    assert_eq!((all, retries), (want.to_vec(), 1));
}

#[test]
fn a_route_names_its_spans() {
    let mut record = sample::request(Direction::Outbound);
    record.route = Some(RouteFacts {
        name: "routes[0]".into(),
        template: Some("/orders/{id}".into()),
    });
    let (span, attributes) = described(&record);
    assert_eq!(span.name, "POST /orders/{id}");
    assert_eq!(attributes["http.route"], "/orders/{id}");
}

#[test]
fn a_grpc_call_is_named_by_its_method() {
    let mut record = sample::request(Direction::Inbound);
    record.grpc = true;
    record.uri = "/shop.Orders/Get".parse().unwrap();
    record.grpc_status = Some(14);
    let (span, attributes) = described(&record);
    assert_eq!(span.name, "shop.Orders/Get");
    assert_eq!(attributes["rpc.system.name"], "grpc");
    assert_eq!(attributes["rpc.method"], "shop.Orders/Get");
    assert_eq!(attributes["rpc.status_code"], "UNAVAILABLE");
    assert_eq!(attributes["error.type"], "UNAVAILABLE");
}

#[test]
fn errors_are_marked_as_the_conventions_say() {
    type Change = fn(&mut RequestRecord);
    let rows: &[(&str, Change, Option<&str>, Option<&str>)] = &[
        ("success", |_| {}, None, None),
        (
            "not found",
            |record| record.status = Some(StatusCode::NOT_FOUND),
            None,
            Some("404"),
        ),
        (
            "bad gateway",
            |record| record.status = Some(StatusCode::BAD_GATEWAY),
            Some("502"),
            Some("502"),
        ),
        (
            "rejected",
            |record| record.reject = Some("connect"),
            Some("connect"),
            Some("connect"),
        ),
        (
            "broken off",
            |record| record.end = End::UpstreamFailed,
            Some("answer_broke_off"),
            Some("answer_broke_off"),
        ),
        (
            "caller gone",
            |record| record.end = End::DownstreamGone,
            None,
            None,
        ),
        (
            "grpc not found",
            |record| record.grpc_status = Some(5),
            None,
            Some("NOT_FOUND"),
        ),
        (
            "grpc of its own",
            |record| record.grpc_status = Some(99),
            None,
            Some("99"),
        ),
    ];
    for (name, change, server, client) in rows {
        for (direction, want) in [(Direction::Inbound, server), (Direction::Outbound, client)] {
            let mut record = sample::request(direction);
            change(&mut record);
            let (span, attributes) = described(&record);
            assert_eq!(
                attributes.get("error.type").map(String::as_str),
                *want,
                "{name} {direction:?}"
            );
            assert_eq!(span.error.is_none(), want.is_none(), "{name} {direction:?}");
        }
    }
}

#[test]
fn an_opaque_connection_has_a_span() {
    let mut record = sample::tcp(Direction::Outbound);
    record.error = Some("connect_timeout");
    let (span, _attributes) = told(&span::of(&Entry::of_tcp(&record), 1, &Mask::default()));
    assert_eq!((span.name.as_ref(), span.kind), ("TCP", Kind::Client));
    assert_eq!(span.error, Some("connect_timeout"));
}

/// What a collector was sent.
struct Received {
    path: String,
    headers: HeaderMap,
    message: ExportTraceServiceRequest,
}

/// A collector on a port of its own; answers with `statuses` first and then with success.
struct Collector {
    address: SocketAddr,
    received: mpsc::Receiver<Received>,
    _server: AbortOnDropHandle<()>,
}

impl Collector {
    async fn start(grpc: bool, statuses: &[u16], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::channel(64);
        let statuses = Arc::new(parking_lot::Mutex::new(statuses.to_vec()));
        let server = spawn(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                let (sender, statuses, tls) = (sender.clone(), Arc::clone(&statuses), tls.clone());
                drop(spawn(async move {
                    match tls {
                        Some(tls) => {
                            serve(tls.accept(io).await.unwrap(), grpc, sender, statuses).await;
                        }
                        None => serve(io, grpc, sender, statuses).await,
                    }
                }));
            }
        });
        Self {
            address,
            received,
            _server: AbortOnDropHandle::new(server),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
fn spawn<F: Future<Output: Send> + Send + 'static>(future: F) -> JoinHandle<F::Output> {
    tokio::spawn(future)
}

fn unpacked(headers: &HeaderMap, message: Bytes) -> Bytes {
    let encodings = ["content-encoding", "grpc-encoding"];
    let encoding = encodings.iter().find_map(|name| headers.get(*name));
    if encoding.is_none_or(|encoding| encoding != "gzip") {
        return message;
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&*message)
        .read_to_end(&mut plain)
        .unwrap();
    plain.into()
}

async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    grpc: bool,
    sender: mpsc::Sender<Received>,
    statuses: Arc<parking_lot::Mutex<Vec<u16>>>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (sender, statuses) = (sender.clone(), Arc::clone(&statuses));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let message = unpacked(&head.headers, body.slice(if grpc { 5 } else { 0 }..));
            let status = statuses.lock().pop().unwrap_or(200);
            if status == 200 {
                let message = ExportTraceServiceRequest::decode(message).unwrap();
                let received = Received {
                    path: head.uri.path().to_owned(),
                    headers: head.headers,
                    message,
                };
                sender.send(received).await.unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let answer =
                Full::new(Bytes::new()).with_trailers(async move { grpc.then_some(Ok(trailers)) });
            Ok::<_, Infallible>(Response::builder().status(status).body(answer).unwrap())
        }
    });
    let io = TokioIo::new(io);
    let served = match grpc {
        true => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await
        }
        false => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await
        }
    };
    drop(served);
}

/// Spans to `endpoint`, with further variables.
fn spans(endpoint: &str, more: &[(&str, &str)]) -> (Spans, Export, Metrics) {
    let mut variables: BTreeMap<&str, &str> = more.iter().copied().collect();
    variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    variables.entry("OTEL_BSP_SCHEDULE_DELAY").or_insert("10");
    let config =
        Config::from_lookup(|name| variables.get(name).map(|value| (*value).to_owned())).unwrap();
    let metrics = Metrics::new(Own {
        workload: "web".to_owned(),
        namespace: "shop".to_owned(),
        principal: config.spiffe_id.clone(),
        version: None,
    });
    let (spans, export) = Spans::new(&config.otel, &metrics, live());
    (spans, export.unwrap(), metrics)
}

fn entry() -> Arc<Entry> {
    Arc::new(Entry::of_request(&sample::request(Direction::Inbound)))
}

fn count(received: &Received) -> usize {
    let scopes = received
        .message
        .resource_spans
        .iter()
        .flat_map(|resource| &resource.scope_spans);
    scopes.map(|scope| scope.spans.len()).sum()
}

#[tokio::test]
async fn spans_reach_a_collector_over_either_protocol() {
    const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let (protobuf, of_grpc) = ("application/x-protobuf", "application/grpc");
    for (grpc, protocol, path, kind, compression) in [
        (false, "http/protobuf", "/v1/traces", protobuf, "none"),
        (false, "http/protobuf", "/v1/traces", protobuf, "gzip"),
        (true, "grpc", METHOD, of_grpc, "none"),
        (true, "grpc", METHOD, of_grpc, "gzip"),
    ] {
        let mut collector = Collector::start(grpc, &[], None).await;
        let (spans, export, metrics) = spans(
            &format!("http://{}", collector.address),
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", compression),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b"),
                ("OTEL_RESOURCE_ATTRIBUTES", "team=shop"),
                ("WEFT_WORKLOAD", "web"),
            ],
        );
        let stop = CancellationToken::new();
        let running = spawn(export.run(stop.clone()));
        spans.send(entry());
        let received = collector.received.recv().await.unwrap();
        assert_eq!(
            (received.path.as_str(), count(&received)),
            (path, 1),
            "{protocol}"
        );
        assert_eq!(received.headers["content-type"], kind, "{protocol}");
        assert_eq!(received.headers["x-token"], "a b", "{protocol}");
        let resource = received.message.resource_spans[0]
            .resource
            .as_ref()
            .unwrap();
        let names: BTreeSet<&str> = resource
            .attributes
            .iter()
            .map(|pair| pair.key.as_str())
            .collect();
        let want = [
            "k8s.namespace.name",
            "service.name",
            "service.namespace",
            "team",
        ];
        assert_eq!(names, want.into_iter().collect(), "{protocol}");
        // A second batch, over the same connection.
        spans.send(entry());
        assert_eq!(
            count(&collector.received.recv().await.unwrap()),
            1,
            "{protocol}"
        );
        stop.cancel();
        running.await.unwrap();
        assert!(
            metrics
                .text()
                .unwrap()
                .contains("weft_trace_spans_exported_total 2\n"),
            "{protocol}"
        );
    }
}

#[tokio::test]
async fn spans_reach_a_collector_over_tls_that_asks_who_we_are() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = file("tls.crt", cert.pem());
    let own_key = file("tls.key", signing_key.serialize_pem());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut known = rustls::RootCertStore::empty();
    known.add(cert.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(known),
        Arc::clone(&provider),
    );
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let mut collector = Collector::start(true, &[], Some(TlsAcceptor::from(Arc::new(tls)))).await;
    let (spans, export, _metrics) = spans(
        &format!("https://{}", collector.address),
        &[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &certificate),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &own_key),
        ],
    );
    let stop = CancellationToken::new();
    let running = spawn(export.run(stop.clone()));
    spans.send(entry());
    assert_eq!(count(&collector.received.recv().await.unwrap()), 1);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_busy_collector_gets_the_batch_again() {
    let mut collector = Collector::start(false, &[429, 503], None).await;
    let (spans, export, metrics) = spans(&format!("http://{}", collector.address), &[]);
    let stop = CancellationToken::new();
    let running = spawn(export.run(stop.clone()));
    spans.send(entry());
    assert_eq!(count(&collector.received.recv().await.unwrap()), 1);
    stop.cancel();
    running.await.unwrap();
    assert!(
        metrics
            .text()
            .unwrap()
            .contains("weft_trace_spans_dropped_total{reason=\"export_failed\"} 0\n")
    );
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_sent_again() {
    let collector = Collector::start(false, &[400], None).await;
    let (spans, export, metrics) = spans(&format!("http://{}", collector.address), &[]);
    spans.send(entry());
    drop(spans);
    Box::pin(export.run(CancellationToken::new())).await;
    let text = metrics.text().unwrap();
    assert!(
        text.contains("weft_trace_spans_dropped_total{reason=\"export_failed\"} 1\n"),
        "{text}"
    );
}

#[tokio::test]
async fn the_end_sends_what_is_left() {
    let mut collector = Collector::start(true, &[], None).await;
    let more = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
    ];
    let (spans, export, _metrics) = spans(&format!("http://{}", collector.address), &more);
    let stop = CancellationToken::new();
    for _ in 0..5 {
        spans.send(entry());
    }
    stop.cancel();
    Box::pin(export.run(stop)).await;
    let mut sizes = Vec::new();
    while let Ok(received) = collector.received.try_recv() {
        sizes.push(count(&received));
    }
    assert_eq!(sizes, [2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_spans_and_nothing_else() {
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let more = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
    ];
    let (spans, export, metrics) = spans(&format!("http://{address}"), &more);
    for _ in 0..20 {
        spans.send(entry());
    }
    drop(spans);
    // Retries pass on the paused clock; the run ends once the queue is empty.
    Box::pin(export.run(CancellationToken::new())).await;
    let text = metrics.text().unwrap();
    assert!(
        text.contains("weft_trace_spans_dropped_total{reason=\"queue_full\"} 12\n"),
        "{text}"
    );
    assert!(
        text.contains("weft_trace_spans_dropped_total{reason=\"export_failed\"} 8\n"),
        "{text}"
    );
}

#[test]
fn without_a_collector_nobody_wants_spans() {
    let config = Config::from_lookup(|_| None).unwrap();
    let own = Own {
        workload: "web".to_owned(),
        namespace: "shop".to_owned(),
        principal: config.spiffe_id.clone(),
        version: None,
    };
    let (spans, export) = Spans::new(&config.otel, &Metrics::new(own), live());
    assert!(!spans.wanted() && export.is_none());
}
