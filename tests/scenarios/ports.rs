//! Several apps behind one proxy without redirection: mesh callers name theirs by SNI, plaintext callers by the port in Host.

use http::Response;
use weft_tests::app::{App, text};
use weft_tests::client::{Http1, Http2, grpc_call};
use weft_tests::mesh::{Mesh, Proxy};
use weft_tests::metrics::Scrape;

fn named(name: &'static str) -> App {
    App::http(move |_| async move { Response::new(text(name)) })
}

async fn refused(proxy: &Proxy, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    Scrape::of(proxy.metrics)
        .await
        .sum("weft_rejects_total", &[&label])
}

#[tokio::test]
async fn plaintext_reaches_the_app_whose_port_it_names() {
    let (mesh, page, api) = (Mesh::new(), named("page"), named("api"));
    let proxy = mesh
        .proxy("orders")
        .serves(80, page.address)
        .serves(8080, api.address)
        .start();
    let mut one = Http1::connect(proxy.inbound).await;
    let two = Http2::connect(proxy.inbound).await;
    let rows = [
        ("orders", 200, "page"),
        ("orders:80", 200, "page"),
        ("orders:8080", 200, "api"),
        ("127.0.0.1:8080", 200, "api"),
        ("orders:9999", 404, ""),
        ("orders", 200, "page"),
    ];
    for (host, status, name) in rows {
        for answer in [one.get(host, "/").await, two.get(host, "/").await] {
            assert_eq!(answer.status.as_u16(), status, "{host}: {answer:?}");
            match status {
                200 => assert_eq!(answer.text(), name, "{host}"),
                _ => assert_eq!(answer.reject(), "no_app", "{host}"),
            }
        }
    }
    let call = grpc_call("orders:9999", "/shop.Orders/List");
    let answer = two.send(call, "", http::HeaderMap::new()).await.unwrap();
    assert_eq!(answer.header("grpc-status"), "14", "{answer:?}");
    // Bytes that nobody can read name nobody.
    let mut opaque = Http1::connect(proxy.inbound).await;
    opaque.send("*1\r\n$4\r\nPING\r\n").await;
    assert!(opaque.rest().await.is_empty());
    assert_eq!(refused(&proxy, "no_app").await, 4.0);
}

#[tokio::test]
async fn each_request_is_judged_by_the_rules_of_the_port_it_names() {
    let (mesh, open, closed, raw) = (Mesh::new(), named("open"), named("closed"), named("raw"));
    let policy = "mtls: strict\nports:\n  80:\n    mtls: permissive\n  6379:\n    mtls: permissive\n    protocol: tcp\n";
    let proxy = mesh
        .proxy("orders")
        .serves(80, open.address)
        .serves(81, closed.address)
        .serves(6379, raw.address)
        .policy(policy)
        .start();
    let mut client = Http1::connect(proxy.inbound).await;
    assert_eq!(client.get("orders", "/").await.text(), "open");
    let answer = client.get("orders:81", "/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (403, "plaintext")
    );
    let mut client = Http1::connect(proxy.inbound).await;
    let answer = client.get("orders:6379", "/").await;
    assert_eq!((answer.status.as_u16(), answer.reject()), (404, "no_app"));
    proxy.change_policy("mtls: strict\n").await;
    let mut client = Http1::connect(proxy.inbound).await;
    let _gone = client
        .try_send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await;
    assert!(client.rest().await.is_empty(), "all ports are strict");
}
