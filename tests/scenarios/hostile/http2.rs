//! Requests of HTTP/2 that an attacker writes by hand: refused, or one request that all readers read alike.
//!
//! What h2spec covers (frames, states, sizes) is not repeated here; this is about what a request *is* once it has been read.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Collected};
use hyper::body::Incoming;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;
use weft_tests::app::{self, App};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::eventually;
use weft_tests::mesh::Pair;

use super::frames::{
    DATA, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, block, frame, frames,
};
use super::{STUCK, counted};

type Field = (&'static str, &'static str);
/// What follows the request's own HEADERS: kind, flags, payload.
type More = (u8, u8, Vec<u8>);
/// A request, what follows it, and what becomes of it: the reasons, any of which will do, or nothing when it passes.
type Row = (&'static str, Vec<Field>, Vec<More>, &'static str);

const GET: [Field; 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "orders"),
    (":path", "/"),
];
const POST: [Field; 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "orders"),
    (":path", "/"),
];

/// The good request with more fields.
fn get(more: &[Field]) -> Vec<Field> {
    [&GET, more].concat()
}

/// The good request with another value of one pseudo-header.
fn with(name: &str, value: &'static str) -> Vec<Field> {
    let replace = |(known, old): Field| (known, if known == name { value } else { old });
    GET.into_iter().map(replace).collect()
}

/// The good request without one of its pseudo-headers.
fn without(name: &str) -> Vec<Field> {
    GET.into_iter()
        .filter(|(known, _)| *known != name)
        .collect()
}

