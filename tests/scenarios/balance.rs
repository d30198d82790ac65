//! Requests of one connection go to all endpoints of a service, by weight, and follow what the services file says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use weft_tests::app::{self, App};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Endpoint, Mesh, Proxy};
use weft_tests::metrics::Scrape;

/// An app that says its name, behind a proxy.
struct Replica {
    proxy: Proxy,
    _app: App,
}

impl Replica {
    fn new(mesh: &Mesh, name: &'static str) -> Self {
        Self::of(
            mesh,
            App::http(move |_| async move { http::Response::new(app::text(name)) }),
        )
    }

    fn of(mesh: &Mesh, app: App) -> Self {
        let proxy = mesh.proxy("orders").serves(80, app.address);
        let proxy = proxy.set("WEFT_DRAIN_TIMEOUT", "0s").start();
        Self { proxy, _app: app }
    }
}

fn three(mesh: &Mesh) -> [Replica; 3] {
    ["a", "b", "c"].map(|name| Replica::new(mesh, name))
}

/// Asks `count` times, sixteen at a time, and counts who has answered.
async fn answers(client: &Http2, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count / 16 {
        for answer in join_all((0..16).map(|_| client.get("orders", "/"))).await {
            assert_eq!(answer.status, 200, "{answer:?}");
            *counts.entry(answer.text().to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

#[tokio::test]
async fn one_connection_uses_three_endpoints() {
    let mesh = Mesh::new();
    let replicas = three(&mesh);
    let endpoints = replicas.each_ref().map(|replica| replica.proxy.endpoint());
    mesh.services(&[("orders", 80, "-", &endpoints)]);
    let web = mesh.proxy("web").start();
    let by_http2 = answers(&Http2::connect(web.outbound).await, 480).await;
    let mut lines: Vec<Http1> = Vec::new();
    for _ in 0..16 {
        lines.push(Http1::connect(web.outbound).await);
    }
    let mut by_http1 = BTreeMap::new();
    for _ in 0..30 {
        for answer in join_all(lines.iter_mut().map(|line| line.get("orders", "/"))).await {
            *by_http1.entry(answer.text().to_owned()).or_insert(0) += 1;
        }
    }
    // Exact shares are the matter of a unit test: on a busy machine one endpoint may really be the slower one for a while.
    for (name, counts) in [("HTTP/2", by_http2), ("HTTP/1", by_http1)] {
        let all = counts.len() == 3 && counts.values().all(|count| (30..=350).contains(count));
        assert!(all, "{name}: {counts:?} of 480");
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
    let counts = answers(&client, 800).await;
    assert_eq!(counts.get("c"), None, "{counts:?}");
    assert!(
        counts["b"] > counts["a"] && counts["a"] > 20,
        "{counts:?} of 800, weights 1 and 3"
    );
}

/// Two replicas that answer, and one that does something else.
fn and_another(mesh: &Mesh, app: App) -> [Replica; 3] {
    let replicas = [
        Replica::new(mesh, "a"),
        Replica::new(mesh, "b"),
        Replica::of(mesh, app),
    ];
    let endpoints = replicas.each_ref().map(|replica| replica.proxy.endpoint());
    mesh.services(&[("orders", 80, "-", &endpoints)]);
    replicas
}

#[tokio::test]
async fn a_slow_endpoint_is_asked_less() {
    let mesh = Mesh::new();
    let slow = App::http(async |_| {
        tokio::time::sleep(Duration::from_millis(150)).await;
        http::Response::new(app::text("slow"))
    });
    let _replicas = and_another(&mesh, slow);
    let web = mesh.proxy("web").start();
    let counts = answers(&Http2::connect(web.outbound).await, 480).await;
    let slow = counts.get("slow").copied().unwrap_or(0);
    assert!(slow < 80, "{counts:?} of 480, a third of which is 160");
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_is_asked_less_and_nobody_is_blamed_for_it() {
    let mesh = Mesh::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Longer than any good answer takes, so that blame of the wrong one would show.
    let broken = App::tcp(move |mut io| {
        let count = Arc::clone(&count);
        async move {
            if app::read_head(&mut io).await.is_some() {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    });
    let _replicas = and_another(&mesh, broken);
    let web = mesh.proxy("web").start();
    let mut one = Http1::connect(web.outbound).await;
    let mut counts = BTreeMap::new();
    for number in 0..200 {
        let answer = one.get("orders", "/").await;
        assert_eq!(answer.status, 200, "{number}: {answer:?}");
        *counts.entry(answer.text().to_owned()).or_insert(0) += 1;
    }
    let asked = asked.load(Ordering::Relaxed);
    assert!((1..=8).contains(&asked), "asked {asked} times");
    assert!(
        counts.len() == 2 && counts.values().all(|count| *count > 20),
        "{counts:?} of 200"
    );
}

#[tokio::test]
async fn endpoints_that_go_away_cost_nobody_an_error() {
    let mesh = Mesh::new();
    let [a, b, c] = three(&mesh);
    let left = a.proxy.endpoint();
    let endpoints = [left.clone(), b.proxy.endpoint(), c.proxy.endpoint()];
    mesh.services(&[("orders", 80, "-", &endpoints)]);
    let web = mesh.proxy("web").start();
    let served = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let load = async {
        let two = Http2::connect(web.outbound).await;
        let mut one = Http1::connect(web.outbound).await;
        while !over.load(Ordering::Relaxed) {
            let pair = tokio::join!(one.get("orders", "/"), two.get("orders", "/"));
            for answer in [pair.0, pair.1] {
                assert_eq!(answer.status, 200, "{answer:?}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
        assert_eq!(two.get("orders", "/").await.text(), "a");
    };
    let leave = async {
        for gone in [b, c] {
            more(&served, 50).await;
            // Without a drain: what runs there is cut.
            gone.proxy.shutdown();
            gone.proxy.ended().await;
            more(&served, 50).await;
        }
        mesh.services(&[("orders", 80, "-", std::slice::from_ref(&left))]);
        more(&served, 50).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, leave);
}

/// Waits until `count` more requests have been served.
async fn more(served: &AtomicUsize, count: usize) {
    let from = served.load(Ordering::Relaxed);
    let look = async || served.load(Ordering::Relaxed) - from;
    eventually(Duration::from_secs(20), look, |more| *more >= count).await;
}

async fn refused(proxy: &Proxy) -> f64 {
    Scrape::of(proxy.metrics)
        .await
        .sum("weft_services_updates_total", &["result=\"refused\""])
}

#[tokio::test]
async fn a_change_of_the_services_file_takes_effect_at_once() {
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
    eventually(5 * second, who, |name| name == "b").await;

    // What cannot be read keeps what was last good, and does not end the watching.
    for broken in [
        "services: [",
        "services: [{name: orders, port: 80, colour: red, endpoints: []}]",
        "",
    ] {
        let before = refused(&web).await;
        mesh.services_text(broken);
        let look = async || {
            assert_eq!(client.get("orders", "/").await.text(), "b", "{broken:?}");
            refused(&web).await
        };
        eventually(5 * second, look, |count| *count > before).await;
    }
    // Nor does one that is not there, or is no file.
    let before = refused(&web).await;
    mesh.services_gone();
    let look = async || {
        assert_eq!(client.get("orders", "/").await.text(), "b");
        refused(&web).await
    };
    eventually(5 * second, look, |count| *count > before).await;
    mesh.services(&[
        ("orders", 80, "-", std::slice::from_ref(&a)),
        ("users", 80, "-", std::slice::from_ref(&b)),
    ]);
    let who = async || client.get("orders", "/").await.text().to_owned();
    eventually(5 * second, who, |name| name == "a").await;
    assert_eq!(client.get("users", "/").await.text(), "b");
}
