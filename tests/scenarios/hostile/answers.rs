//! Apps that answer as an attacker would: their callers get an error of the proxy's own, and nobody else gets anything of it.

use std::net::SocketAddr;

use http::{Response, StatusCode};
use tokio::io::AsyncWriteExt;
use weft_tests::app::{App, read_head};
use weft_tests::client::{Http1, Http2};
use weft_tests::mesh::Pair;

use super::counted;

/// An app that answers `/flood` with 1xx for as long as somebody takes it.
fn flooding() -> App {
    App::tcp(async |mut io| {
        while let Some(head) = read_head(&mut io).await {
            if !head.starts_with("GET /flood") {
                let _gone = io
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await;
                continue;
            }
            let early = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n".repeat(100);
            while io.write_all(&early).await.is_ok() {}
            return;
        }
    })
}

fn flooding_http2() -> App {
    App::tcp(async |io| {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let flood = request.uri().path() == "/flood";
            for _ in 0..if flood { 200 } else { 0 } {
                let mut early = Response::new(());
                *early.status_mut() = StatusCode::EARLY_HINTS;
                let _gone = respond.send_informational(early);
            }
            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                let _gone = stream.send_data(bytes::Bytes::from_static(b"ok"), true);
            }
        }
    })
}

#[tokio::test]
async fn interim_answers_without_end_are_cut() {
    let pair = Pair::new(flooding());
    for address in [pair.web.outbound, pair.orders.inbound] {
        let mut client = Http1::connect(address).await;
        let answer = client.get("orders", "/flood").await;
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (502, "upstream_malformed"),
            "{answer:?}"
        );
        assert!(answer.interim.len() <= 32);
        assert_eq!(client.get("orders", "/").await.text(), "ok");
    }
    assert!(counted(pair.orders.metrics, "interim").await >= 2.0);

    let pair = Pair::new(flooding_http2());
    for address in [pair.web.outbound, pair.orders.inbound] {
        let client = Http2::connect(address).await;
        let answer = client.get("orders", "/flood").await;
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (502, "upstream_malformed"),
            "{answer:?}"
        );
        assert_eq!(client.get("orders", "/").await.text(), "ok");
    }
    assert!(counted(pair.orders.metrics, "interim").await >= 2.0);
}

/// Answers early and says nothing of the rest of the request.
fn early() -> App {
    App::tcp(async |mut io| {
        while let Some(head) = read_head(&mut io).await {
            let status = if head.starts_with("POST") { 413 } else { 200 };
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
            if io.write_all(answer.as_bytes()).await.is_err() || status == 413 {
                return;
            }
        }
    })
}

#[tokio::test]
async fn what_is_left_of_a_body_after_an_early_answer_is_no_request() {
    let pair = Pair::new(early());
    let smuggled = "GET /evil HTTP/1.1\r\nhost: orders\r\n\r\n";
    for address in [pair.web.outbound, pair.orders.inbound] {
        let mut client = Http1::connect(address).await;
        let length = 100 + smuggled.len();
        let head = format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {length}\r\n\r\n");
        client.send(head).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 413, "{answer:?}");
        // The rest comes late, and looks like a request.
        let rest = [&vec![b'x'; 100][..], smuggled.as_bytes()].concat();
        let _gone = client.try_send(rest).await;
        client.finish_quietly().await;
        let more = client.rest().await;
        assert!(
            !more.windows(4).any(|part| part == b"HTTP"),
            "{}",
            String::from_utf8_lossy(&more)
        );
        assert_eq!(
            Http1::connect(address)
                .await
                .get("orders", "/")
                .await
                .text(),
            "ok"
        );
    }
}

#[tokio::test]
async fn a_pipeline_without_end_is_read_no_faster_than_it_is_answered() {
    let pair = Pair::new(early());
    let address: SocketAddr = pair.web.outbound;
    let mut client = Http1::connect(address).await;
    let request = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
    let (many, mut sent) = (request.repeat(1000), 0);
    // Nothing is read here: sooner or later nothing more is taken there.
    let socket = client.socket();
    let stuck = async {
        loop {
            socket.writable().await.unwrap();
            match socket.try_write(&many.as_bytes()[sent % request.len()..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("closed after {sent} bytes: {error}"),
            }
            assert!(sent < 64 << 20, "{sent} bytes of a pipeline were taken");
        }
    };
    let _until = tokio::time::timeout(super::STUCK, stuck).await;
    let answers = client.some().await;
    assert!(answers.starts_with(b"HTTP/1.1 200"));
    assert_eq!(
        Http1::connect(address)
            .await
            .get("orders", "/")
            .await
            .text(),
        "ok"
    );
}
