//! What an attacker sends: it is refused, or reaches the app as exactly one request that all readers read alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use weft_tests::app::{self, App, echo, scripted};
use weft_tests::ca::id;
use weft_tests::client::{Http1, Http2, mesh_tls};
use weft_tests::eventually::{eventually, soon, within};
use weft_tests::mesh::Pair;
use weft_tests::recorder::{Record, Seen, recorder};

/// A request, and what becomes of it: the reason of the refusal, `closed` without an answer, or nothing when it passes.
type Row = (&'static str, &'static [u8], &'static str);

#[rustfmt::skip]
const CORPUS: &[Row] = &[
    // Lines and their ends.
    ("bare LF everywhere", b"GET / HTTP/1.1\nHost: orders\n\n", "bare_lf"),
    ("bare LF after the request line", b"GET / HTTP/1.1\nHost: orders\r\n\r\n", "bare_lf"),
    ("bare LF between headers", b"GET / HTTP/1.1\r\nHost: orders\nX: y\r\n\r\n", "bare_lf"),
    ("bare LF as the empty line", b"GET / HTTP/1.1\r\nHost: orders\r\n\n", "bare_lf"),
    ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: orders\r\nX: a\rGET /evil HTTP/1.1\r\n\r\n", "header"),
    ("bare CR as a line end", b"GET / HTTP/1.1\r\nHost: orders\rX: y\r\n\r\n", "header"),
    ("folded by a space", b"GET / HTTP/1.1\r\nHost: orders\r\nX: a\r\n b\r\n\r\n", "obs_fold"),
    ("folded by a tab", b"GET / HTTP/1.1\r\nHost: orders\r\nX: a\r\n\tb\r\n\r\n", "obs_fold"),
    ("folded transfer-encoding", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "obs_fold"),
    ("folded first header", b"GET / HTTP/1.1\r\n Host: orders\r\n\r\n", "obs_fold"),
    ("one empty line first", b"\r\nGET / HTTP/1.1\r\nHost: orders\r\n\r\n", ""),
    ("LF first", b"\nGET / HTTP/1.1\r\nHost: orders\r\n\r\n", "bare_lf"),
    // The request line.
    ("two spaces", b"GET  / HTTP/1.1\r\nHost: orders\r\n\r\n", "request_line"),
    ("tabs", b"GET\t/\tHTTP/1.1\r\nHost: orders\r\n\r\n", "request_line"),
    ("form feed", b"GET\x0c/ HTTP/1.1\r\nHost: orders\r\n\r\n", "request_line"),
    ("space in front", b" GET / HTTP/1.1\r\nHost: orders\r\n\r\n", "request_line"),
    ("trailing space", b"GET / HTTP/1.1 \r\nHost: orders\r\n\r\n", "request_line"),
    ("space in the target", b"GET /a b HTTP/1.1\r\nHost: orders\r\n\r\n", "version|request_line"),
    ("lower-case method", b"get / HTTP/1.1\r\nHost: orders\r\n\r\n", "method_case"),
    ("mixed-case method", b"Get / HTTP/1.1\r\nHost: orders\r\n\r\n", "method_case"),
    ("method with a colon", b"GET: / HTTP/1.1\r\nHost: orders\r\n\r\n", "request_line"),
    ("no version", b"GET /\r\nHost: orders\r\n\r\n", "version|request_line"),
    ("HTTP/0.9", b"GET /\r\n\r\n", "version|request_line"),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: orders\r\n\r\n", "version"),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: orders\r\n\r\n", "version"),
    ("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: orders\r\n\r\n", "version|request_line"),
    ("lower-case version", b"GET / http/1.1\r\nHost: orders\r\n\r\n", "version|request_line"),
    ("NUL in the target", b"GET /\0 HTTP/1.1\r\nHost: orders\r\n\r\n", "request_line"),
    ("control byte in the target", b"GET /\x01 HTTP/1.1\r\nHost: orders\r\n\r\n", "request_line"),
    ("fragment", b"GET /a#b HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
    ("backslash", b"GET /a\\..\\b HTTP/1.1\r\nHost: orders\r\n\r\n", "path"),
    ("encoded NUL", b"GET /%00 HTTP/1.1\r\nHost: orders\r\n\r\n", "path"),
    ("broken encoding", b"GET /%zz HTTP/1.1\r\nHost: orders\r\n\r\n", "path"),
    ("no slash", b"GET admin HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
    ("star for GET", b"GET * HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
    ("absolute form with userinfo", b"GET http://orders@evil/ HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
    ("absolute form without a host", b"GET http:///x HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
    ("absolute form of another scheme", b"GET gopher://orders/ HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
    ("another Host than the absolute form", b"GET http://orders/x HTTP/1.1\r\nHost: evil\r\n\r\n", ""),
    // Header names and values.
    ("space before the colon", b"GET / HTTP/1.1\r\nHost: orders\r\nX : y\r\n\r\n", "header"),
    ("space before the colon of Content-Length", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length : 5\r\n\r\nhello", "header"),
    ("tab before the colon", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", "header"),
    ("no colon", b"GET / HTTP/1.1\r\nHost: orders\r\nnonsense\r\n\r\n", "header"),
    ("no name", b"GET / HTTP/1.1\r\nHost: orders\r\n: x\r\n\r\n", "header"),
    ("NUL in a name", b"GET / HTTP/1.1\r\nHost: orders\r\nX\0Y: z\r\n\r\n", "header"),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: orders\r\nX: a\0b\r\n\r\n", "header"),
    ("vertical tab before chunked", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "header"),
    ("bytes above ASCII in a name", b"GET / HTTP/1.1\r\nHost: orders\r\nX\xc3\xa4: y\r\n\r\n", "header"),
    ("spaces around a value", b"GET / HTTP/1.1\r\nHost: \t orders \t\r\nX:y\r\n\r\n", ""),
    // Host.
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", "host_missing"),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: orders\r\nHost: evil\r\n\r\n", "host_several"),
    ("two equal Hosts", b"GET / HTTP/1.1\r\nHost: orders\r\nhost: orders\r\n\r\n", "host_several"),
    ("empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "host_invalid"),
    ("Host with a path", b"GET / HTTP/1.1\r\nHost: orders/evil\r\n\r\n", "host_invalid"),
    ("Host with userinfo", b"GET / HTTP/1.1\r\nHost: evil@orders\r\n\r\n", "host_invalid"),
    ("Host list", b"GET / HTTP/1.1\r\nHost: orders, evil\r\n\r\n", "host_invalid"),
    ("Host with a space", b"GET / HTTP/1.1\r\nHost: orders evil\r\n\r\n", "host_invalid"),
    ("Host with a port of letters", b"GET / HTTP/1.1\r\nHost: orders:evil\r\n\r\n", "host_invalid"),
    // Framing.
    ("TE and CL", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", "te_and_cl"),
    ("CL and TE", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST /evil", "te_and_cl"),
    ("TE twice", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer_encoding"),
    ("TE chunked and identity", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "transfer_encoding"),
    ("TE identity", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: identity\r\n\r\n", "transfer_encoding"),
    ("TE xchunked", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "transfer_encoding"),
    ("TE chunked, chunked", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "transfer_encoding"),
    ("TE in quotes", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "transfer_encoding"),
    ("TE with a comma", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", "transfer_encoding"),
    ("TE empty", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding:\r\n\r\n", "transfer_encoding"),
    ("TE in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "te_in_http10"),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "content_length"),
    ("two equal lengths", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "content_length"),
    ("length list", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5, 5\r\n\r\nhello", "content_length"),
    ("signed length", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: +5\r\n\r\nhello", "content_length"),
    ("negative length", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: -5\r\n\r\nhello", "content_length"),
    ("hex length", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0x5\r\n\r\nhello", "content_length"),
    ("length with a space", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5 5\r\n\r\nhello", "content_length"),
    ("empty length", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length:\r\n\r\n", "content_length"),
    ("length beyond u64", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 18446744073709551616\r\n\r\n", "content_length"),
    ("length with zeros", b"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 005\r\n\r\nhello", ""),
    ("GET with content", b"GET / HTTP/1.1\r\nHost: orders\r\nContent-Length: 34\r\n\r\nGET /evil HTTP/1.1\r\nHost: orders\r\n", ""),
    ("Connection names Content-Length", b"POST / HTTP/1.1\r\nHost: orders\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello", ""),
    ("Connection names Host", b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: host, close\r\n\r\n", ""),
    // Chunks: the header is good, so the content decides.
    ("chunk of too many digits", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk size that overflows", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\na\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk size with 0x", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk size with a sign", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk size with a space", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk ended by LF", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk data longer than its size", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk extension with LF", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n", "chunk|request_body"),
    ("chunk extension", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"b\"\r\na\r\n0\r\n\r\n", ""),
    ("folded trailer", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n z\r\n\r\n", "chunk|request_body"),
    ("trailers that frame", b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nContent-Length: 99\r\nHost: evil\r\nX: y\r\n\r\n", ""),
    // Upgrades.
    ("h2c", b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", ""),
    ("h2c in a list", b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", ""),
    ("upgrade with content", b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello", "upgrade_with_body"),
    ("upgrade without Connection", b"GET / HTTP/1.1\r\nHost: orders\r\nUpgrade: websocket\r\n\r\n", ""),
    ("CONNECT without a port", b"CONNECT orders HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
    ("CONNECT with a path", b"CONNECT orders:80/x HTTP/1.1\r\nHost: orders\r\n\r\n", "target"),
];

#[tokio::test]
async fn hostile_requests_of_an_app_are_refused_or_reach_the_other_as_one() {
    let (app, record) = recorder();
    let pair = Pair::new(app);
    run(pair.web.outbound, record).await;
}

#[tokio::test]
async fn hostile_requests_from_the_network_are_refused_or_reach_the_app_as_one() {
    let (app, record) = recorder();
    let pair = Pair::new(app);
    run(pair.orders.inbound, record).await;
}

async fn run(address: std::net::SocketAddr, mut record: Record) {
    assert!(CORPUS.len() >= 60, "{}", CORPUS.len());
    let mut wrong = Vec::new();
    for (name, bytes, want) in CORPUS {
        let mut client = Http1::connect(address).await;
        client.send(bytes).await;
        let Ok(answer) = timeout(STUCK, client.try_answer("GET")).await else {
            wrong.push(format!("{name}: neither an answer nor an end"));
            continue;
        };
        let got = match &answer {
            Err(_) => "closed",
            Ok(answer) if answer.header("x-app") == "yes" => "",
            Ok(answer) => answer.reject(),
        };
        if !want.split('|').any(|one| one == got) {
            wrong.push(format!("{name}: got {got:?}, want {want:?}"));
        }
        if got.is_empty() && !bytes.windows(5).any(|part| part == b"close") {
            // What is still to be read of the connection would show as the beginning of this one.
            let after = "GET /after HTTP/1.1\r\nhost: orders\r\n\r\n";
            let _gone = client.try_send(after).await;
            let after = timeout(STUCK, client.try_answer("GET")).await;
            if !matches!(&after, Ok(Ok(after)) if after.header("x-app") == "yes") {
                wrong.push(format!("{name}: then {after:?}"));
            }
        } else if timeout(STUCK, client.rest()).await != Ok(Vec::new()) {
            wrong.push(format!("{name}: goes on after the refusal"));
        }
        wrong.extend(strange(name, got, &record.take()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Nothing here takes so long.
const STUCK: Duration = Duration::from_secs(5);

/// What the app must not have seen of a row.
fn strange(name: &str, got: &str, seen: &[Result<Seen, String>]) -> Vec<String> {
    let mut wrong: Vec<String> = Vec::new();
    let mut requests = Vec::new();
    for one in seen {
        match one {
            // A content that turned out to be bad is cut on its way; the app sees no whole request.
            Err(reason) if !got.is_empty() && reason.contains("cut") => {}
            Err(reason) => wrong.push(format!("{name}: the app saw {reason}")),
            Ok(request) => requests.push(request),
        }
    }
    let count = requests
        .iter()
        .filter(|request| request.target != "/after")
        .count();
    if count != usize::from(got.is_empty()) {
        wrong.push(format!(
            "{name}: the app saw {count} requests: {requests:?}"
        ));
    }
    for request in requests {
        let text = format!("{request:?}");
        if request.target.contains("evil")
            || request.headers.contains_key("upgrade")
            || request.headers.contains_key("http2-settings")
            || request.headers["host"] != "orders"
        {
            wrong.push(format!("{name}: the app saw {text}"));
        }
    }
    wrong
}

/// A request whose headers claim to come from a proxy.
const FORGED: &str =
    "GET /forged HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://evil\r\n\r\n";

#[tokio::test]
async fn http_in_what_looks_like_another_protocol_is_still_read() {
    let (app, mut record) = recorder();
    let pair = Pair::with(
        app,
        |web| web,
        |orders| orders.set("WEFT_DETECT_TIMEOUT", "50ms"),
    );
    let inbound = pair.orders.inbound;

    // Silence first: a protocol whose server speaks first looks like this.
    let mut late = Http1::connect(inbound).await;
    let opened = Instant::now();
    eventually(
        STUCK,
        async || opened.elapsed(),
        |silent| *silent > Duration::from_millis(200),
    )
    .await;
    late.send(FORGED).await;
    assert_eq!(late.answer().await.status, 200, "after silence");

    // The mesh's own word for opaque bytes.
    let files = pair.mesh.ca.files("web").identity();
    let config = files.client_config(&id("orders"), &[b"istio"]).unwrap();
    let mut tunnel = Http1::over(mesh_tls(inbound, config).await.unwrap());
    tunnel.send(FORGED).await;
    assert_eq!(tunnel.answer().await.status, 200, "as opaque mesh bytes");

    // A tunnel that an app opened.
    let mut tunnel = Http1::connect(pair.web.outbound).await;
    tunnel
        .send("CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n")
        .await;
    assert_eq!(tunnel.try_answer("CONNECT").await.unwrap().status, 200);
    tunnel.send(FORGED).await;
    assert_eq!(tunnel.answer().await.status, 200, "in a tunnel");

    let want = [
        None,
        Some(id("web").to_string()),
        Some(id("web").to_string()),
    ];
    let seen = record.take();
    assert_eq!(seen.len(), want.len(), "{seen:?}");
    for (request, want) in seen.iter().zip(want) {
        let headers = &request.as_ref().unwrap().headers;
        let got = headers
            .get("x-weft-client-id")
            .map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(got, want, "{headers:?}");
        assert!(!format!("{headers:?}").contains("evil"), "{headers:?}");
    }
}

#[tokio::test]
async fn bytes_sent_before_the_switch_never_reach_the_other_protocol() {
    // The app switches, and would take what follows for its own.
    let app = scripted(|head| {
        if !head.starts_with("GET /chat") {
            return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-evil: served\r\n\r\n".to_vec();
        }
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            .to_vec()
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    let early = "GET /evil HTTP/1.1\r\nhost: orders\r\n\r\n";
    client.send(format!("{SWITCH}{early}")).await;
    let answer = timeout(STUCK, client.some()).await;
    let answer = answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(
        matches!(&answer, Ok(text) if !text.contains("evil") && !text.starts_with("HTTP/1.1 101")),
        "{answer:?}"
    );
}

const SWITCH: &str = "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n";

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
}

#[tokio::test]
async fn two_thousand_idle_connections_harm_nobody() {
    raise_open_files();
    let pair = Pair::with(
        echo(),
        |web| web.set("WEFT_MAX_CONNECTIONS", 2010),
        |orders| orders,
    );
    let mut idle = Vec::new();
    for _ in 0..2000 {
        let mut client = Http1::connect(pair.web.outbound).await;
        if idle.len() % 2 == 0 {
            client.send("GET / HT").await;
        }
        idle.push(client);
    }
    let mut client = Http1::connect(pair.web.outbound).await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    // Beyond the limit a connection is closed at once, and the others stay.
    let mut more: Vec<Http1> = Vec::new();
    for _ in 0..20 {
        more.push(Http1::connect(pair.web.outbound).await);
    }
    let mut refused = 0;
    for client in &mut more {
        refused += usize::from(
            timeout(Duration::from_millis(100), client.rest())
                .await
                .is_ok(),
        );
    }
    assert_eq!(refused, 11, "of 2021 connections, where 2010 may be");
    let mut late = idle.remove(0);
    late.send("TP/1.1\r\nhost: orders\r\n\r\n").await;
    assert_eq!(late.answer().await.status, 200);
}

fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

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
    let open = frame(HEADERS, 4, 1, FLOOD_HEADERS);
    type Next = Box<dyn Fn(u32) -> Vec<u8>>;
    let rows: Vec<(&str, Vec<u8>, Next)> = vec![
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
    ];
    for address in [pair.web.outbound, pair.orders.inbound] {
        let steady = Http2::connect(address).await;
        for (name, begin, next) in &rows {
            requests.store(0, Ordering::Relaxed);
            let sent = flood(address, begin, next, &steady).await;
            assert!(sent < MOST_FRAMES, "{name}: still open after {sent} frames");
            let served = requests.load(Ordering::Relaxed);
            assert!(served < 2_000, "{name}: the app was asked {served} times");
        }
    }
}

const MOST_FRAMES: u32 = 100_000;

/// Sends frames until the connection is closed, and asks the app by another connection meanwhile.
async fn flood(
    address: std::net::SocketAddr,
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
