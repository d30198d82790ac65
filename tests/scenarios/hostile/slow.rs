//! Senders and readers that are slow, still, half-open or gone.

use std::path::Path;
use std::time::Duration;

use http::Response;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use weft_tests::app::{self, App, echo};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Mesh, Pair};
use weft_tests::metrics::Scrape;
use weft_tests::recorder::{Seen, recorder};
use weft_tests::skip::skip;

use super::{STUCK, counted};
use crate::PROXY;

#[tokio::test]
async fn a_slow_header_is_given_up() {
    let pair = Pair::with(
        echo(),
        |web| web.set("WEFT_HEADER_TIMEOUT", "300ms"),
        |orders| orders.set("WEFT_HEADER_TIMEOUT", "300ms"),
    );
    for address in [pair.web.outbound, pair.orders.inbound] {
        for begin in ["G", "GET / HTTP/1.1\r\nhost: or"] {
            let mut client = Http1::connect(address).await;
            client.send(begin).await;
            let mut drip = tokio::time::interval(Duration::from_millis(50));
            let answer = loop {
                tokio::select! {
                    answer = client.try_answer("GET") => break answer.unwrap(),
                    _ = drip.tick() => {}
                }
            };
            assert_eq!(
                (answer.status.as_u16(), answer.reject()),
                (408, "header_timeout"),
                "{begin}"
            );
            assert!(client.rest().await.is_empty(), "{begin}");
        }
    }
    for proxy in [&pair.web, &pair.orders] {
        assert!(counted(proxy.metrics, "header_timeout").await >= 2.0);
    }
    // One that sends a byte now and then is no better.
    let mut client = Http1::connect(pair.web.outbound).await;
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\nx: ").await;
    let mut drip = tokio::time::interval(Duration::from_millis(20));
    while client.try_send("a").await.is_ok() {
        drip.tick().await;
        assert!(
            begun.elapsed() < STUCK,
            "a dripping header is read for ever"
        );
    }
}

