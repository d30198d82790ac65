//! Opaque bytes through both proxies, here by the way of CONNECT: both directions, half-close, servers that speak first.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use weft_tests::app::{App, pattern, tcp_echo};
use weft_tests::client::Http1;
use weft_tests::mesh::Pair;

async fn tunnel(outbound: SocketAddr) -> Http1 {
    let mut client = Http1::connect(outbound).await;
    client
        .send("CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n")
        .await;
    let answer = client.try_answer("CONNECT").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        !answer.headers.contains_key("content-length")
            && !answer.headers.contains_key("transfer-encoding")
    );
    client
}

#[tokio::test]
async fn bytes_pass_both_ways_and_a_half_close_ends_only_one() {
    let pair = Pair::new(tcp_echo());
    let mut client = tunnel(pair.web.outbound).await;
    // A first byte that no protocol we know begins with.
    client.send([0]).await;
    assert_eq!(client.exactly(1).await, [0]);
    let piece = pattern(0, 200_000);
    for _ in 0..10 {
        client.send(&piece).await;
        assert!(client.exactly(piece.len()).await == piece);
    }
    client.send("last").await;
    client.finish().await;
    assert_eq!(client.whole().await.unwrap(), b"last");
}

#[tokio::test]
async fn the_server_may_end_first() {
    let app = App::tcp(async |mut io| {
        io.write_all(b"all I have to say").await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"\0and still I answer");
    });
    let pair = Pair::new(app);
    let mut client = tunnel(pair.web.outbound).await;
    assert_eq!(client.whole().await.unwrap(), b"all I have to say");
    client.send("\0and still I answer").await;
    client.finish().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let app = App::tcp(async |mut io| {
        io.write_all(b"220 ready\r\n").await.unwrap();
        let mut command = [0; 6];
        io.read_exact(&mut command).await.unwrap();
        io.write_all(b"250 ok\r\n").await.unwrap();
    });
    let pair = Pair::new(app);
    let begun = Instant::now();
    let mut client = tunnel(pair.web.outbound).await;
    assert_eq!(client.exactly(11).await, b"220 ready\r\n");
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    client.send("EHLO\r\n").await;
    assert_eq!(client.exactly(8).await, b"250 ok\r\n");
    // The same without a mesh caller: silence must not be waited out for long.
    let begun = Instant::now();
    let mut client = Http1::connect(pair.orders.inbound).await;
    assert_eq!(client.exactly(11).await, b"220 ready\r\n");
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    client.send("EHLO\r\n").await;
    assert_eq!(client.exactly(8).await, b"250 ok\r\n");
}

#[tokio::test]
async fn a_reset_is_not_mistaken_for_an_end() {
    let app = App::tcp(async |mut io| {
        io.write_all(b"half of").await.unwrap();
        io.read_u8().await.unwrap();
        io.set_zero_linger().unwrap();
    });
    let pair = Pair::new(app);
    for mesh in [true, false] {
        let mut client = if mesh {
            tunnel(pair.web.outbound).await
        } else {
            Http1::connect(pair.orders.inbound).await
        };
        assert_eq!(client.exactly(7).await, b"half of");
        client.send([0]).await;
        let end = client.whole().await;
        assert!(end.is_err(), "through the mesh {mesh}: {end:?}");
    }
}

#[tokio::test]
async fn bytes_that_stand_still_are_cut_and_counted() {
    let pair = Pair::with(
        tcp_echo(),
        |web| web.set("WEFT_IDLE_TIMEOUT", "400ms"),
        |orders| orders,
    );
    let mut client = tunnel(pair.web.outbound).await;
    client.send([0]).await;
    assert_eq!(client.exactly(1).await, [0]);
    // Whatever moves counts, however little.
    let mut drip = tokio::time::interval(Duration::from_millis(80));
    for _ in 0..10 {
        drip.tick().await;
        client.send([1]).await;
        assert_eq!(client.exactly(1).await, [1]);
    }
    let begun = Instant::now();
    let end = client.whole().await;
    assert!(end.is_err(), "{end:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_tunnel_to_nowhere_is_refused_and_says_why() {
    let pair = Pair::new(tcp_echo());
    let rows = [
        ("nowhere.invalid:80", (404, "unknown_service")),
        // The proxy itself.
        ("", (508, "loop")),
    ];
    for (target, want) in rows {
        let target = if target.is_empty() {
            pair.web.outbound.to_string()
        } else {
            target.to_owned()
        };
        let mut client = Http1::connect(pair.web.outbound).await;
        client
            .send(format!(
                "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status.as_u16(), answer.reject()), want, "{target}");
    }
}
