//! What is sent again and what is not, and that a dead endpoint costs nobody an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_tests::app::{self, App, echo, read_head};
use weft_tests::client::{Http1, Http2};
use weft_tests::mesh::{Endpoint, Mesh, Pair};

#[tokio::test]
async fn what_the_app_has_answered_is_never_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let app = App::http(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::new(app::text("no"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        async { response }
    });
    let pair = Pair::new(app);
    let mut one = Http1::connect(pair.web.outbound).await;
    let two = Http2::connect(pair.web.outbound).await;
    for status in [400, 404, 409, 429, 500, 502, 503, 504] {
        asked.store(0, Ordering::Relaxed);
        let path = format!("/{status}");
        let answers = [
            one.get("orders", &path).await,
            one.post("orders", &path, b"x").await,
            two.get("orders", &path).await,
        ];
        for answer in answers {
            assert_eq!((answer.status.as_u16(), answer.reject()), (status, ""));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3, "{status}");
    }
}

/// Reads a request whole and ends without an answer.
fn speechless(asked: &Arc<AtomicUsize>) -> App {
    let count = Arc::clone(asked);
    App::tcp(move |mut io| {
        let count = Arc::clone(&count);
        async move {
            if let Some(head) = read_head(&mut io).await {
                count.fetch_add(1, Ordering::Relaxed);
                if head.starts_with("POST") {
                    io.read_exact(&mut [0; 5]).await.unwrap();
                }
                let _ended = io.shutdown().await;
            }
        }
    })
}

#[tokio::test]
async fn what_the_app_may_have_processed_is_sent_again_only_where_that_is_safe() {
    let asked = Arc::new(AtomicUsize::new(0));
    let pair = Pair::new(speechless(&asked));
    let rows = [
        ("POST", "", false),
        ("POST", "idempotency-key: 1\r\n", true),
        ("GET", "", true),
        ("PUT", "", true),
        ("DELETE", "", true),
        ("PATCH", "", false),
    ];
    for (method, fields, again) in rows {
        asked.store(0, Ordering::Relaxed);
        let mut client = Http1::connect(pair.web.outbound).await;
        let content = if method == "POST" {
            "content-length: 5\r\n\r\nhello"
        } else {
            "\r\n"
        };
        client
            .send(format!(
                "{method} / HTTP/1.1\r\nhost: orders\r\n{fields}{content}"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (502, "upstream_closed"),
            "{method} {fields}"
        );
        let count = asked.load(Ordering::Relaxed);
        let want = if again { 2 } else { 1 };
        assert_eq!(count, want, "{method} {fields}");
    }
}

#[tokio::test]
async fn retries_do_not_become_the_load() {
    let asked = Arc::new(AtomicUsize::new(0));
    let pair = Pair::new(speechless(&asked));
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..500 {
        assert_eq!(client.get("orders", "/").await.status, 502);
    }
    let count = asked.load(Ordering::Relaxed);
    // A full budget is 100 retries, and a fifth of the requests is earned meanwhile, with 10 a second.
    assert!((600..800).contains(&count), "500 requests became {count}");
}

/// A port on which nobody listens, and which nobody else is given: it stays bound.
fn nobody() -> std::net::SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

#[tokio::test]
async fn dead_endpoints_among_three_cost_nobody_an_error() {
    let mesh = Mesh::new();
    let app = echo();
    let good = mesh.proxy("orders").serves(80, app.address).start();
    // The app is gone and its proxy is not: requests are handed back, whatever the method.
    let headless = mesh.proxy("orders").serves(80, nobody()).start();
    let dead = || Endpoint {
        inbound: Some(nobody()),
        address: nobody(),
        ..good.endpoint()
    };
    let rows = [
        ("no proxy there", [good.endpoint(), dead(), dead()]),
        (
            "no app there",
            [good.endpoint(), headless.endpoint(), dead()],
        ),
    ];
    for (name, endpoints) in rows {
        mesh.services(&[("orders", 80, "-", &endpoints)]);
        let web = mesh.proxy("web").start();
        let mut one = Http1::connect(web.outbound).await;
        let two = Http2::connect(web.outbound).await;
        for number in 0..50 {
            let body = format!("{number}");
            let answers = [
                one.post("orders", "/", body.as_bytes()).await,
                two.post("orders", "/", body.clone()).await,
                one.get("orders", "/").await,
            ];
            for answer in &answers {
                assert_eq!(answer.status, 200, "{name}, {number}: {answer:?}");
                assert!(
                    !answer.headers.contains_key("x-weft-unprocessed"),
                    "{name}: {answer:?}"
                );
            }
            assert_eq!(
                (answers[0].text(), answers[1].text()),
                (body.as_str(), body.as_str()),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn a_service_whose_apps_are_all_gone_says_so() {
    let mesh = Mesh::new();
    let headless = mesh.proxy("orders").serves(80, nobody()).start();
    mesh.services(&[("orders", 80, "-", &[headless.endpoint()])]);
    let web = mesh.proxy("web").start();
    let answer = Http1::connect(web.outbound).await.get("orders", "/").await;
    assert_eq!((answer.status.as_u16(), answer.reject()), (503, "app_gone"));
    let answer = Http1::connect(web.outbound)
        .await
        .get("nowhere.invalid", "/")
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (404, "unknown_service")
    );
    let request =
        Request::post("http://orders/shop.Orders/List").header("content-type", "application/grpc");
    let answer = Http2::connect(web.outbound).await;
    let answer = answer
        .send(request.body(()).unwrap(), "", HeaderMap::new())
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("grpc-status")),
        (200, "14"),
        "{answer:?}"
    );
}
