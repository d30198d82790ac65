//! First bytes -> [`Protocol`].
//!
//! Comes after `orig_dst`; what it read goes into a `Rewind`. It never waits longer than its limit, because a server
//! that speaks first (SMTP, MySQL, SSH) would wait with us.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::io::Io;
use crate::rewind::Rewind;

/// What a connection speaks, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A TLS ClientHello (RFC 8446 section 5.1: handshake record, type 22).
    Tls,
    /// An HTTP/1 request line (RFC 9112 section 3).
    Http1,
    /// The HTTP/2 connection preface (RFC 9113 section 3.4).
    Http2,
    /// Anything else.
    Opaque,
    /// Not a byte in time: the client waits for the server, or has nothing to say yet.
    Silent,
}

/// What can be said of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sniff {
    /// More bytes will not change the answer.
    Done(Protocol),
    /// The bytes are still the beginning of several protocols.
    More,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a request line has in it and no line of another protocol that is known to us.
const VERSION: &[u8] = b"HTTP/";
/// How much of a line we wait for.
const MAX_LINE: usize = 8 * 1024;
const KNOWN_METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
];

/// Names the protocol that begins with `bytes`. The answer is the same for every way the bytes may be split.
pub(crate) fn sniff(bytes: &[u8]) -> Sniff {
    match bytes {
        [] | [0x16] => Sniff::More,
        [0x16, 0x03, ..] => Sniff::Done(Protocol::Tls),
        _ if bytes.starts_with(PREFACE) => Sniff::Done(Protocol::Http2),
        _ if PREFACE.starts_with(bytes) => Sniff::More,
        _ => sniff_http1(bytes),
    }
}

/// A first line that some app would take for a request line, however badly formed.
///
/// What is not recognised here passes unread, forged headers included, so this is as lenient as the most lenient app, and
/// leaves the refusal to `http`. A registered method and a target are enough; behind any other word the line must say
/// "HTTP/": without that it is some text protocol, which is not ours to refuse.
fn sniff_http1(bytes: &[u8]) -> Sniff {
    // RFC 9112 section 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one
    // empty line (CRLF) received prior to the request-line."
    let blank = bytes
        .iter()
        .take(MAX_LINE + 1)
        .take_while(|byte| b"\r\n \t".contains(byte))
        .count();
    // Longer than we wait for. Some app waits longer, and reads a request behind it; `http` refuses it by its length.
    if blank > MAX_LINE {
        return Sniff::Done(Protocol::Http1);
    }
    let line = bytes.get(blank..).unwrap_or_default();
    if line.first().is_some_and(|byte| !is_token(*byte)) {
        return Sniff::Done(Protocol::Opaque);
    }
    // Also what is no token: an app may take it for a method.
    let length = line
        .iter()
        .take(MAX_LINE + 1)
        .take_while(|byte| byte.is_ascii_graphic())
        .count();
    if length > MAX_LINE {
        return Sniff::Done(Protocol::Http1);
    }
    let (method, rest) = line.split_at(length);
    match rest {
        [] => Sniff::More,
        [b' '] => Sniff::More,
        [b' ', target, ..] if is_target_start(*target) && KNOWN_METHODS.contains(&method) => {
            Sniff::Done(Protocol::Http1)
        }
        [separator, ..] if is_blank(*separator) => sniff_line(rest),
        _ => Sniff::Done(Protocol::Opaque),
    }
}

/// Looks for the version in the rest of a request line.
fn sniff_line(rest: &[u8]) -> Sniff {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let says_http = line
        .windows(VERSION.len())
        .any(|window| window.eq_ignore_ascii_case(VERSION));
    match end {
        // A target may be longer than we care to wait for; only HTTP has such lines.
        _ if says_http || line.len() > MAX_LINE => Sniff::Done(Protocol::Http1),
        Some(_) => Sniff::Done(Protocol::Opaque),
        None => Sniff::More,
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a lenient reader takes for a space in a request line (RFC 9112 section 3).
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
}

/// RFC 9112 section 3.2: origin form, absolute form, authority form or asterisk form.
fn is_target_start(byte: u8) -> bool {
    byte == b'/' || byte == b'*' || byte == b'[' || byte.is_ascii_alphanumeric()
}

/// How long [`detect`] waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the first byte.
    pub(crate) silence: Duration,
    /// From there until the protocol is known.
    pub(crate) rest: Duration,
}

