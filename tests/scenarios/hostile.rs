//! What an attacker sends: it is refused, or reaches the app as exactly one request that all readers read alike.

mod answers;
mod floods;
mod frames;
mod http2;
mod slow;
mod stalled;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use weft_tests::app::scripted;
use weft_tests::ca::id;
use weft_tests::client::{Http1, mesh_tls};
use weft_tests::eventually::eventually;
use weft_tests::mesh::Pair;
use weft_tests::metrics::Scrape;
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
    run(pair.web.outbound, pair.web.metrics, record).await;
}

#[tokio::test]
async fn hostile_requests_from_the_network_are_refused_or_reach_the_app_as_one() {
    let (app, record) = recorder();
    let pair = Pair::new(app);
    run(pair.orders.inbound, pair.orders.metrics, record).await;
}

async fn run(address: SocketAddr, metrics: SocketAddr, mut record: Record) {
    assert!(CORPUS.len() >= 60, "{}", CORPUS.len());
    let (mut wrong, mut reasons) = (Vec::new(), BTreeMap::new());
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
        if !got.is_empty() && got != "closed" {
            *reasons.entry(got.to_owned()).or_insert(0.0) += 1.0;
        }
    }
    for (reason, times) in &reasons {
        let counted = counted(metrics, reason).await;
        if counted < *times {
            wrong.push(format!("{reason}: {times} times, counted {counted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How often a proxy has counted `reason`, among what it refused and what was malformed.
async fn counted(metrics: SocketAddr, reason: &str) -> f64 {
    let scrape = Scrape::of(metrics).await;
    let label = [format!("reason=\"{reason}\"")];
    let label = label.each_ref().map(String::as_str);
    scrape.sum("weft_rejects_total", &label) + scrape.sum("weft_malformed_total", &label)
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
