//! Frames of HTTP/2 that make work and carry nothing.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weft_tests::app::{self, App, echo};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::{eventually, soon, within};
use weft_tests::mesh::Pair;

use super::frames::{
    CONTINUATION, DATA, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    frame,
};
use super::{STUCK, counted};

/// `GET http://orders/flood`, by HPACK's static table.
const FLOOD_HEADERS: &[u8] = b"\x82\x86\x04\x06/flood\x01\x06orders";

/// Its name, how it begins, and what comes then, by number.
type Flood = (&'static str, Vec<u8>, Box<dyn Fn(u32) -> Vec<u8>>);

fn floods() -> Vec<Flood> {
    let open = frame(HEADERS, 4, 1, FLOOD_HEADERS);
    vec![
        (
            "pings",
            vec![],
            Box::new(|_| frame(PING, 0, 0, b"12345678")),
        ),
        ("settings", vec![], Box::new(|_| frame(SETTINGS, 0, 0, b""))),
        (
            "priorities",
            vec![],
            Box::new(|n| frame(PRIORITY, 0, 1 + 2 * n, b"\0\0\0\0\x10")),
        ),
        (
            "unknown frames",
            vec![],
            Box::new(|_| frame(0x77, 0, 0, b"")),
        ),
        (
            "rapid reset",
            vec![],
            Box::new(|n| {
                [
                    frame(HEADERS, 5, 1 + 2 * n, FLOOD_HEADERS),
                    frame(RST_STREAM, 0, 1 + 2 * n, b"\0\0\0\x08"),
                ]
                .concat()
            }),
        ),
        (
            "streams that are made to be reset",
            vec![],
            Box::new(|n| {
                [
                    frame(HEADERS, 4, 1 + 2 * n, FLOOD_HEADERS),
                    frame(WINDOW_UPDATE, 0, 1 + 2 * n, b"\0\0\0\0"),
                ]
                .concat()
            }),
        ),
        (
            "updates of the connection's window",
            vec![],
            Box::new(|_| frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x01")),
        ),
        (
            "requests that break the rules",
            vec![],
            Box::new(|n| frame(HEADERS, 5, 1 + 2 * n, b"\x82")),
        ),
        (
            "empty data",
            open.clone(),
            Box::new(|_| frame(DATA, 0, 1, b"")),
        ),
        (
            "padding",
            open.clone(),
            Box::new(|_| frame(DATA, 8, 1, &[1, 0])),
        ),
        (
            "empty continuations",
            frame(HEADERS, 0, 1, FLOOD_HEADERS),
            Box::new(|_| frame(CONTINUATION, 0, 1, b"")),
        ),
        (
            "continuations",
            frame(HEADERS, 0, 1, FLOOD_HEADERS),
            Box::new(|_| frame(CONTINUATION, 0, 1, b"\0\x01x\x01y")),
        ),
    ]
}

#[tokio::test]
async fn http2_floods_are_cut_early_and_harm_nobody() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let app = App::http(move |request| {
        if request.uri().path() == "/flood" {
            count.fetch_add(1, Ordering::Relaxed);
        }
        async { Response::new(app::text("ok")) }
    });
    let pair = Pair::new(app);
    let rows = floods();
    for (address, proxy) in [
        (pair.web.outbound, &pair.web),
        (pair.orders.inbound, &pair.orders),
    ] {
        let steady = Http2::connect(address).await;
        for (name, begin, next) in &rows {
            let before = cut(proxy.metrics).await;
            requests.store(0, Ordering::Relaxed);
            let sent = flood(address, begin, next, &steady).await;
            assert!(sent < MOST_FRAMES, "{name}: still open after {sent} frames");
            let served = requests.load(Ordering::Relaxed);
            assert!(served < 2_000, "{name}: the app was asked {served} times");
            let look = async || (*name, cut(proxy.metrics).await);
            eventually(STUCK, look, |(_, count)| *count > before).await;
        }
    }
}

async fn cut(metrics: SocketAddr) -> f64 {
    counted(metrics, "flood").await + counted(metrics, "http2_protocol").await
}

const MOST_FRAMES: u32 = 100_000;

/// Sends frames until the connection is closed, and asks the app by another connection meanwhile.
async fn flood(
    address: SocketAddr,
    begin: &[u8],
    next: &dyn Fn(u32) -> Vec<u8>,
    steady: &Http2,
) -> u32 {
    let io = soon(TcpStream::connect(address)).await.unwrap();
    let (mut from, mut to) = io.into_split();
    let send = async {
        to.write_all(&[PREFACE, begin].concat()).await.unwrap();
        let mut sent = 0;
        while sent < MOST_FRAMES {
            let frames: Vec<u8> = (sent..sent + 50).flat_map(next).collect();
            if to.write_all(&frames).await.is_err() {
                break;
            }
            sent += 50;
            if sent % 1000 == 0 {
                assert_eq!(steady.get("orders", "/").await.status, 200);
            }
        }
        sent
    };
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    within(Duration::from_secs(20), async {
        tokio::select! {
            sent = send => sent,
            // Closed: what was sent after that is nobody's concern.
            () = read => 0,
        }
    })
    .await
}

#[tokio::test]
async fn headers_that_grow_when_unpacked_are_refused() {
    let pair = Pair::new(echo());
    // One header of 4000 bytes goes into the table, then one byte stands for it each time.
    let mut block = FLOOD_HEADERS.to_vec();
    block.extend(b"\x40\x01x\x7f\xa1\x1e");
    block.extend(vec![b'a'; 4000]);
    block.extend(vec![0xbe; 12_000]);
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send([PREFACE, &frame(HEADERS, 5, 1, &block)].concat())
        .await;
    let mut seen = Vec::new();
    while !seen
        .windows(2)
        .any(|pair| pair == b"\x48\x03" || pair == b"43")
    {
        let more = client.some().await;
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    assert!(seen.len() < 1000, "{seen:?}");
    assert_eq!(
        Http2::connect(pair.web.outbound)
            .await
            .get("orders", "/")
            .await
            .status,
        200
    );
}

/// A message and a ping in turn, as a gRPC server or client does that measures the way.
fn talkative() -> App {
    App::tcp(async |io| {
        let mut connection = h2::server::handshake(io).await.unwrap();
        let Some(Ok((_, mut respond))) = connection.accept().await else {
            return;
        };
        let mut pings = connection.ping_pong().unwrap();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let talk = async {
            for _ in 0..3000 {
                let message = Bytes::from_static(b"message");
                stream.send_data(message, false).unwrap();
                pings.ping(h2::Ping::opaque()).await.unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        };
        let drive = async { while connection.accept().await.is_some() {} };
        tokio::join!(talk, drive);
    })
}

/// A client of HTTP/2 that lets small messages wait for their reader.
async fn patient(address: SocketAddr) -> (SendRequest<Bytes>, Connection<TcpStream, Bytes>) {
    let io = soon(TcpStream::connect(address)).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(usize::MAX);
    builder.handshake(io).await.unwrap()
}

#[tokio::test]
async fn small_messages_wait_for_a_slow_reader_and_harm_no_other() {
    const COUNT: usize = 25_000;
    let app = App::tcp(async |io| {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            for _ in 0..COUNT {
                let message = Bytes::from_static(b"message");
                stream.send_data(message, false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        }
    });
    let pair = Pair::new(app);
    let (sender, connection) = patient(pair.web.outbound).await;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = http::Request::get("http://orders/").body(()).unwrap();
    let mut sender = sender.ready().await.unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let mut body = soon(answer).await.unwrap().into_body();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut length = 0;
    while let Some(data) = soon(body.data()).await {
        let data = data.unwrap();
        length += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(length, COUNT * 7);
}

#[tokio::test]
async fn a_long_conversation_with_pings_is_no_flood() {
    for side in 0..2 {
        let pair = Pair::new(talkative());
        let address = [pair.web.outbound, pair.orders.inbound][side];
        let (sender, mut connection) = patient(address).await;
        let mut pings = connection.ping_pong().unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = http::Request::get("http://orders/").body(()).unwrap();
        let mut sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let mut body = soon(answer).await.unwrap().into_body();
        let (mut length, mut asked) = (0, false);
        while let Some(data) = soon(body.data()).await {
            let data = data.unwrap();
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
            let answered = poll_fn(|cx| Poll::Ready(pings.poll_pong(cx).is_ready())).await;
            if !asked || answered {
                pings.send_ping(h2::Ping::opaque()).unwrap();
                asked = true;
            }
        }
        assert_eq!(length, 3000 * 7);
    }
}
