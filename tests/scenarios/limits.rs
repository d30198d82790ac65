//! What one request and one connection may ask of a service's proxy, set by policy.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use weft_tests::app::{self, App, echo};
use weft_tests::client::{Http1, Http2, grpc_call};
use weft_tests::eventually::{PATIENCE, eventually, soon};
use weft_tests::mesh::Pair;
use weft_tests::metrics::Scrape;

fn pair(policy: &str) -> Pair {
    Pair::with(echo(), |web| web, |orders| orders.policy(policy))
}

#[tokio::test]
async fn a_body_up_to_the_limit_passes_and_one_that_says_more_is_refused() {
    let pair = pair("limits: {body: 1KiB}");
    let connect = async || Http1::connect(pair.web.outbound).await;
    let fits = connect().await.post("orders", "/", &[b'x'; 1024]).await;
    assert_eq!((fits.status, fits.body.len()), (StatusCode::OK, 1024));
    let announced = connect().await.post("orders", "/", &[b'x'; 1025]).await;
    assert_eq!(announced.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(announced.reject(), "body_too_large");
    let mut client = connect().await;
    client.send(format!("{CHUNKED}{}0\r\n\r\n", chunk())).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 1024));
}

#[tokio::test]
async fn a_body_that_streams_beyond_the_limit_reaches_no_app_whole() {
    // Answers only when it has the whole body.
    let app = App::http(async |request| {
        let whole = request.into_body().collect().await.is_ok();
        Response::new(app::text(if whole { "whole" } else { "broken" }))
    });
    let pair = Pair::with(
        app,
        |web| web,
        |orders| orders.policy("limits: {body: 1KiB}"),
    );
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send(format!("{CHUNKED}{0}{0}0\r\n\r\n", chunk()))
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (413, "body_too_large")
    );
    let http2 = Http2::connect(pair.web.outbound).await;
    let answer = http2.post("orders", "/", vec![b'x'; 4096]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (413, "body_too_large")
    );
    let call = grpc_call("orders", "/a/b");
    let call = http2
        .send(call, vec![b'x'; 4096], HeaderMap::new())
        .await
        .unwrap();
    assert_eq!(
        (call.header("grpc-status"), call.reject()),
        ("8", "body_too_large")
    );
    let scrape = Scrape::of(pair.orders.metrics).await;
    let counted = scrape.sum("weft_rejects_total", &[r#"reason="body_too_large""#]);
    assert_eq!(counted, 3.0);
}

#[tokio::test]
async fn headers_are_limited_in_bytes_and_number() {
    let pair = pair("limits: {headers: 2KiB, header-count: 20}");
    let many: String = (0..30).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "x".repeat(3000));
    for (more, status, reason) in [
        (String::new(), 200, ""),
        (many, 431, "too_many_headers"),
        (large, 431, "header_too_large"),
    ] {
        let mut client = Http1::connect(pair.web.outbound).await;
        client
            .send(format!("GET / HTTP/1.1\r\nhost: orders\r\n{more}\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status.as_u16(), answer.reject()), (status, reason));
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let pair = pair("limits: {connections: 2}");
    // Straight to the inbound port, as callers without a mesh come; its policy is permissive.
    let mut first = Http1::connect(pair.orders.inbound).await;
    let mut second = Http1::connect(pair.orders.inbound).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.get("orders", "/").await.status, StatusCode::OK);
    }
    let third = soon(TcpStream::connect(pair.orders.inbound)).await.unwrap();
    assert!(Http1::over(third).rest().await.is_empty());
    let scrape = Scrape::of(pair.orders.metrics).await;
    let counted = scrape.sum("weft_rejects_total", &[r#"reason="connection_limit""#]);
    assert_eq!(counted, 1.0);
    drop(first);
    let passes = async || {
        let mut client = Http1::connect(pair.orders.inbound).await;
        let sent = client
            .try_send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
            .await;
        sent.is_ok() && client.try_answer("GET").await.is_ok()
    };
    eventually(PATIENCE, passes, |passes| *passes).await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_idle_timeout_of_the_policy() {
    let pair = pair("limits: {idle-timeout: 100ms, header-timeout: 100ms}");
    let mut client = Http1::connect(pair.orders.inbound).await;
    assert_eq!(client.get("orders", "/").await.status, StatusCode::OK);
    assert!(client.rest().await.is_empty());
    let mut slow = Http1::connect(pair.orders.inbound).await;
    slow.send("GET / HTTP/1.1\r\nhost:").await;
    assert_eq!(slow.answer().await.reject(), "header_timeout");
}

#[tokio::test]
async fn a_changed_limit_holds_for_the_next_request() {
    let pair = pair("limits: {body: 10}");
    let post = async || {
        let mut client = Http1::connect(pair.web.outbound).await;
        client.post("orders", "/", &[b'x'; 20]).await.status
    };
    assert_eq!(post().await, StatusCode::PAYLOAD_TOO_LARGE);
    pair.orders.set_policy("limits: {body: 20}");
    let limit = Duration::from_secs(4);
    eventually(limit, post, |status| *status == StatusCode::OK).await;
}

fn chunk() -> String {
    format!("400\r\n{}\r\n", "x".repeat(1024))
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n";
