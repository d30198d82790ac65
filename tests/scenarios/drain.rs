//! Rolling restarts: no request is lost and none is sent twice, though discovery learns late and the app does not wait.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use weft_tests::app::{App, Body, echo, text};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Mesh, Pair, Proxy};
use weft_tests::metrics::Scrape;

/// How often each request was served, by its path.
type Served = Arc<Mutex<HashMap<String, u32>>>;

/// One instance of the service: the app and the proxy beside it.
struct Replica {
    proxy: Proxy,
    app: App,
}

impl Replica {
    fn start(mesh: &Mesh, served: &Served) -> Self {
        let served = Arc::clone(served);
        let app = App::http(move |request: Request<Incoming>| {
            let served = Arc::clone(&served);
            async move { answer(&request, &served) }
        });
        let proxy = mesh
            .proxy("orders")
            .serves(80, app.address)
            .set("WEFT_DRAIN_QUIET", "1500ms")
            .set("WEFT_DRAIN_TIMEOUT", "5s")
            .start();
        Self { proxy, app }
    }
}

fn answer(request: &Request<Incoming>, served: &Served) -> Response<Body> {
    *served
        .lock()
        .entry(request.uri().path().to_owned())
        .or_default() += 1;
    Response::new(text("ok"))
}

fn publish(mesh: &Mesh, replicas: &[Replica]) {
    let endpoints: Vec<_> = replicas.iter().map(|one| one.proxy.endpoint()).collect();
    mesh.services(&[("orders", 80, "-", &endpoints)]);
}

/// What the load saw.
#[derive(Debug, Default)]
struct Load {
    stop: AtomicBool,
    sent: AtomicU64,
    lost: Mutex<Vec<String>>,
}

impl Load {
    fn note(&self, name: &str, status: u16, body: &str) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if (status, body) != (200, "ok") {
            self.lost.lock().push(format!("{name}: {status} {body}"));
        }
    }

    /// GET and POST in turn over HTTP/1 connections, a new one now and then.
    async fn http1(self: Arc<Self>, outbound: SocketAddr, worker: u32) {
        let mut client = Http1::connect(outbound).await;
        for number in 0_u32.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let path = format!("/h1/{worker}/{number}");
            let answer = if number.is_multiple_of(2) {
                client.get("orders", &path).await
            } else {
                client.post("orders", &path, b"once").await
            };
            self.note(&path, answer.status.as_u16(), answer.text());
            if number % 50 == 49 {
                client = Http1::connect(outbound).await;
            }
        }
    }

    /// The same over one HTTP/2 connection.
    async fn http2(self: Arc<Self>, outbound: SocketAddr, worker: u32) {
        let client = Http2::connect(outbound).await;
        for number in 0_u32.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let path = format!("/h2/{worker}/{number}");
            let answer = if number.is_multiple_of(2) {
                client.get("orders", &path).await
            } else {
                client.post("orders", &path, "once").await
            };
            self.note(&path, answer.status.as_u16(), answer.text());
        }
    }

    /// Waits until so many more requests were sent.
    async fn more(&self, count: u64) {
        let wanted = self.sent.load(Ordering::Relaxed) + count;
        let look = async || self.sent.load(Ordering::Relaxed);
        eventually(Duration::from_secs(20), look, |sent| *sent >= wanted).await;
    }
}

