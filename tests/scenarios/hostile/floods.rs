//! Frames of HTTP/2 that make work and carry nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_tests::app::{self, App, echo};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::{eventually, soon, within};
use weft_tests::mesh::Pair;

use super::{STUCK, counted};

/// The bytes of one frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// `GET http://orders/flood`, by HPACK's static table.
const FLOOD_HEADERS: &[u8] = b"\x82\x86\x04\x06/flood\x01\x06orders";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
// RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

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