fn post(more: &[Field]) -> Vec<Field> {
    [&POST, more].concat()
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn data(text: &str) -> More {
    (DATA, END_STREAM, text.into())
}

fn trailers(fields: &[Field]) -> More {
    (HEADERS, END_STREAM | END_HEADERS, block(fields))
}

/// Where h2 ends the stream or, for what it cannot even decode, the connection.
const CUT: &str = "reset|goaway";

#[rustfmt::skip]
fn corpus() -> Vec<Row> {
    vec![
        ("a good request", get(&[]), vec![], ""),
        // Pseudo-headers (RFC 9113 section 8.3).
        ("pseudo-header after a header", vec![GET[0], GET[1], GET[2], ("x", "y"), GET[3]], vec![], CUT),
        ("unknown pseudo-header", get(&[(":evil", "x")]), vec![], CUT),
        ("pseudo-header of an answer", get(&[(":status", "200")]), vec![], CUT),
        ("two paths", get(&[(":path", "/evil")]), vec![], CUT),
        ("two methods", get(&[(":method", "POST")]), vec![], CUT),
        ("two authorities", get(&[(":authority", "evil")]), vec![], CUT),
        ("two schemes", get(&[(":scheme", "https")]), vec![], CUT),
        ("no method", without(":method"), vec![], CUT),
        ("no path", without(":path"), vec![], CUT),
        ("no scheme", without(":scheme"), vec![], CUT),
        ("empty path", with(":path", ""), vec![], "reset|goaway|target"),
        ("path without a slash", with(":path", "evil"), vec![], "reset|goaway|target"),
        ("path of another host", with(":path", "http://evil/"), vec![], "reset|goaway|target"),
        ("star for GET", with(":path", "*"), vec![], "reset|goaway|target"),
        ("path with a space", with(":path", "/a b"), vec![], CUT),
        ("path with a line end", with(":path", "/a\r\nx: y"), vec![], CUT),
        ("path with a backslash", with(":path", "/a\\..\\evil"), vec![], "path|reset|goaway"),
        ("path with an encoded NUL", with(":path", "/%00"), vec![], "path"),
        ("path with a broken encoding", with(":path", "/%zz"), vec![], "path"),
        ("lower-case method", with(":method", "get"), vec![], "method_case"),
        ("method that is a request line", with(":method", "GET /evil HTTP/1.1"), vec![], CUT),
        ("method with a line end", with(":method", "GET\r\nx: y"), vec![], CUT),
        ("empty method", with(":method", ""), vec![], CUT),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "orders:80")], vec![], "target"),
        ("CONNECT with a path", with(":method", "CONNECT"), vec![], CUT),
        ("CONNECT of a protocol that was not offered", vec![(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]], vec![], CUT),
        // Host and authority.
        ("no authority and no Host", without(":authority"), vec![], "host_missing"),
        ("Host alone", [without(":authority"), vec![("host", "orders")]].concat(), vec![], ""),
        ("Host equal to the authority", get(&[("host", "orders")]), vec![], ""),
        ("another Host than the authority", get(&[("host", "evil")]), vec![], "host_several"),
        ("two Hosts", [without(":authority"), vec![("host", "orders"), ("host", "evil")]].concat(), vec![], "host_several"),
        ("two equal Hosts", get(&[("host", "orders"), ("host", "orders")]), vec![], "host_several"),
        ("authority with userinfo", with(":authority", "orders@evil"), vec![], "host_invalid"),
        ("authority with a path", with(":authority", "orders/evil"), vec![], "host_invalid|reset|goaway"),
        ("authority list", with(":authority", "orders,evil"), vec![], "host_invalid|reset|goaway"),
        ("empty authority", with(":authority", ""), vec![], "host_missing|host_invalid|reset|goaway"),
        // Fields (sections 8.2 and 8.2.2).
        ("upper-case name", get(&[("X-Upper", "y")]), vec![], CUT),
        ("empty name", get(&[("", "y")]), vec![], CUT),
        ("name with a space", get(&[("a b", "y")]), vec![], CUT),
        ("name with a colon", get(&[("a:b", "y")]), vec![], CUT),
        ("name with a line end", get(&[("a\r\nb", "y")]), vec![], CUT),
        ("value with LF", get(&[("x", "a\nevil: b")]), vec![], CUT),
        ("value with CR", get(&[("x", "a\revil: b")]), vec![], CUT),
        ("value with NUL", get(&[("x", "a\0b")]), vec![], CUT),
        ("connection", get(&[("connection", "close")]), vec![], CUT),
        ("transfer-encoding", post(&[("transfer-encoding", "chunked")]), vec![data("0\r\n\r\n")], CUT),
        ("upgrade", get(&[("upgrade", "websocket")]), vec![], CUT),
        ("keep-alive", get(&[("keep-alive", "timeout=1")]), vec![], CUT),
        ("proxy-connection", get(&[("proxy-connection", "close")]), vec![], CUT),
        ("te other than trailers", get(&[("te", "gzip")]), vec![], CUT),
        ("te: trailers", get(&[("te", "trailers")]), vec![], ""),
        // Content (section 8.1.1).
        ("length that is met", post(&[("content-length", "5")]), vec![data("hello")], ""),
        ("length of what does not come", post(&[("content-length", "5")]), vec![data("hel")], CUT),
        ("length of less than what comes", post(&[("content-length", "5")]), vec![data("hello, you")], CUT),
        ("length without content", get(&[("content-length", "5")]), vec![], CUT),
        ("two lengths", post(&[("content-length", "5"), ("content-length", "6")]), vec![data("hello")], "reset|goaway|content_length"),
        ("length with a sign", post(&[("content-length", "+5")]), vec![data("hello")], "reset|goaway|content_length"),
        ("length of letters", post(&[("content-length", "five")]), vec![data("hello")], "reset|goaway|content_length"),
        ("length list", post(&[("content-length", "5, 5")]), vec![data("hello")], "reset|goaway|content_length"),
        // Trailers.
        ("trailers", post(&[]), vec![(DATA, 0, b"hello".to_vec()), trailers(&[("x-end", "yes")])], ""),
        // The library drops it before anybody sees it: what passes has one reading.
        ("trailers with a pseudo-header", post(&[]), vec![(DATA, 0, b"hello".to_vec()), trailers(&[(":path", "/evil")])], ""),
        ("trailers that do not end the stream", post(&[]), vec![(DATA, 0, b"hello".to_vec()), (HEADERS, END_HEADERS, block(&[("x", "y")]))], CUT),
        ("upper-case trailer", post(&[]), vec![(DATA, 0, b"hello".to_vec()), trailers(&[("X-End", "y")])], CUT),
    ]
}

/// An app that tells what it has read whole.
fn teller() -> (App, Receiver<(http::request::Parts, Collected<Bytes>)>) {
    let (tell, told) = channel(1000);
    let app = App::http(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let _ = tell.try_send((parts, body));
            }
            let mut response = Response::new(app::text("ok"));
            response
                .headers_mut()
                .insert("x-app", "yes".parse().unwrap());
            response
        }
    });
    (app, told)
}

