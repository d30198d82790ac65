//! Streams of HTTP/2 on which nothing moves: none keeps its place for longer than the idle limit, and none that moves is cut.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weft_tests::app::{self, App, echo};
use weft_tests::client::{Http1, Http2, grpc_call, receive};
use weft_tests::eventually::{eventually, soon};
use weft_tests::mesh::{Pair, Proxy};
use weft_tests::metrics::Scrape;

use super::frames::{HEADERS, PING, PREFACE, WINDOW_UPDATE, block, frame};
use super::{STUCK, counted};

/// Both proxies with short limits; that of the caller's is the shorter one, and so the first.
fn pair(app: App) -> Pair {
    Pair::with(
        app,
        |web| web.set("WEFT_IDLE_TIMEOUT", "1s"),
        |orders| orders.set("WEFT_IDLE_TIMEOUT", "2s"),
    )
}

fn sides(pair: &Pair) -> [(SocketAddr, &Proxy); 2] {
    [
        (pair.web.outbound, &pair.web),
        (pair.orders.inbound, &pair.orders),
    ]
}

fn post() -> Request<()> {
    Request::post("http://orders/").body(()).unwrap()
}

#[tokio::test]
async fn an_http2_body_that_stops_coming_is_given_up() {
    // It reads all of a request before it answers.
    let app = App::http(async |request| {
        let _whole = http_body_util::BodyExt::collect(request.into_body()).await;
        Response::new(app::text("ok"))
    });
    let pair = pair(app);
    for (address, proxy) in sides(&pair) {
        let client = Http2::connect(address).await;
        let steady = async || {
            Http2::connect(address)
                .await
                .get("orders", "/")
                .await
                .status
        };
        for sent in ["", "hello"] {
            let mut sender = client.sender().await;
            let (answer, mut stream) = sender.send_request(post(), false).unwrap();
            if !sent.is_empty() {
                stream.send_data(Bytes::from(sent), false).unwrap();
            }
            let answer = soon(receive(answer)).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), answer.reject()),
                (408, "body_timeout"),
                "{sent:?}"
            );
            assert_eq!(steady().await, 200);
        }
        let mut sender = client.sender().await;
        let call = grpc_call("orders", "/shop.Orders/List");
        let (answer, _stream) = sender.send_request(call, false).unwrap();
        let answer = soon(receive(answer)).await.unwrap();
        assert_eq!(answer.header("grpc-status"), "14", "{answer:?}");
        assert!(counted(proxy.metrics, "body_timeout").await >= 3.0);
    }
}

#[tokio::test]
async fn an_http2_body_that_is_slow_passes() {
    let pair = pair(echo());
    for (address, _) in sides(&pair) {
        let client = Http2::connect(address).await;
        let mut sender = client.sender().await;
        let (answer, mut stream) = sender.send_request(post(), false).unwrap();
        let send = async {
            let mut drip = tokio::time::interval(Duration::from_millis(100));
            for number in 0..LONG {
                drip.tick().await;
                let piece = Bytes::from_static(b"x");
                stream.send_data(piece, number + 1 == LONG).unwrap();
            }
        };
        let (answer, ()) = tokio::join!(receive(answer), send);
        let answer = answer.unwrap();
        assert_eq!((answer.body.len(), &answer.cut), (LONG, &None));
    }
}

/// Tenths of a second: longer than any of the limits.
const LONG: usize = 25;

#[tokio::test]
async fn a_stream_on_which_neither_side_says_anything_more_is_reset() {
    let pair = pair(echo());
    for (address, proxy) in sides(&pair) {
        let client = Http2::connect(address).await;
        let mut sender = client.sender().await;
        let (answer, mut stream) = sender.send_request(post(), false).unwrap();
        stream
            .send_data(Bytes::from_static(b"hello"), false)
            .unwrap();
        // The app has answered, and would say more if its caller did.
        let answer = soon(receive(answer)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "hello"));
        assert!(answer.cut.is_some(), "{answer:?}");
        let idle = async || counted(proxy.metrics, "idle").await;
        eventually(STUCK, idle, |count| *count >= 1.0).await;
        let other = Http2::connect(address).await;
        assert_eq!(other.get("orders", "/").await.status, 200);
    }
}

