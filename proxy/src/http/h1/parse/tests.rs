use super::*;

fn parse(text: &[u8]) -> Result<RequestHead, Malformed> {
    let mut input = BytesMut::from(text);
    let end = head_end(&input, &mut 0)?.expect("a whole head");
    request(&mut input, end, &Limits::default())
}

#[test]
fn requests_that_two_readers_could_read_differently_are_refused() {
    use Malformed as M;
    let rows: &[(&str, &[u8], M)] = &[
        ("bare LF", b"GET / HTTP/1.1\nHost: a\r\n\r\n", M::BareLf),
        ("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\n\r\n", M::BareLf),
        ("folded header", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", M::ObsFold),
        ("space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", M::Header),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n", M::HostMissing),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", M::HostSeveral),
        ("two equal Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", M::HostSeveral),
        ("empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", M::HostInvalid),
        ("Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", M::HostInvalid),
        ("Host with userinfo", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", M::HostInvalid),
        ("Host list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", M::HostInvalid),
        ("TE and CL", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", M::TeAndCl),
        ("TE twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", M::TransferEncoding),
        ("TE identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", M::TransferEncoding),
        ("TE with more", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", M::TransferEncoding),
        ("TE vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", M::Header),
        ("TE in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", M::TeInHttp10),
        ("two lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", M::ContentLength),
        ("two equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", M::ContentLength),
        ("length list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", M::ContentLength),
        ("signed length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", M::ContentLength),
        ("hex length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", M::ContentLength),
        ("length beyond u64", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", M::ContentLength),
        ("lower-case method", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", M::MethodCase),
        ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", M::Target),
        ("no slash", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", M::Target),
        ("star for GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", M::Target),
        ("absolute https", b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", M::Target),
        ("absolute with userinfo", b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", M::Target),
        ("absolute with a host list", b"GET http://a,b/ HTTP/1.1\r\nHost: a\r\n\r\n", M::HostInvalid),
        ("CONNECT without a port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", M::Target),
        ("CONNECT with a path", b"CONNECT a:80/x HTTP/1.1\r\nHost: a\r\n\r\n", M::Target),
        ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", M::Version),
        ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", M::Version),
        ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", M::Header),
        ("CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", M::Header),
        ("backslash", b"GET /a\\..\\b HTTP/1.1\r\nHost: a\r\n\r\n", M::Path),
        ("encoded NUL", b"GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", M::Path),
        ("broken encoding", b"GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", M::Path),
        ("upgrade with a body", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n", M::UpgradeWithBody),
    ];
    for (name, bytes, want) in rows {
        match parse(bytes) {
            Err(got) => assert_eq!(got, *want, "{name}"),
            Ok(head) => panic!("{name} was accepted: {head:?}"),
        }
    }
}

#[test]
fn honest_requests_pass() {
    let rows: &[(&str, &[u8], Framing, bool)] = &[
        (
            "GET",
            b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            "after an empty line",
            b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            "close",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            Framing::None,
            false,
        ),
        ("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", Framing::None, false),
        (
            "HTTP/1.0 keep-alive",
            b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            "length",
            b"POST / HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\n",
            Framing::Length(3),
            true,
        ),
        (
            "chunked",
            b"POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Framing::Chunked,
            true,
        ),
        (
            "options star",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            "connect",
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            "unknown method",
            b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n",
            Framing::None,
            true,
        ),
    ];
    for (name, bytes, framing, keep_alive) in rows {
        let head = parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (head.framing, head.keep_alive),
            (*framing, *keep_alive),
            "{name}"
        );
    }
}

#[test]
fn absolute_form_replaces_the_host() {
    let head = parse(b"GET http://orders:81/x HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
    assert_eq!(head.request.headers()[HOST], "orders:81");
    assert_eq!(head.request.uri().path(), "/x");
}

#[test]
fn answers_without_content_have_none() {
    let rows: &[(&str, &[u8], Method, Framing)] = &[
        (
            "HEAD",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            Method::HEAD,
            Framing::None,
        ),
        (
            "204",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            Method::GET,
            Framing::None,
        ),
        (
            "304 with a length",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            Method::GET,
            Framing::None,
        ),
        (
            "until close",
            b"HTTP/1.1 200 OK\r\n\r\n",
            Method::GET,
            Framing::UntilClose,
        ),
        (
            "length",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            Method::GET,
            Framing::Length(9),
        ),
        (
            "chunked",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Method::GET,
            Framing::Chunked,
        ),
    ];
    for (name, bytes, method, framing) in rows {
        let mut input = BytesMut::from(*bytes);
        let end = head_end(&input, &mut 0).unwrap().unwrap();
        let head = response(&mut input, end, method, &Limits::default()).unwrap();
        assert_eq!(head.framing, *framing, "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
        let mut input = BytesMut::from(bytes.as_slice());
        if let Ok(Some(end)) = head_end(&input, &mut 0) {
            let _outcome = request(&mut input, end, &Limits::default());
        }
    }
}
