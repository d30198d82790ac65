//! HTTP as it must look on both sides of two proxies: framing, interim answers, limits, large and slow bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_tests::app::{self, App, echo, pattern, read_head, scripted};
use weft_tests::client::{Answer, Http1, Http2, receive, send_all};
use weft_tests::eventually::{eventually, soon, within};
use weft_tests::mesh::Pair;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

#[tokio::test]
async fn an_answer_without_content_has_none_and_the_connection_goes_on() {
    let app = scripted(|head| {
        let status = head.split(['/', ' ']).nth(2).unwrap();
        let fields = match status {
            "204" => "",
            "205" => "content-length: 0\r\n",
            "304" => "content-length: 5\r\netag: \"x\"\r\n",
            _ => "content-length: 5\r\nx-app: yes\r\n",
        };
        format!("HTTP/1.1 {status} Whatever\r\n{fields}\r\n").into_bytes()
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    for (method, status, length) in [
        ("HEAD", 200, "5"),
        ("HEAD", 404, "5"),
        ("GET", 204, ""),
        ("GET", 304, "5"),
        ("GET", 205, "0"),
        ("HEAD", 200, "5"),
    ] {
        client
            .send(format!(
                "{method} /{status} HTTP/1.1\r\nhost: orders\r\n\r\n"
            ))
            .await;
        let answer = client.try_answer(method).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{method} {status}");
        assert_eq!(
            answer.header("content-length"),
            length,
            "{method} {status}: {answer:?}"
        );
        assert_eq!(
            answer.header("transfer-encoding"),
            "",
            "{method} {status}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_without_content_has_none_on_http2_either() {
    let app = App::http(async |request| {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::new(app::text(if status == 200 { "hello" } else { "" }));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    });
    let pair = Pair::new(app);
    let client = Http2::connect(pair.web.outbound).await;
    for (method, status, length) in [
        (Method::HEAD, 200, "5"),
        (Method::GET, 204, ""),
        (Method::GET, 304, ""),
        (Method::GET, 200, "5"),
    ] {
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("http://orders/{status}"));
        let answer = client
            .send(request.body(()).unwrap(), "", HeaderMap::new())
            .await
            .unwrap();
        assert_eq!(answer.status.as_u16(), status, "{method} {status}");
        assert_eq!(
            answer.header("content-length"),
            length,
            "{method} {status}: {answer:?}"
        );
        assert_eq!(answer.cut, None, "{method} {status}");
    }
}

#[tokio::test]
async fn content_of_any_framing_comes_back_whole() {
    let pair = Pair::new(echo());
    let mut client = Http1::connect(pair.web.outbound).await;
    let rows = [
        ("no content", "", "", "", ""),
        ("length", "content-length: 5\r\n", "hello", "hello", "5"),
        ("length zero", "content-length: 0\r\n", "", "", "0"),
        (
            "chunks",
            "transfer-encoding: chunked\r\n",
            "2\r\nhe\r\n003;x=y\r\nllo\r\n0\r\n\r\n",
            "hello",
            "",
        ),
        (
            "chunks in capitals",
            "Transfer-Encoding: Chunked\r\n",
            "A\r\n0123456789\r\n0\r\n\r\n",
            "0123456789",
            "",
        ),
        (
            "no chunk at all",
            "transfer-encoding: chunked\r\n",
            "0\r\n\r\n",
            "",
            "",
        ),
    ];
    for (name, framing, body, want, length) in rows {
        client
            .send(format!(
                "POST / HTTP/1.1\r\nhost: orders\r\n{framing}\r\n{body}"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, want),
            "{name}: {answer:?}"
        );
        assert_eq!(answer.header("seen-content-length"), length, "{name}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    // hyper sends trailers of HTTP/1 only under conditions, so the app is written out.
    let app = App::tcp(async |mut io| {
        while let Some(head) = read_head(&mut io).await {
            assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
            let mut body = String::new();
            while !body.ends_with("x-end: of request\r\n\r\n") {
                body.push(char::from(io.read_u8().await.unwrap()));
            }
            assert_eq!(body, "5\r\nhello\r\n0\r\nx-end: of request\r\n\r\n");
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n\
                          5\r\nworld\r\n0\r\nset-cookie: a=b\r\nx-weft-draining: 1\r\nx-end: of answer\r\n\r\n";
            io.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..2 {
        client
            .send(
                "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\r\n\
                 5\r\nhello\r\n0\r\nauthorization: me\r\nx-weft-client-id: spiffe://evil\r\nX_Weft_Client_Id: evil\r\n\
                 content-length: 9\r\nx-end: of request\r\n\r\n",
            )
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.text(), "world");
        assert_eq!(answer.trailers["x-end"], "of answer");
        assert_eq!(answer.trailers.len(), 1, "{:?}", answer.trailers);
    }

    let pair = Pair::new(echo());
    let client = Http2::connect(pair.web.outbound).await;
    let trailers = HeaderMap::from_iter([(
        "x-end".parse().unwrap(),
        HeaderValue::from_static("of request"),
    )]);
    let mut sent = trailers.clone();
    for name in ["authorization", "x-forwarded-client-cert", "host"] {
        sent.insert(name, HeaderValue::from_static("evil"));
    }
    let request = Request::post("http://orders/").body(()).unwrap();
    let answer = client.send(request, "hello", sent).await.unwrap();
    assert_eq!((answer.text(), &answer.trailers), ("hello", &trailers));
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_when_the_app_wants_the_content() {
    let app = App::http(async |request| {
        assert_eq!(request.headers()["expect"], "100-continue");
        let whole = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(app::text(whole))
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..2 {
        client
            .send(
                "POST / HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
            )
            .await;
        let interim = client.exactly("HTTP/1.1 100 Continue\r\n\r\n".len()).await;
        assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello").await;
        assert_eq!(client.answer().await.text(), "hello");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_learns_early_that_the_app_refuses() {
    let app = scripted(|_| {
        b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send("POST / HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\ncontent-length: 999999999\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 413);
    assert_eq!(
        answer.header("connection"),
        "close",
        "the content will not be read"
    );
}

#[tokio::test]
async fn interim_answers_are_passed_on() {
    let app = scripted(|_| {
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n\
          HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            .to_vec()
    });
    let pair = Pair::new(app);
    check_interim(
        &Http1::connect(pair.web.outbound)
            .await
            .get("orders", "/")
            .await,
    );

    let app = App::tcp(async |io| {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            for (status, link) in [(102, None), (103, Some("</a.css>"))] {
                let mut early = Response::new(());
                *early.status_mut() = StatusCode::from_u16(status).unwrap();
                if let Some(link) = link {
                    early
                        .headers_mut()
                        .insert("link", HeaderValue::from_static(link));
                }
                respond.send_informational(early).unwrap();
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
        }
    });
    let pair = Pair::new(app);
    check_interim(
        &Http2::connect(pair.web.outbound)
            .await
            .get("orders", "/")
            .await,
    );
}

fn check_interim(answer: &Answer) {
    let seen: Vec<_> = answer
        .interim
        .iter()
        .map(|(status, headers)| (status.as_u16(), headers.len()))
        .collect();
    assert_eq!(seen, [(102, 0), (103, 1)], "{answer:?}");
    assert_eq!(answer.interim[1].1["link"], "</a.css>");
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
}

#[tokio::test]
async fn an_old_client_is_answered_as_it_asked() {
    // `close-me` has no length, so its end is the end of the connection for such a client.
    let app = scripted(|head| match head.contains("/long") {
        true => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec()
        }
        false => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
    });
    let pair = Pair::new(app);
    let rows = [
        ("closes", "/", "", "close", true),
        (
            "asks to keep",
            "/",
            "connection: keep-alive\r\n",
            "keep-alive",
            false,
        ),
        (
            "cannot read chunks",
            "/long",
            "connection: keep-alive\r\n",
            "close",
            true,
        ),
    ];
    for (name, path, fields, connection, closes) in rows {
        let mut client = Http1::connect(pair.web.outbound).await;
        let request = format!("GET {path} HTTP/1.0\r\nhost: orders\r\n{fields}\r\n");
        client.send(&request).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, "ok"),
            "{name}"
        );
        assert_eq!(answer.header("connection"), connection, "{name}");
        assert_eq!(answer.header("transfer-encoding"), "", "{name}");
        if closes {
            assert!(client.rest().await.is_empty(), "{name}");
        } else {
            client.send(&request).await;
            assert_eq!(client.answer().await.text(), "ok", "{name}, again");
        }
    }
}

#[tokio::test]
async fn an_old_client_gets_no_interim_answer() {
    let app = scripted(|_| {
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n\
          HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
            .to_vec()
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send("POST / HTTP/1.0\r\nhost: orders\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.interim.len()), ("ok", 0));
}

#[tokio::test]
async fn an_app_that_ends_its_answer_by_closing_is_understood() {
    let app =
        scripted(|_| b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end".to_vec());
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..2 {
        let answer = client.get("orders", "/").await;
        assert_eq!(answer.text(), "to the end");
        assert_eq!((answer.cut, answer.status.as_u16()), (None, 200));
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let pair = Pair::new(echo());
    let mut client = Http1::connect(pair.web.outbound).await;
    let request =
        |n| format!("POST /{n} HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\n{n:02}");
    client.send((0..50).map(request).collect::<String>()).await;
    for n in 0..50 {
        let answer = client.answer().await;
        assert_eq!(
            (answer.header("target"), answer.text()),
            (format!("/{n}").as_str(), format!("{n:02}").as_str())
        );
    }
}

#[tokio::test]
async fn headers_have_limits() {
    let pair = Pair::new(echo());
    let big = |size: usize| format!("x-big: {}\r\n", "a".repeat(size));
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("x-{n}: 1\r\n"))
            .collect::<String>()
    };
    let rows = [
        ("60 KiB", "/".to_owned(), big(60 * 1024), 200, ""),
        (
            "65 KiB",
            "/".to_owned(),
            big(65 * 1024),
            431,
            "header_too_large",
        ),
        ("90 lines", "/".to_owned(), many(90), 200, ""),
        (
            "101 lines",
            "/".to_owned(),
            many(101),
            431,
            "too_many_headers",
        ),
        (
            "long target",
            format!("/{}", "a".repeat(8 * 1024)),
            String::new(),
            200,
            "",
        ),
        (
            "longer target",
            format!("/{}", "a".repeat(66 * 1024)),
            String::new(),
            414,
            "target_too_long",
        ),
    ];
    for (name, path, fields, status, reject) in rows {
        let mut client = Http1::connect(pair.web.outbound).await;
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: orders\r\n{fields}\r\n"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (status, reject),
            "{name}"
        );
        if status != 200 {
            assert_eq!(answer.header("connection"), "close", "{name}");
            assert!(client.rest().await.is_empty(), "{name}");
        }
    }
    let client = Http2::connect(pair.web.outbound).await;
    for (size, status) in [(60 * 1024, 200), (70 * 1024, 431), (1024, 200)] {
        let request = Request::get("http://orders/").header("x-big", "a".repeat(size));
        let answer = client
            .send(request.body(()).unwrap(), "", HeaderMap::new())
            .await
            .unwrap();
        assert_eq!(answer.status.as_u16(), status, "HTTP/2, {size} bytes");
    }
}

#[tokio::test]
async fn what_belongs_to_one_connection_stays_there() {
    let app = scripted(|head| {
        let mut answer = String::from(
            "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n\
             proxy-connection: keep-alive\r\nx-end: 1\r\ncontent-length: ",
        );
        answer.push_str(&format!("{}\r\n\r\n{head}", head.len()));
        answer.into_bytes()
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: orders\r\nconnection: x-hop, keep-alive\r\nkeep-alive: 300\r\nx-hop: 1\r\n\
             proxy-connection: keep-alive\r\nte: trailers, deflate\r\nx-end: 1\r\nauthorization: me\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    let seen = answer.text();
    for gone in [
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "deflate",
        "\r\nconnection:",
    ] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
        assert!(
            !answer
                .headers
                .contains_key(gone.trim_matches(['\r', '\n', ':'])),
            "{gone} in {:?}",
            answer.headers
        );
    }
    for kept in [
        "x-end: 1",
        "te: trailers",
        "authorization: me",
        "host: orders",
    ] {
        assert!(seen.contains(kept), "{kept} in {seen}");
    }
    assert_eq!(answer.header("x-end"), "1");
}

#[tokio::test]
async fn a_request_target_reaches_the_app_in_one_spelling() {
    let pair = Pair::new(echo());
    let mut client = Http1::connect(pair.web.outbound).await;
    let rows = [
        ("/a/../b/./c?d=../e", "orders", "/b/c?d=../e", "orders"),
        ("/%61%2f%7e", "orders", "/a%2F~", "orders"),
        ("/%2e%2e/admin", "orders", "/admin", "orders"),
        ("//a//b", "orders", "//a//b", "orders"),
        ("http://orders/x/../y", "elsewhere", "/y", "orders"),
        ("http://orders:80", "orders:80", "/", "orders:80"),
        ("HTTP://orders/z", "orders", "/z", "orders"),
    ];
    for (target, host, want, want_host) in rows {
        let answer = client.get(host, target).await;
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(
            (answer.header("target"), answer.header("seen-host")),
            (want, want_host),
            "{target}"
        );
    }
    client
        .send("OPTIONS * HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.header("target"), "*");
    let two = Http2::connect(pair.web.outbound).await;
    let answer = two.get("orders", "/a/%2e%2e/b").await;
    assert_eq!(answer.header("target"), "http://orders/b");
}

/// Bytes each way.
const LARGE: u64 = 64 * 1024 * 1024;
const PIECE: usize = 256 * 1024;

/// Whether `data` is what must come at `position`.
fn check(position: u64, data: &[u8]) -> u64 {
    for (number, piece) in data.chunks(PIECE).enumerate() {
        let at = position + (number * PIECE) as u64;
        assert!(piece == pattern(at, piece.len()), "other bytes at {at}");
    }
    position + data.len() as u64
}

#[tokio::test]
async fn a_large_body_passes_both_ways_at_once_byte_for_byte() {
    let pair = Pair::new(echo());
    let io = soon(TcpStream::connect(pair.web.outbound)).await.unwrap();
    let (from, mut to) = io.into_split();
    let send = async move {
        let head = format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {LARGE}\r\n\r\n");
        to.write_all(head.as_bytes()).await.unwrap();
        for position in (0..LARGE).step_by(PIECE) {
            to.write_all(&pattern(position, PIECE)).await.unwrap();
        }
        to
    };
    let receive = async move {
        let mut client = Http1::over(tokio::io::join(from, tokio::io::sink()));
        let (status, headers) = client.head_only().await;
        assert_eq!(status, 200);
        assert_eq!(headers["content-length"], LARGE.to_string());
        let mut seen = 0;
        while seen < LARGE {
            seen = check(seen, &client.some().await);
        }
        seen
    };
    let (_, seen) = within(Duration::from_secs(60), async {
        tokio::join!(send, receive)
    })
    .await;
    assert_eq!(seen, LARGE);
}

#[tokio::test]
async fn a_large_http2_body_passes_both_ways_at_once_byte_for_byte() {
    let pair = Pair::new(echo());
    let client = Http2::connect(pair.web.outbound).await;
    let request = Request::post("http://orders/").body(()).unwrap();
    let (response, mut stream) = client.sender().await.send_request(request, false).unwrap();
    let send = async {
        for position in (0..LARGE).step_by(PIECE) {
            let end = position + PIECE as u64 == LARGE;
            send_all(&mut stream, pattern(position, PIECE), end)
                .await
                .unwrap();
        }
    };
    let receive = async {
        let mut body = response.await.unwrap().into_body();
        let mut seen = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            seen = check(seen, &data);
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        seen
    };
    let ((), seen) = within(Duration::from_secs(60), async {
        tokio::join!(send, receive)
    })
    .await;
    assert_eq!(seen, LARGE);
}

/// Waits until `count` has not grown for a while, and returns it.
async fn settled(count: &AtomicU64) -> u64 {
    let mut history = Vec::new();
    let look = async || {
        history.push(count.load(Ordering::Relaxed));
        history.iter().rev().take(60).copied().collect::<Vec<_>>()
    };
    let calm = |seen: &Vec<u64>| {
        seen.len() == 60 && seen[0] > 0 && seen.iter().all(|value| *value == seen[0])
    };
    eventually(Duration::from_secs(20), look, calm).await[0]
}

/// What all buffers between the app and a client that does not read may hold together: on each of three hops the kernel holds up
/// to 4 MiB to send and 32 MiB received (its `tcp_wmem` and `tcp_rmem`), and we next to nothing. A buffer of ours without a
/// bound would hold the gigabyte that is sent.
const HELD: u64 = 3 * (4 + 32) * 1024 * 1024;

#[tokio::test]
async fn a_reader_that_stops_stops_the_app() {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let app = App::tcp(move |mut io| {
        let count = Arc::clone(&count);
        async move {
            let Some(_head) = read_head(&mut io).await else {
                return;
            };
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
            io.write_all(head).await.unwrap();
            while io.write_all(&pattern(0, PIECE)).await.is_ok() {
                count.fetch_add(PIECE as u64, Ordering::Relaxed);
            }
        }
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    SockRef::from(client.socket())
        .set_recv_buffer_size(64 * 1024)
        .unwrap();
    client.send(GET).await;
    let held = settled(&written).await;
    assert!(
        held < HELD,
        "{held} bytes are held for a client that does not read"
    );
    // The other direction: a client that sends more than the app reads.
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000000000\r\n\r\n")
        .await;
    let sent = AtomicU64::new(0);
    let send = async {
        while client.try_send(pattern(0, PIECE)).await.is_ok() {
            sent.fetch_add(PIECE as u64, Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = send => panic!("the connection has ended"),
        held = settled(&sent) => assert!(held < HELD, "{held} bytes are held for an app that does not read"),
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_its_http2_stream_and_no_other() {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let app = App::tcp(move |io| {
        let count = Arc::clone(&count);
        async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            let mut streams = tokio::task::JoinSet::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                if request.uri().path() == "/short" {
                    stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
                    continue;
                }
                let count = Arc::clone(&count);
                streams.spawn_local(async move {
                    while send_all(&mut stream, pattern(0, PIECE), false)
                        .await
                        .is_ok()
                    {
                        count.fetch_add(PIECE as u64, Ordering::Relaxed);
                    }
                });
            }
        }
    });
    let pair = Pair::new(app);
    // A small window of the stream and a large one of the connection, so that what is held is held by the proxies.
    let io = soon(TcpStream::connect(pair.web.outbound)).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let client = Http2::over(io, &builder).await;
    let request = Request::get("http://orders/long").body(()).unwrap();
    let (response, _stream) = client.sender().await.send_request(request, true).unwrap();
    let unread = soon(response).await.unwrap();
    let held = settled(&written).await;
    assert!(
        held < HELD,
        "{held} bytes are held for a stream that is not read"
    );
    assert_eq!(client.get("orders", "/short").await.text(), "ok");
    drop(unread);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let app = scripted(|head| {
        let framing = if head.contains("/chunks") {
            "transfer-encoding: chunked"
        } else {
            "content-length: 50"
        };
        let body = if head.contains("/chunks") {
            "5\r\nhello\r\n"
        } else {
            "hello"
        };
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{framing}\r\n\r\n{body}").into_bytes()
    });
    let pair = Pair::new(app);
    for path in ["/chunks", "/length"] {
        let mut client = Http1::connect(pair.web.outbound).await;
        let answer = client.get("orders", path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, "hello"),
            "{path}"
        );
        assert!(answer.cut.is_some(), "{path}: {answer:?}");
    }
    // An old client knows the end of an answer only by that of the connection.
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send("GET /chunks HTTP/1.0\r\nhost: orders\r\n\r\n")
        .await;
    assert_eq!(client.head_only().await.0, 200);
    let answer = client.whole().await;
    assert!(answer.is_err(), "{answer:?}");

    // The caller says when it has seen the beginning: h2 forgets what is still queued when it resets.
    let app = App::tcp(async |io| {
        let mut connection = h2::server::handshake(io).await.unwrap();
        let mut breaks = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                Some(request) = connection.accept() => {
                    let (request, mut respond) = request.unwrap();
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
                    breaks.spawn_local(async move {
                        let path = request.uri().path().to_owned();
                        request.into_body().data().await.unwrap().unwrap();
                        stream.send_reset(h2::Reason::INTERNAL_ERROR);
                        path
                    });
                }
                Some(path) = breaks.join_next() => {
                    if path.unwrap() == "/gone" {
                        return;
                    }
                }
            }
        }
    });
    let pair = Pair::new(app);
    for path in ["/reset", "/gone"] {
        let client = Http2::connect(pair.web.outbound).await;
        let request = Request::post(format!("http://orders{path}"))
            .body(())
            .unwrap();
        let (response, mut stream) = client.sender().await.send_request(request, false).unwrap();
        let mut body = soon(response).await.unwrap().into_body();
        assert_eq!(soon(body.data()).await.unwrap().unwrap(), "hello", "{path}");
        stream.send_data(Bytes::from_static(b"go"), false).unwrap();
        let end = soon(body.data()).await;
        assert!(matches!(end, Some(Err(_))), "{path}: {end:?}");
    }
}

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_not_passed_on() {
    let rows: &[(&str, &str)] = &[
        (
            "both framings",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        ),
        ("bare LF", "HTTP/1.1 200 OK\ncontent-length: 0\n\n"),
        (
            "a folded line",
            "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "another coding",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        ("no status", "HTTP/1.1 OK\r\n\r\n"),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        (
            "a switch that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nGET",
        ),
    ];
    for (name, bytes) in rows {
        let app = scripted(|_| [bytes.as_bytes(), b"connection: close"].concat());
        let pair = Pair::new(app);
        let mut client = Http1::connect(pair.web.outbound).await;
        let answer = client.post("orders", "/", b"x").await;
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (502, "upstream_malformed"),
            "{name}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_second_answer_after_the_first_is_never_the_answer_to_another_request() {
    let app = scripted(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil".to_vec()
    });
    let pair = Pair::new(app);
    for _ in 0..20 {
        let answer = Http1::connect(pair.web.outbound)
            .await
            .get("orders", "/")
            .await;
        assert_eq!(answer.text(), "ok");
    }
}

#[tokio::test]
async fn a_body_longer_than_what_is_kept_for_retries_passes() {
    let pair = Pair::new(echo());
    let body = pattern(0, 300 * 1024);
    let one = Http1::connect(pair.web.outbound)
        .await
        .post("orders", "/", &body)
        .await;
    let two = Http2::connect(pair.web.outbound)
        .await
        .post("orders", "/", body.clone())
        .await;
    for answer in [one, two] {
        assert!(answer.body == body, "{} bytes", answer.body.len());
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_whole() {
    let app = App::http(async |request| {
        if request.uri().path() == "/early" {
            return Response::new(app::text("early"));
        }
        let whole = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(app::text(whole))
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    client
        .send("POST /early HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000\r\n\r\nfirst")
        .await;
    assert_eq!(client.answer().await.text(), "early");
    // What nobody read is dropped, and the connection goes on.
    client.send([b'x'; 995]).await;
    assert_eq!(client.post("orders", "/", b"more").await.text(), "more");
    client
        .send("POST /early HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "early");
    client.send("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(client.get("orders", "/").await.text(), "");
    // Not where that would cost more than another one.
    client
        .send("POST /early HTTP/1.1\r\nhost: orders\r\ncontent-length: 10000000\r\n\r\nfirst")
        .await;
    assert_eq!(client.answer().await.text(), "early");
    assert!(client.rest().await.is_empty());

    let client = Http2::connect(pair.web.outbound).await;
    let request = Request::post("http://orders/early").body(()).unwrap();
    let (response, _stream) = client.sender().await.send_request(request, false).unwrap();
    assert_eq!(soon(receive(response)).await.unwrap().text(), "early");
    assert_eq!(client.post("orders", "/", "late").await.text(), "late");
}
