//! How many requests an app has at a time: the rest is refused at once, or served elsewhere if there is an elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Response, StatusCode};
use tokio::sync::Semaphore;
use weft_tests::app::{self, App, echo};
use weft_tests::client::{Http1, Http2, grpc_call};
use weft_tests::eventually::{PATIENCE, eventually};
use weft_tests::mesh::{Mesh, Pair, Proxy};
use weft_tests::metrics::Scrape;

/// Lets an app answer `/slow`.
struct Slow {
    waiting: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Slow {
    fn new() -> (Self, App) {
        let (waiting, gate) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let slow = Self {
            waiting: Arc::clone(&waiting),
            gate: Arc::clone(&gate),
        };
        let app = App::http(move |request| {
            let (waiting, gate) = (Arc::clone(&waiting), Arc::clone(&gate));
            async move {
                if request.uri().path() == "/slow" {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                }
                Response::new(app::text("ok"))
            }
        });
        (slow, app)
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn holds(&self, count: usize) {
        eventually(
            PATIENCE,
            async || self.waiting(),
            |waiting| *waiting == count,
        )
        .await;
    }
}

const SLOW: &str = "GET /slow HTTP/1.1\r\nhost: orders\r\n\r\n";
const PROBE: &str = "GET / HTTP/1.1\r\nhost: orders\r\nuser-agent: kube-probe/1.34\r\n\r\n";

#[tokio::test]
async fn what_is_beyond_the_limit_is_refused_at_once_and_health_is_not() {
    let (slow, app) = Slow::new();
    let pair = Pair::with(app, |web| web, |orders| orders.policy("concurrency: 2"));
    let mut held = [
        Http1::connect(pair.web.outbound).await,
        Http1::connect(pair.web.outbound).await,
    ];
    for client in &mut held {
        client.send(SLOW).await;
    }
    slow.holds(2).await;
    let mut client = Http1::connect(pair.web.outbound).await;
    let refused = client.get("orders", "/").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.reject(), "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(
        client.get("orders", "/healthz").await.status,
        StatusCode::OK
    );
    client.send(PROBE).await;
    assert_eq!(client.answer().await.status, StatusCode::OK);
    let http2 = Http2::connect(pair.web.outbound).await;
    let call = grpc_call("orders", "/shop.Orders/Get");
    let call = http2.send(call, "", HeaderMap::new()).await.unwrap();
    assert_eq!(call.header("grpc-status"), "14", "{call:?}");
    assert_eq!(call.header("grpc-retry-pushback-ms"), "1000");
    let scrape = Scrape::of(pair.orders.metrics).await;
    assert_eq!(scrape.sum("weft_concurrency_in_flight", &[]), 2.0);
    assert_eq!(scrape.sum("weft_concurrency_limit", &[]), 2.0);
    slow.gate.add_permits(2);
    for client in &mut held {
        assert_eq!(client.answer().await.status, StatusCode::OK);
    }
    let ask = async || client.get("orders", "/").await.status;
    eventually(PATIENCE, ask, |status| *status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_place_comes_back_when_the_caller_goes_away() {
    let (slow, app) = Slow::new();
    let pair = Pair::with(app, |web| web, |orders| orders.policy("concurrency: 1"));
    let gone = Http2::connect(pair.web.outbound).await;
    tokio::select! {
        answer = gone.get("orders", "/slow") => panic!("{answer:?}"),
        () = slow.holds(1) => {}
    }
    let mut client = Http1::connect(pair.web.outbound).await;
    let ask = async || client.get("orders", "/").await.status;
    eventually(PATIENCE, ask, |status| *status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_request_that_one_endpoint_refuses_is_served_by_another() {
    let ((narrow, narrow_app), (wide, wide_app)) = (Slow::new(), Slow::new());
    let mesh = Mesh::new();
    let busy = mesh.proxy("orders").serves(80, narrow_app.address);
    let busy = busy.policy("concurrency: 1").start();
    let free = mesh.proxy("orders").serves(80, wide_app.address).start();
    mesh.services(&[("orders", 80, "-", &[busy.endpoint(), free.endpoint()])]);
    let web = mesh.proxy("web").start();
    let mut held = Vec::new();
    while narrow.waiting() < 1 || wide.waiting() < 2 {
        let mut client = Http1::connect(web.outbound).await;
        client.send(SLOW).await;
        held.push(client);
        let waiting = async || narrow.waiting() + wide.waiting();
        eventually(PATIENCE, waiting, |waiting| *waiting == held.len()).await;
    }
    // The one that is full has less to do, so it is asked before the other.
    let mut client = Http1::connect(web.outbound).await;
    for _ in 0..20 {
        let answer = client.post("orders", "/", b"once").await;
        assert_eq!((answer.status, answer.reject()), (StatusCode::OK, ""));
    }
    assert!(refused(&busy).await >= 1.0);
    narrow.gate.add_permits(1);
    wide.gate.add_permits(held.len());
    for client in &mut held {
        assert_eq!(client.answer().await.status, StatusCode::OK);
    }
}

async fn refused(proxy: &Proxy) -> f64 {
    let scrape = Scrape::of(proxy.metrics).await;
    scrape.sum("weft_rejects_total", &[r#"reason="overloaded""#])
}

#[tokio::test]
async fn auto_lets_pass_what_the_app_serves() {
    let pair = Pair::with(
        echo(),
        |web| web,
        |orders| orders.policy("concurrency: auto"),
    );
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..200 {
        assert_eq!(client.get("orders", "/").await.status, StatusCode::OK);
    }
    let scrape = Scrape::of(pair.orders.metrics).await;
    assert_eq!(scrape.sum("weft_concurrency_limit", &[]), 64.0);
    assert_eq!(scrape.sum("weft_concurrency_in_flight", &[]), 0.0);
}