/// Reads until the protocol is known or the time is up, and gives the stream back with nothing missing.
///
/// # Errors
/// What the socket says; a peer that closes without a byte is [`Protocol::Opaque`], so that half-close reaches the app.
pub(crate) async fn detect(
    mut io: TcpStream,
    patience: Patience,
) -> io::Result<(Protocol, Rewind)> {
    let mut buffer = BytesMut::with_capacity(FIRST_READ);
    let protocol = match timeout(patience.silence, io.read_buf(&mut buffer)).await {
        Err(_elapsed) => Protocol::Silent,
        Ok(read) => {
            read?;
            finish(&mut io, &mut buffer, patience.rest).await?
        }
    };
    Ok((protocol, Rewind::new(buffer.freeze(), io)))
}

/// Reads on behind the first bytes. An empty buffer means that none will come.
async fn finish(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    limit: Duration,
) -> io::Result<Protocol> {
    if buffer.is_empty() {
        return Ok(Protocol::Opaque);
    }
    if let Sniff::Done(protocol) = sniff(buffer) {
        return Ok(protocol);
    }
    match timeout(limit, read_until_known(io, buffer)).await {
        Ok(known) => known,
        // A partial request line is HTTP from a slow sender: the header time-out judges it, not an opaque tunnel.
        Err(_elapsed) => Ok(settle(buffer)),
    }
}

/// Waits for the first word of either side. Only a server that speaks first makes the connection opaque for good: a
/// client may just be late, and what it says then must not pass unread if it is HTTP. The client's bytes are read again,
/// the server's are returned.
///
/// # Errors
/// What a socket says.
pub(crate) async fn first_word(
    client: &mut Io,
    server: &mut Io,
    limit: Duration,
) -> io::Result<(Protocol, BytesMut)> {
    let (mut from_client, mut from_server) = (BytesMut::new(), BytesMut::new());
    let protocol = tokio::select! {
        biased;
        read = client.read_buf(&mut from_client) => {
            read?;
            finish(client, &mut from_client, limit).await?
        }
        read = server.read_buf(&mut from_server) => {
            read?;
            Protocol::Opaque
        }
    };
    client.again(from_client.freeze());
    Ok((protocol, from_server))
}

/// Waits for the client's first word alone; its bytes are read again.
///
/// # Errors
/// What the socket says.
pub(crate) async fn client_word(client: &mut Io, patience: Patience) -> io::Result<Protocol> {
    let mut heard = BytesMut::new();
    let protocol = match timeout(patience.silence, client.read_buf(&mut heard)).await {
        Err(_elapsed) => return Ok(Protocol::Silent),
        Ok(read) => {
            read?;
            finish(client, &mut heard, patience.rest).await?
        }
    };
    client.again(heard.freeze());
    Ok(protocol)
}

/// The likeliest reading of a prefix that came too slowly.
fn settle(bytes: &[u8]) -> Protocol {
    match sniff(bytes) {
        Sniff::Done(protocol) => protocol,
        Sniff::More if bytes.len() >= 4 && bytes.is_ascii() && PREFACE.starts_with(bytes) => {
            Protocol::Http2
        }
        // Also an empty line: what follows it could be anything, and only `http` will have read it.
        Sniff::More
            if bytes
                .first()
                .is_some_and(|byte| is_token(*byte) || b"\r\n \t".contains(byte)) =>
        {
            Protocol::Http1
        }
        Sniff::More => Protocol::Opaque,
    }
}

