//! Connections that stop speaking HTTP: WebSocket and its like, through both proxies.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_tests::app::{App, pattern, read_head};
use weft_tests::client::Http1;
use weft_tests::eventually::soon;
use weft_tests::mesh::Pair;

const SWITCH: &str = "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-key: x\r\n\r\n";

/// Switches, says hello in the same segment, then echoes until the other side ends, and says goodbye.
fn chat() -> App {
    App::tcp(async |mut io| {
        let Some(head) = read_head(&mut io).await else {
            return;
        };
        if head.starts_with("GET /refuse") {
            let _sent = io
                .write_all(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno")
                .await;
            return;
        }
        assert!(
            head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
            "{head}"
        );
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-app: yes\r\n\r\nhello";
        io.write_all(answer).await.unwrap();
        let (mut from, mut to) = io.split();
        let _copied = tokio::io::copy(&mut from, &mut to).await;
        let _sent = to.write_all(b"goodbye").await;
    })
}

#[tokio::test]
async fn a_switched_connection_carries_bytes_both_ways_and_half_closes() {
    let pair = Pair::new(chat());
    for address in [pair.web.outbound, pair.orders.inbound] {
        let mut client = Http1::connect(address).await;
        client.send(SWITCH).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 101);
        assert_eq!(
            (answer.header("connection"), answer.header("upgrade")),
            ("upgrade", "websocket")
        );
        assert_eq!(answer.header("x-app"), "yes");
        assert_eq!(client.exactly(5).await, b"hello");
        let piece = pattern(0, 100_000);
        client.send(&piece).await;
        assert!(client.exactly(piece.len()).await == piece);
        client.finish().await;
        assert_eq!(client.whole().await.unwrap(), b"goodbye");
    }
}

#[tokio::test]
async fn a_refused_switch_is_an_answer_and_the_connection_goes_on() {
    let pair = Pair::new(chat());
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..2 {
        client.send(SWITCH.replace("/chat", "/refuse")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status.as_u16(), answer.text()), (426, "no"));
    }
}

#[tokio::test]
async fn a_switched_connection_that_breaks_is_not_ended_in_an_orderly_way() {
    let app = App::tcp(async |mut io| {
        read_head(&mut io).await.unwrap();
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        io.write_all(answer).await.unwrap();
        io.read_u8().await.unwrap();
        io.set_zero_linger().unwrap();
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    client.send(SWITCH).await;
    assert_eq!(client.answer().await.status, 101);
    client.send("x").await;
    let end = soon(client.whole()).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_switch_that_does_not_fit_what_was_asked_is_not_passed_on() {
    let rows = [
        (
            "another protocol",
            "connection: upgrade\r\nupgrade: h2c\r\n",
        ),
        ("no protocol", "connection: upgrade\r\n"),
        (
            "two protocols",
            "connection: upgrade\r\nupgrade: websocket, h2c\r\n",
        ),
    ];
    for (name, fields) in rows {
        let app = App::tcp(move |mut io| async move {
            let Some(_head) = read_head(&mut io).await else {
                return;
            };
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nsecret");
            let _gone = io.write_all(answer.as_bytes()).await;
        });
        let pair = Pair::new(app);
        let mut client = Http1::connect(pair.web.outbound).await;
        client.send(SWITCH).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (502, "upstream_malformed"),
            "{name}"
        );
        assert!(!answer.text().contains("secret"), "{name}");
    }
}