#[tokio::test]
async fn a_rolling_restart_loses_no_request_and_repeats_none() {
    let (mesh, served) = (Mesh::new(), Served::default());
    let mut replicas: Vec<_> = (0..3).map(|_| Replica::start(&mesh, &served)).collect();
    publish(&mesh, &replicas);
    let web = mesh.proxy("web").start();
    let load = Arc::new(Load::default());
    let mut clients = tokio::task::JoinSet::new();
    for worker in 0..6 {
        clients.spawn(Arc::clone(&load).http1(web.outbound, worker));
    }
    for worker in 0..2 {
        clients.spawn(Arc::clone(&load).http2(web.outbound, worker));
    }
    load.more(500).await;
    for _ in 0..3 {
        // Both are told at the same moment, and discovery is not told at all until the process has long ended.
        let old = replicas.remove(0);
        old.proxy.shutdown();
        old.app.leave();
        load.more(200).await;
        old.proxy.ended().await;
        load.more(500).await;
        drop(old.app);
        replicas.push(Replica::start(&mesh, &served));
        publish(&mesh, &replicas);
        load.more(200).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let lost = load.lost.lock();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {:?}",
        lost.len(),
        load.sent.load(Ordering::Relaxed),
        lost.first()
    );
    let twice: Vec<_> = served
        .lock()
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(path, times)| format!("{path} {times}x"))
        .collect();
    assert!(twice.is_empty(), "served more than once: {twice:?}");
}

/// What an app has taken whole, by path.
type Taken = Arc<Mutex<HashMap<String, Vec<u64>>>>;

fn taking(taken: &Taken) -> App {
    let taken = Arc::clone(taken);
    App::http(move |request: Request<Incoming>| {
        let taken = Arc::clone(&taken);
        async move {
            let path = request.uri().path().to_owned();
            let whole = request.into_body().collect().await;
            if let Ok(body) = whole {
                let length = body.to_bytes().len() as u64;
                taken.lock().entry(path).or_default().push(length);
            }
            Response::new(text("ok"))
        }
    })
}

#[tokio::test]
async fn a_body_of_any_size_that_is_handed_back_goes_elsewhere_whole() {
    let (mesh, taken) = (Mesh::new(), Taken::default());
    let (app, gone) = (taking(&taken), taking(&taken));
    let good = mesh.proxy("orders").serves(80, app.address).start();
    let bad = mesh.proxy("orders").serves(80, gone.address).start();
    drop(gone);
    mesh.services(&[("orders", 80, "-", &[good.endpoint(), bad.endpoint()])]);
    let size = 3 << 20;
    let body = vec![b'x'; size];
    let mut want = HashMap::new();
    for number in 0..10 {
        // An endpoint that was handed back from is passed over for a while: each call has a caller of its own.
        let web = mesh.proxy("web").start();
        let paths = [
            format!("/length/{number}"),
            format!("/chunked/{number}"),
            format!("/h2/{number}"),
        ];
        for path in &paths {
            want.insert(path.clone(), vec![size as u64]);
        }
        let mut one = Http1::connect(web.outbound).await;
        assert_eq!(one.post("orders", &paths[0], &body).await.status, 200);
        let web = mesh.proxy("web").start();
        let mut one = Http1::connect(web.outbound).await;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n",
            paths[1]
        );
        one.send([head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat())
            .await;
        assert_eq!(one.answer().await.status, 200);
        let web = mesh.proxy("web").start();
        let two = Http2::connect(web.outbound).await;
        assert_eq!(
            two.post("orders", &paths[2], body.clone()).await.status,
            200
        );
    }
    assert_eq!(*taken.lock(), want);
    let handed_back = Scrape::of(bad.metrics).await;
    let count = handed_back.sum("weft_rejects_total", &["reason=\"app_gone\""]);
    assert!(count >= 5.0, "handed back {count} of 30: nothing was shown");
}

#[tokio::test]
async fn the_wait_of_a_large_body_is_between_proxies_only() {
    let pair = Pair::new(echo());
    let mut client = Http1::connect(pair.web.outbound).await;
    let answer = client.post("orders", "/", &vec![b'x'; 1 << 20]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 1 << 20));
    for name in ["seen-expect", "seen-x-weft-held"] {
        assert_eq!(answer.header(name), "", "{answer:?}");
    }
    // What an app writes itself is the app's.
    let head = "POST / HTTP/1.1\r\nhost: orders\r\nx-weft-held: 1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    client.send(head).await;
    client.send("ok").await;
    let answer = client.answer().await;
    assert_eq!(answer.header("seen-expect"), "100-continue", "{answer:?}");
    assert_eq!(answer.header("seen-x-weft-held"), "", "{answer:?}");
}
