//! Requests of one connection go to all endpoints of a service, by weight, and follow what the services file says.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use weft_tests::app::{self, App};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Endpoint, Mesh, Proxy};

/// An app that says its name, behind a proxy.
struct Replica {
    proxy: Proxy,
    _app: App,
}

impl Replica {
    fn new(mesh: &Mesh, name: &'static str) -> Self {
        let app = App::http(move |_| async move { http::Response::new(app::text(name)) });
        let proxy = mesh.proxy("orders").serves(80, app.address).start();
        Self { proxy, _app: app }
    }
}

fn three(mesh: &Mesh) -> [Replica; 3] {
    ["a", "b", "c"].map(|name| Replica::new(mesh, name))
}

#[tokio::test]
async fn one_connection_uses_three_endpoints_alike() {
    let mesh = Mesh::new();
    let replicas = three(&mesh);
    let endpoints = replicas.each_ref().map(|replica| replica.proxy.endpoint());
    mesh.services(&[("orders", 80, "-", &endpoints)]);
    let web = mesh.proxy("web").start();
    let two = Http2::connect(web.outbound).await;
    let mut one = Http1::connect(web.outbound).await;
    let (mut by_http2, mut by_http1) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..900 {
        *by_http2
            .entry(two.get("orders", "/").await.text().to_owned())
            .or_insert(0) += 1;
        *by_http1
            .entry(one.get("orders", "/").await.text().to_owned())
            .or_insert(0) += 1;
    }
    for (name, counts) in [("HTTP/2", by_http2), ("HTTP/1", by_http1)] {
        let fair = counts.len() == 3 && counts.values().all(|count| (250..=350).contains(count));
        assert!(fair, "{name}: {counts:?} of 900");
    }
}

#[tokio::test]
async fn weights_are_honoured() {
    let mesh = Mesh::new();
    let replicas = three(&mesh);
    let [a, b, c] = replicas.each_ref().map(|replica| replica.proxy.endpoint());
    let endpoints = [a, Endpoint { weight: 3, ..b }, Endpoint { weight: 0, ..c }];
    mesh.services(&[("orders", 80, "-", &endpoints)]);
    let web = mesh.proxy("web").start();
    let client = Http2::connect(web.outbound).await;
    let mut counts = BTreeMap::new();
    for _ in 0..800 {
        *counts
            .entry(client.get("orders", "/").await.text().to_owned())
            .or_insert(0) += 1;
    }
    assert_eq!(counts.get("c"), None, "{counts:?}");
    // The exact shares are the matter of a unit test: here one endpoint may really be the slower one for a while.
    assert!(
        counts["b"] > 3 * counts["a"] / 2 && counts["a"] > 20,
        "{counts:?} of 800, weights 1 and 3"
    );
}

#[tokio::test]
async fn a_change_of_the_services_file_takes_effect_within_a_second() {
    let mesh = Mesh::new();
    let replicas = three(&mesh);
    let [a, b, _c] = replicas.each_ref().map(|replica| replica.proxy.endpoint());
    mesh.services(&[("orders", 80, "-", std::slice::from_ref(&a))]);
    let web = mesh.proxy("web").start();
    let mut client = Http1::connect(web.outbound).await;
    assert_eq!(client.get("orders", "/").await.text(), "a");

    mesh.services(&[("orders", 80, "-", std::slice::from_ref(&b))]);
    let second = Duration::from_secs(1);
    let who = async || client.get("orders", "/").await.text().to_owned();
    eventually(second, who, |name| name == "b").await;

    // What cannot be read keeps what was last good, and does not end the watching.
    for broken in [
        "services: [",
        "services: [{name: orders, port: 80, colour: red, endpoints: []}]",
        "",
    ] {
        mesh.services_text(broken);
        let begun = Instant::now();
        let look = async || {
            assert_eq!(client.get("orders", "/").await.text(), "b", "{broken:?}");
            begun.elapsed()
        };
        eventually(second, look, |passed| *passed > Duration::from_millis(200)).await;
    }
    mesh.services(&[
        ("orders", 80, "-", std::slice::from_ref(&a)),
        ("users", 80, "-", std::slice::from_ref(&b)),
    ]);
    let who = async || client.get("orders", "/").await.text().to_owned();
    eventually(second, who, |name| name == "a").await;
    assert_eq!(client.get("users", "/").await.text(), "b");
}