#[tokio::test]
async fn half_a_handshake_is_given_up() {
    let pair = Pair::with(
        echo(),
        |web| web,
        |orders| orders.set("WEFT_HANDSHAKE_TIMEOUT", "300ms"),
    );
    let rows: [(&str, &[u8]); 3] = [
        ("the beginning of a record", b"\x16\x03\x01\x02\x00\x01\x00"),
        (
            "a record that is no ClientHello",
            b"\x16\x03\x01\x00\x05hello",
        ),
        ("a record of the largest size", b"\x16\x03\x01\xff\xff\x01"),
    ];
    for (name, bytes) in rows {
        let mut client = Http1::connect(pair.orders.inbound).await;
        client.send(bytes).await;
        let rest = timeout(STUCK, client.rest()).await;
        assert!(rest.is_ok(), "{name}");
    }
    // The connection is closed before it is counted.
    let failed = async || {
        let scrape = Scrape::of(pair.orders.metrics).await;
        scrape.sum("weft_tls_handshakes_total", &["result=\"failed\""])
    };
    eventually(STUCK, failed, |failed| *failed >= 3.0).await;
    assert_eq!(
        Http1::connect(pair.web.outbound)
            .await
            .get("orders", "/")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn garbage_is_closed_and_harms_nobody() {
    let pair = Pair::with(
        echo(),
        |web| web,
        |orders| orders.set("WEFT_MTLS", "strict"),
    );
    let mut steady = Http1::connect(pair.web.outbound).await;
    let mut state = 7_u32;
    let mut garbage = || {
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..200).map(next).collect::<Vec<u8>>()
    };
    for number in 0..100 {
        for address in [pair.web.outbound, pair.orders.inbound] {
            let mut client = Http1::connect(address).await;
            let bytes = garbage();
            let _gone = client.try_send(&bytes).await;
            client.finish_quietly().await;
            assert!(timeout(STUCK, client.rest()).await.is_ok(), "{bytes:?}");
        }
        assert_eq!(steady.get("orders", "/").await.status, 200, "{number}");
    }
    for proxy in [&pair.web, &pair.orders] {
        let scrape = Scrape::of(proxy.metrics).await;
        let refused = scrape.sum("weft_rejects_total", &[])
            + scrape.sum("weft_malformed_total", &[])
            + scrape.sum("weft_tls_handshakes_total", &["result=\"failed\""]);
        // Some begin like a request, and their sender ends before there is anything to refuse.
        assert!(refused >= 95.0, "{refused} of 100");
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let (app, mut record) = recorder();
    let pair = Pair::with(
        app,
        |web| web.set("WEFT_IDLE_TIMEOUT", "300ms"),
        |orders| orders.set("WEFT_IDLE_TIMEOUT", "900ms"),
    );
    let rows = [
        ("length", "content-length: 10\r\n\r\nhello"),
        ("chunks", "transfer-encoding: chunked\r\n\r\na\r\nhello"),
        ("nothing", "content-length: 10\r\n\r\n"),
    ];
    for (address, proxy) in [
        (pair.web.outbound, &pair.web),
        (pair.orders.inbound, &pair.orders),
    ] {
        for (name, rest) in rows {
            let mut client = Http1::connect(address).await;
            client
                .send(format!("POST / HTTP/1.1\r\nhost: orders\r\n{rest}"))
                .await;
            let answer = client.answer().await;
            assert_eq!(
                (answer.status.as_u16(), answer.reject()),
                (408, "body_timeout"),
                "{name}"
            );
            assert!(client.rest().await.is_empty(), "{name}");
        }
        assert_eq!(counted(proxy.metrics, "body_timeout").await, 3.0);
    }
    let mut client = Http1::connect(pair.web.outbound).await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    // One that is slow, and not still, is no offender.
    let head = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 8\r\n\r\n";
    client.send(head).await;
    let mut drip = tokio::time::interval(Duration::from_millis(60));
    for _ in 0..8 {
        drip.tick().await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.status, 200);
    let whole = |seen: &Result<Seen, String>| seen.as_ref().is_ok_and(|seen| !seen.body.is_empty());
    assert_eq!(record.take().iter().filter(|seen| whole(seen)).count(), 1);
}

#[tokio::test]
async fn a_reader_that_stands_still_is_given_up() {
    let app = App::http(async |_| Response::new(app::text(vec![b'x'; 16 << 20])));
    let pair = Pair::with(
        app,
        |web| web.set("WEFT_IDLE_TIMEOUT", "300ms"),
        |orders| orders,
    );
    let mut client = Http1::connect(pair.web.outbound).await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    let idle = async || counted(pair.web.metrics, "idle").await;
    eventually(STUCK, idle, |count| *count >= 1.0).await;
    assert!(client.answer().await.cut.is_some());
}

#[tokio::test]
async fn an_app_that_dies_in_the_middle_of_its_answer_is_told_apart_and_counted() {
    let app = App::tcp(async |mut io| {
        while let Some(head) = app::read_head(&mut io).await {
            let whole = head.starts_with("GET /whole");
            let content = if whole { "1234567890" } else { "12345" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{content}");
            io.write_all(answer.as_bytes()).await.unwrap();
            if !whole {
                return;
            }
        }
    });
    let pair = Pair::new(app);
    let mut steady = Http1::connect(pair.web.outbound).await;
    let two = Http2::connect(pair.web.outbound).await;
    for _ in 0..3 {
        let mut client = Http1::connect(pair.web.outbound).await;
        let answer = client.get("orders", "/half").await;
        assert_eq!(answer.body, "12345");
        assert!(answer.cut.is_some(), "{answer:?}");
        assert_eq!(steady.get("orders", "/whole").await.text(), "1234567890");
        assert!(two.sender().await.current_max_send_streams() > 0);
    }
    for proxy in [&pair.web, &pair.orders] {
        let flags = ["response_flags=\"UC\""];
        let count = async || {
            Scrape::of(proxy.metrics)
                .await
                .sum("istio_requests_total", &flags)
        };
        eventually(STUCK, count, |count| *count == 3.0).await;
    }
}

/// As many as the proxy takes by default.
const IDLE: u64 = 10_000;

#[tokio::test]
async fn ten_thousand_idle_connections_harm_nobody() {
    let idle = room_for(IDLE);
    let (mesh, app) = (Mesh::new(), echo());
    let orders = mesh.proxy("orders").serves(80, app.address).start();
    mesh.services(&[("orders", 80, "-", &[orders.endpoint()])]);
    // A process of its own, for its memory and for its open files.
    let web = mesh
        .proxy("web")
        .set("WEFT_MAX_CONNECTIONS", idle + 10)
        .spawn(Path::new(PROXY));
    let mut steady = Http1::connect(web.outbound).await;
    assert_eq!(steady.get("orders", "/").await.status, 200);
    let before = web.resident();
    let mut held = Vec::new();
    for number in 0..idle {
        let mut client = Http1::connect(web.outbound).await;
        if number % 2 == 0 {
            client.send("GET / HT").await;
        }
        if number % 100 == 0 {
            assert_eq!(steady.get("orders", "/").await.status, 200, "{number}");
        }
        held.push(client);
    }
    let each = web.resident().saturating_sub(before) / idle;
    assert!(each < MOST_OF_EACH, "an idle connection costs {each} bytes");
    // Beyond the limit a connection is closed at once, and the others stay.
    let mut refused = 0;
    let mut more: Vec<Http1> = Vec::new();
    for _ in 0..20 {
        more.push(Http1::connect(web.outbound).await);
    }
    for client in &mut more {
        let closed = timeout(Duration::from_millis(100), client.rest()).await;
        refused += usize::from(closed.is_ok());
    }
    assert_eq!(refused, 11, "9 of 20 are within the limit");
    let mut late = held.remove(0);
    late.send("TP/1.1\r\nhost: orders\r\n\r\n").await;
    assert_eq!(late.answer().await.status, 200);
    assert_eq!(steady.get("orders", "/").await.status, 200);
}

/// Buffers are for connections that carry something. The test's own build is not an optimised one.
const MOST_OF_EACH: u64 = 16 * 1024;

/// Raises the limit of open files, and says how many of `wanted` connections there is room for.
fn room_for(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    // The other tests of this process need some, too.
    let room = limit
        .maximum
        .map_or(wanted, |most| most.saturating_sub(2_000));
    if room < wanted {
        skip(&format!(
            "only {room} of {wanted} idle connections: the limit of open files is too low"
        ));
    }
    room.min(wanted)
}