#[tokio::test]
async fn a_reader_of_http2_that_stands_still_is_given_up() {
    let app = App::http(async |request: Request<hyper::body::Incoming>| {
        let large = request.uri().path() == "/large";
        let size = if large { 16 << 20 } else { 2 };
        Response::new(app::text(vec![b'x'; size]))
    });
    let pair = Pair::with(
        app,
        |web| web.set("WEFT_IDLE_TIMEOUT", "300ms"),
        |orders| orders,
    );
    let io = soon(TcpStream::connect(pair.web.outbound)).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 24);
    let client = Http2::over(io, &builder).await;
    let mut sender = client.sender().await;
    let request = Request::get("http://orders/large").body(()).unwrap();
    let (answer, _stream) = sender.send_request(request, true).unwrap();
    let mut body = soon(answer).await.unwrap().into_body();
    let idle = async || counted(pair.web.metrics, "idle").await;
    eventually(STUCK, idle, |count| *count >= 1.0).await;
    // What was on its way is read; then comes the reset.
    let error = loop {
        match soon(body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("an answer that was given up ended as if it were whole"),
        }
    };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    let other = Http2::connect(pair.web.outbound).await;
    assert_eq!(other.get("orders", "/").await.text(), "xx");
}

#[tokio::test]
async fn a_body_that_the_app_does_not_read_is_given_up() {
    let app = App::http(async |request: Request<hyper::body::Incoming>| {
        if request.uri().path() == "/unread" {
            std::future::pending::<()>().await;
        }
        Response::new(app::text("ok"))
    });
    let pair = Pair::with(
        app,
        |web| web.set("WEFT_IDLE_TIMEOUT", "1s"),
        |orders| orders,
    );
    let client = Http2::connect(pair.web.outbound).await;
    let request = Request::post("http://orders/unread").body(()).unwrap();
    let body = vec![b'x'; 8 << 20];
    let answer = client.send(request, body, HeaderMap::new()).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (504, "body_unread")
    );
    let other = Http2::connect(pair.web.outbound).await;
    assert_eq!(other.get("orders", "/").await.text(), "ok");
}

#[tokio::test]
async fn an_http2_client_that_reads_nothing_at_all_is_closed() {
    let app = App::http(async |_| Response::new(app::text(vec![b'x'; 16 << 20])));
    let pair = pair(app);
    for (address, proxy) in sides(&pair) {
        let mut io = soon(TcpStream::connect(address)).await.unwrap();
        let request = block(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "orders"),
            (":path", "/"),
        ]);
        let credit = 0x7fff_0000_u32.to_be_bytes();
        let mut bytes = [PREFACE, &frame(WINDOW_UPDATE, 0, 0, &credit)].concat();
        for stream in (1..40).step_by(2) {
            bytes.extend(frame(HEADERS, 5, stream, &request));
            bytes.extend(frame(WINDOW_UPDATE, 0, stream, &credit));
        }
        soon(io.write_all(&bytes)).await.unwrap();
        // Its streams first, then the connection, which has no room for their resets.
        let idle = async || counted(proxy.metrics, "idle").await;
        eventually(STUCK, idle, |count| *count >= 2.0).await;
        let direction = if proxy.outbound == address {
            "outbound"
        } else {
            "inbound"
        };
        let open = async || {
            let scrape = Scrape::of(proxy.metrics).await;
            scrape.sum(&format!("weft_{direction}_connections_open"), &[])
        };
        eventually(STUCK, open, |count| *count == 0.0).await;
    }
}

#[tokio::test]
async fn an_http2_connection_without_requests_is_closed_though_it_is_kept_busy() {
    let pair = pair(echo());
    for (address, _) in sides(&pair) {
        let mut client = Http1::connect(address).await;
        client.send(PREFACE).await;
        let mut drip = tokio::time::interval(Duration::from_millis(50));
        let ping = frame(PING, 0, 0, b"12345678");
        let closed = async {
            // It answers no goodbye, either.
            while client.try_send(&ping).await.is_ok() {
                drip.tick().await;
            }
        };
        soon(closed).await;
    }
}
