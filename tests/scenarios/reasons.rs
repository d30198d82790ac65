//! One reason everywhere: what a caller reads in `x-weft-reject` is in the metric, in the access log and in the span.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use weft_tests::app::echo;
use weft_tests::client::Http1;
use weft_tests::eventually::eventually;
use weft_tests::jaeger::Jaeger;
use weft_tests::mesh::{Endpoint, Mesh, Spawned, Starting};
use weft_tests::metrics::Scrape;

const ORDERS: &str = "
mtls: strict
deny: [{paths: [/open/denied]}]
jwt: {issuer: 'https://i.test', jwks: {keys: []}, exempt: [/open/*]}
rate-limit: [{rate: 1/h, match: /open/limited}]
limits: {body: 10}
fault:
- {match: /open/fault, abort: 503}
- {match: /open/slow, delay: 1m}
";
const WEB: &str = "
to: {orders: {timeout: 3s, retry: 1}}
egress: deny
";

/// A path with its host, the reason, the status, and whose it is.
type Row = (&'static str, &'static str, &'static str, u16, By);

#[derive(Clone, Copy, Debug)]
enum By {
    Web,
    Orders,
}

const ROWS: &[Row] = &[
    ("orders", "/open/denied", "authz_denied", 403, By::Orders),
    ("orders", "/token", "jwt_missing", 401, By::Orders),
    ("orders", "/open/limited", "rate_limited", 429, By::Orders),
    ("orders", "/open/large", "body_too_large", 413, By::Orders),
    ("orders", "/open/fault", "fault_abort", 503, By::Orders),
    ("orders", "/open/slow", "timeout_request", 504, By::Web),
    ("api.example", "/", "egress_denied", 403, By::Web),
];

fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// In a process of its own, so that its lines can be read.
fn spawned(proxy: Starting<'_>, metrics: SocketAddr, jaeger: &Jaeger) -> Spawned {
    proxy
        .set("WEFT_METRICS_LISTEN", metrics)
        .set("WEFT_ACCESS_LOG", "errors")
        .set(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", jaeger.http),
        )
        .set("OTEL_BSP_SCHEDULE_DELAY", "20")
        .spawn(Path::new(crate::PROXY))
}

#[tokio::test]
async fn a_reason_is_the_same_in_answer_metric_log_and_span() {
    let Some(jaeger) = Jaeger::start().await else {
        return;
    };
    let (mesh, app) = (Mesh::new(), echo());
    let (of_orders, of_web) = (free(), free());
    let orders = mesh.proxy("orders").serves(80, app.address).policy(ORDERS);
    let orders = spawned(orders, of_orders, &jaeger);
    let endpoint = Endpoint {
        address: app.address,
        inbound: Some(orders.inbound),
        account: Some("orders".to_owned()),
        weight: 1,
    };
    mesh.services(&[("orders", 80, "-", &[endpoint])]);
    let web = spawned(mesh.proxy("web").policy(WEB), of_web, &jaeger);
    let mut client = Http1::connect(web.outbound).await;
    // The first of the hour passes.
    assert_eq!(client.get("orders", "/open/limited").await.status, 200);
    for (number, (host, path, reason, status, by)) in ROWS.iter().enumerate() {
        let id = format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 11\r\ntraceparent: 00-{id}-00f067aa0ba902b7-01\r\n\r\n"
        );
        let body = "hello world";
        let head = match *reason {
            "body_too_large" => format!("{head}{body}"),
            _ => head.replace("content-length: 11\r\n", ""),
        };
        let mut client = Http1::connect(web.outbound).await;
        client.send(head).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.reject(), answer.status.as_u16()),
            (*reason, *status)
        );

        let (proxy, metrics, service) = match by {
            By::Web => (&web, of_web, "web"),
            By::Orders => (&orders, of_orders, "orders"),
        };
        let label = format!("reason=\"{reason}\"");
        let counted = async || {
            Scrape::of(metrics)
                .await
                .sum("weft_rejects_total", &[&label])
        };
        let limit = Duration::from_secs(10);
        eventually(limit, counted, |count| *count > 0.0).await;

        let (logged, traced) = (format!("reject={reason}"), format!("trace_id={id}"));
        let line = async || {
            let log = proxy.log();
            let mut lines = log.lines().filter(|line| line.contains(&traced));
            lines.any(|line| line.contains(&logged))
        };
        eventually(limit, line, |found| *found).await;

        let span = async || {
            let spans = jaeger.trace(&id, 1).await;
            spans.into_iter().find(|span| span.service == service)
        };
        let span = eventually(limit, span, Option::is_some).await.unwrap();
        assert_eq!(span.get("weft.reject"), *reason, "{span:#?}");
    }
}