async fn read_until_known(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<Protocol> {
    loop {
        if io.read_buf(buffer).await? == 0 {
            return Ok(settle(buffer));
        }
        if let Sniff::Done(protocol) = sniff(buffer) {
            return Ok(protocol);
        }
    }
}

/// Wraps a stream that needs no look.
pub(crate) fn declared(io: TcpStream) -> Rewind {
    Rewind::new(Bytes::new(), io)
}

const FIRST_READ: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[(&str, &[u8], Protocol)] = &[
        (
            "tls client hello",
            b"\x16\x03\x01\x02\x00\x01",
            Protocol::Tls,
        ),
        ("http2 preface", PREFACE, Protocol::Http2),
        ("http1 request line", b"GET / HTTP/1.1\r\n", Protocol::Http1),
        (
            "http1 absolute form",
            b"GET http://orders/ HTTP/1.1\r\n",
            Protocol::Http1,
        ),
        (
            "http1 connect",
            b"CONNECT orders:80 HTTP/1.1\r\n",
            Protocol::Http1,
        ),
        (
            "http1 after an empty line",
            b"\r\nGET / HTTP/1.1\r\n",
            Protocol::Http1,
        ),
        ("unknown method", b"BREW /pot HTTP/1.1\r\n", Protocol::Http1),
        (
            "method that begins like the preface",
            b"PROPFIND / HTTP/1.1\r\n",
            Protocol::Http1,
        ),
        (
            "garbage that h2spec sends for a preface",
            b"INVALID CONNECTION PREFACE\r\n\r\n",
            Protocol::Opaque,
        ),
        ("known method, unknown rest", b"GET /x\r\n", Protocol::Http1),
        ("redis ping", b"*1\r\n$4\r\nPING\r\n", Protocol::Opaque),
        ("redis inline", b"PING\r\n", Protocol::Opaque),
        (
            "postgres startup",
            b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
            Protocol::Opaque,
        ),
        ("smtp", b"EHLO\r\n", Protocol::Opaque),
        ("not quite tls", b"\x16\x02\x01", Protocol::Opaque),
        ("amqp", b"AMQP\x00\x00\x09\x01", Protocol::Opaque),
        ("ssh", b"SSH-2.0-OpenSSH_9.2\r\n", Protocol::Opaque),
        ("memcached", b"get key\r\n", Protocol::Opaque),
        ("nats", b"CONNECT {\"verbose\":false}\r\n", Protocol::Opaque),
        ("hl7", b"\x0bMSH|^~\\&|LAB|\r", Protocol::Opaque),
        ("xmpp", b"<?xml version='1.0'?>", Protocol::Opaque),
        (
            "method with a colon",
            b"GET: / HTTP/1.1\r\n",
            Protocol::Http1,
        ),
        ("two spaces", b"GET  / HTTP/1.1\r\n", Protocol::Http1),
        ("a tab", b"GET\t/\tHTTP/1.1\r\n", Protocol::Http1),
        ("a form feed", b"GET\x0c/ HTTP/1.1\r\n", Protocol::Http1),
        ("spaces in front", b"  GET / HTTP/1.1\r\n", Protocol::Http1),
        (
            "several empty lines",
            b"\r\n\n\r\nGET / HTTP/1.1\r\n",
            Protocol::Http1,
        ),
        ("odd method", b"M-1! / HTTP/1.1\r\n", Protocol::Http1),
        (
            "long method",
            b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n",
            Protocol::Http1,
        ),
        (
            "lower-case version",
            b"BREW / http/1.1\r\n",
            Protocol::Http1,
        ),
        (
            "control byte in the target",
            b"BREW /\x01 HTTP/1.1\r\n",
            Protocol::Http1,
        ),
    ];

    #[test]
    fn a_line_without_an_end_is_not_waited_for_nor_passed_unread() {
        let word = vec![b'A'; MAX_LINE + 1];
        let blank = b"\r\n".repeat(MAX_LINE);
        let request = b" /admin HTTP/1.1\r\nhost: x\r\n\r\n";
        let rows: &[(&str, &[u8])] = &[
            ("a word", &word),
            ("a target", &[b"BREW /".as_slice(), &word].concat()),
            ("a method", &[&word, request.as_slice()].concat()),
            (
                "empty lines",
                &[&blank, b"GET".as_slice(), request].concat(),
            ),
            (
                "a word that ends in bytes",
                &[&word, b"\0".as_slice()].concat(),
            ),
        ];
        for (name, bytes) in rows {
            for end in (0..bytes.len()).step_by(509).chain([bytes.len()]) {
                let part = sniff(&bytes[..end]);
                assert!(
                    part == Sniff::Done(Protocol::Http1)
                        || (part == Sniff::More && end < bytes.len()),
                    "{name}: {end} bytes gave {part:?}"
                );
            }
        }
    }

    #[test]
    fn what_came_too_slowly_is_read_as_what_can_do_no_harm() {
        let rows: &[(&str, &[u8], Protocol)] = &[
            ("silence", b"", Protocol::Opaque),
            ("a letter", b"G", Protocol::Http1),
            ("an empty line", b"\r\n", Protocol::Http1),
            ("half a preface", b"PRI * HTTP", Protocol::Http2),
            ("half a record", b"\x16", Protocol::Opaque),
        ];
        for (name, bytes, want) in rows {
            assert_eq!(settle(bytes), *want, "{name}");
        }
    }

    #[test]
    fn first_bytes_decide_the_protocol() {
        for (name, bytes, want) in ROWS {
            assert_eq!(sniff(bytes), Sniff::Done(*want), "{name}");
        }
    }

    #[test]
    fn every_split_gives_the_same_answer() {
        for (name, bytes, want) in ROWS {
            for end in 0..bytes.len() {
                let part = sniff(&bytes[..end]);
                assert!(
                    part == Sniff::More || part == Sniff::Done(*want),
                    "{name}: {end} bytes gave {part:?}"
                );
            }
        }
    }
}