#[tokio::test]
async fn hostile_http2_requests_are_refused_or_reach_the_app_as_one() {
    let (app, mut told) = teller();
    let pair = Pair::new(app);
    let mut wrong = Vec::new();
    for (address, proxy) in [
        (pair.web.outbound, &pair.web),
        (pair.orders.inbound, &pair.orders),
    ] {
        let steady = Http2::connect(address).await;
        for (name, fields, more, want) in corpus() {
            let before = all_counted(proxy.metrics, want).await;
            let got = send(address, &fields, &more).await;
            let labels: Vec<&str> = want.split('|').collect();
            let right = match got.as_str() {
                "passes" => want.is_empty(),
                // Which of ours it was is in the metrics: the answer is packed.
                "refused" => all_counted(proxy.metrics, want).await > before,
                other => labels.contains(&other),
            };
            if !right {
                wrong.push(format!("{address} {name}: got {got}, want {want:?}"));
            }
            assert_eq!(steady.get("orders", "/steady").await.status, 200, "{name}");
            let seen: Vec<_> = std::iter::from_fn(|| told.try_recv().ok())
                .filter(|(parts, _)| parts.uri.path() != "/steady")
                .collect();
            if seen.len() != usize::from(want.is_empty()) || format!("{seen:?}").contains("evil") {
                wrong.push(format!("{address} {name}: the app saw {seen:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How often the proxy has counted any of `labels`.
async fn all_counted(metrics: SocketAddr, labels: &str) -> f64 {
    let mut sum = 0.0;
    for label in labels.split('|').filter(|label| !label.is_empty()) {
        sum += counted(metrics, label).await;
    }
    sum
}

/// Sends a request on a connection of its own, and says what comes back.
async fn send(address: SocketAddr, fields: &[Field], more: &[More]) -> String {
    let flags = END_HEADERS | u8::from(more.is_empty());
    let mut bytes = [PREFACE, &frame(HEADERS, flags, 1, &block(fields))].concat();
    for (kind, flags, payload) in more {
        bytes.extend(frame(*kind, *flags, 1, payload));
    }
    let mut client = Http1::connect(address).await;
    client.send(bytes).await;
    let mut seen = Vec::new();
    let outcome = async {
        loop {
            let some = client.some().await;
            if some.is_empty() {
                return "goaway".to_owned();
            }
            seen.extend(some);
            if let Some(outcome) = outcome(&frames(&seen)) {
                return outcome;
            }
        }
    };
    timeout(STUCK, outcome)
        .await
        .unwrap_or("nothing".to_owned())
}

fn outcome(frames: &[Frame]) -> Option<String> {
    let on_stream = |kind| frames.iter().any(|one| one.kind == kind && one.stream == 1);
    // The page of the app is `ok`; an answer of ours is longer.
    let page = frames
        .iter()
        .any(|one| one.kind == DATA && one.payload == b"ok");
    let own = frames
        .iter()
        .any(|one| one.kind == DATA && one.payload.len() > 2);
    match () {
        () if frames.iter().any(|one| one.kind == GOAWAY) => Some("goaway".to_owned()),
        () if page => Some("passes".to_owned()),
        () if own => Some("refused".to_owned()),
        () if on_stream(RST_STREAM) => Some("reset".to_owned()),
        () => None,
    }
}

#[tokio::test]
async fn a_flood_is_answered_with_enhance_your_calm() {
    let (app, _told) = teller();
    let pair = Pair::new(app);
    for (address, proxy) in [
        (pair.web.outbound, &pair.web),
        (pair.orders.inbound, &pair.orders),
    ] {
        let ping = frame(PING, 0, 0, b"12345678");
        let mut client = Http1::connect(address).await;
        client.send([PREFACE, &ping.repeat(1200)].concat()).await;
        let seen = timeout(STUCK, client.whole()).await.unwrap().unwrap();
        let frames = frames(&seen);
        let last = frames.last().unwrap();
        // RFC 9113 section 7.
        let calm = [0, 0, 0, 0xb];
        assert_eq!(
            (last.kind, &last.payload[4..8]),
            (GOAWAY, &calm[..]),
            "{last:?}"
        );
        // It is counted when its last word has been said.
        let flood = async || counted(proxy.metrics, "flood").await;
        eventually(STUCK, flood, |count| *count == 1.0).await;
    }
}
