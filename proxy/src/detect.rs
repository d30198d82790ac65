//! First bytes -> [`Protocol`]; no bytes in time -> opaque.
//!
//! Comes after `orig_dst`; what it read goes into a `Rewind`. It never waits longer than its limit, because a server
//! that speaks first (SMTP, MySQL, SSH) would wait with us.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

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
    /// Anything else, and silence.
    Opaque,
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

const VERSION: &[u8] = b" HTTP/";
/// How much of a line we wait for.
const MAX_LINE: usize = 8 * 1024;
const KNOWN_METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
];

/// The longest method token we take for HTTP; the longest registered one (UPDATEREDIRECTREF) has 17 letters.
const MAX_METHOD: usize = 24;

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

/// A method, one space, and a request target.
///
/// A registered method is enough, so that what follows is judged as HTTP. Behind any other word the line must say "HTTP/":
/// without that it is some text protocol, which is not ours to refuse.
fn sniff_http1(bytes: &[u8]) -> Sniff {
    // RFC 9112 section 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one
    // empty line (CRLF) received prior to the request-line."
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if bytes.is_empty() || bytes == b"\r" {
        return Sniff::More;
    }
    let is_token = |byte: &&u8| byte.is_ascii_alphabetic() || **byte == b'-';
    let (method, rest) = bytes.split_at(bytes.iter().take_while(is_token).count());
    match rest {
        [] | [b' '] if (1..=MAX_METHOD).contains(&method.len()) => Sniff::More,
        [b' ', target, ..]
            if !method.is_empty() && method.len() <= MAX_METHOD && is_target_start(*target) =>
        {
            if KNOWN_METHODS.contains(&method) {
                Sniff::Done(Protocol::Http1)
            } else {
                sniff_line(rest)
            }
        }
        _ => Sniff::Done(Protocol::Opaque),
    }
}

/// Looks for the version in the rest of a request line.
fn sniff_line(rest: &[u8]) -> Sniff {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    if line.windows(VERSION.len()).any(|window| window == VERSION) {
        return Sniff::Done(Protocol::Http1);
    }
    if end.is_some() || line.len() > MAX_LINE {
        Sniff::Done(Protocol::Opaque)
    } else {
        Sniff::More
    }
}

/// RFC 9112 section 3.2: origin form, absolute form, authority form or asterisk form.
fn is_target_start(byte: u8) -> bool {
    byte == b'/' || byte == b'*' || byte == b'[' || byte.is_ascii_alphanumeric()
}

/// Reads until the protocol is known or `limit` has passed, and gives the stream back with nothing missing.
///
/// # Errors
/// What the socket says; a peer that closes without a byte is [`Protocol::Opaque`], so that half-close reaches the app.
pub(crate) async fn detect(mut io: TcpStream, limit: Duration) -> io::Result<(Protocol, Rewind)> {
    let mut buffer = BytesMut::with_capacity(FIRST_READ);
    let protocol = match timeout(limit, read_until_known(&mut io, &mut buffer)).await {
        Ok(known) => known?,
        // A partial request line is HTTP from a slow sender: the header time-out judges it, not an opaque tunnel.
        Err(_elapsed) => settle(&buffer),
    };
    Ok((protocol, Rewind::new(buffer.freeze(), io)))
}

/// The likeliest reading of a prefix that came too slowly.
fn settle(bytes: &[u8]) -> Protocol {
    match sniff(bytes) {
        Sniff::Done(protocol) => protocol,
        Sniff::More if bytes.len() >= 4 && bytes.is_ascii() && PREFACE.starts_with(bytes) => {
            Protocol::Http2
        }
        Sniff::More if bytes.first().is_some_and(u8::is_ascii_alphabetic) => Protocol::Http1,
        Sniff::More => Protocol::Opaque,
    }
}

async fn read_until_known(io: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Protocol> {
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
        (
            "a word without an end",
            b"AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            Protocol::Opaque,
        ),
    ];

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
