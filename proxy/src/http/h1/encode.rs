//! Message heads and bodies -> bytes: one spelling for each, whatever it looked like when it came in.

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, Version, request, response};

use super::parse::is_bodiless;
use crate::http::body::{Body, Frame};

/// How the body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Nothing follows the head.
    None,
    /// As it is; the length stands in the head.
    Plain,
    /// RFC 9112 section 7.1.
    Chunked,
    /// As it is; the connection ends after it.
    UntilClose,
}

/// What the connection does after this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    KeepAlive,
    Close,
}

/// Writes a request head; tells how its body has to be written.
pub(crate) fn request(out: &mut BytesMut, head: &request::Parts, body: &Body) -> Coding {
    let coding = match body.length() {
        _ if head.headers.contains_key(CONTENT_LENGTH) => Coding::Plain,
        Some(0) => Coding::None,
        Some(_) | None => Coding::Chunked,
    };
    out.reserve(HEAD_ESTIMATE);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    put_target(out, &head.uri, &head.method);
    out.put_slice(b" HTTP/1.1\r\n");
    put_headers(out, &head.headers);
    if coding == Coding::Chunked {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    out.put_slice(b"\r\n");
    coding
}

/// Origin form, but for CONNECT and `*` (RFC 9112 section 3.2).
fn put_target(out: &mut BytesMut, uri: &Uri, method: &Method) {
    let authority = uri.authority().filter(|_| *method == Method::CONNECT);
    match (authority, uri.path_and_query()) {
        (Some(authority), _) => out.put_slice(authority.as_str().as_bytes()),
        (None, Some(path)) if path.as_str().starts_with(['/', '*']) => {
            out.put_slice(path.as_str().as_bytes());
        }
        (None, Some(path)) => {
            out.put_u8(b'/');
            out.put_slice(path.as_str().as_bytes());
        }
        (None, None) => out.put_u8(b'/'),
    }
}

/// What the answer to a request must look like on this connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    pub(crate) after: After,
}

/// Writes an answer's head; tells how its body has to be written, and what then becomes of the connection.
pub(crate) fn response(
    out: &mut BytesMut,
    head: &response::Parts,
    body: &Body,
    asked: Asked<'_>,
) -> (Coding, After) {
    let bodiless = *asked.method == Method::HEAD || is_bodiless(head.status);
    let coding = if bodiless {
        Coding::None
    } else if head.headers.contains_key(CONTENT_LENGTH) {
        Coding::Plain
    } else if body.length() == Some(0) {
        Coding::None
    } else if asked.version == Version::HTTP_10 {
        Coding::UntilClose
    } else {
        Coding::Chunked
    };
    let after = if coding == Coding::UntilClose {
        After::Close
    } else {
        asked.after
    };
    out.reserve(HEAD_ESTIMATE);
    put_status(out, head.status);
    put_headers(out, &head.headers);
    match coding {
        Coding::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Coding::None if !bodiless => out.put_slice(b"content-length: 0\r\n"),
        Coding::None | Coding::Plain | Coding::UntilClose => {}
    }
    match (after, asked.version) {
        _ if head.status == StatusCode::SWITCHING_PROTOCOLS => {}
        (After::Close, _) => out.put_slice(b"connection: close\r\n"),
        (After::KeepAlive, Version::HTTP_10) => out.put_slice(b"connection: keep-alive\r\n"),
        (After::KeepAlive, _) => {}
    }
    out.put_slice(b"\r\n");
    (coding, after)
}

/// Writes a 1xx answer.
pub(crate) fn interim(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    put_status(out, status);
    put_headers(out, headers);
    out.put_slice(b"\r\n");
}

fn put_status(out: &mut BytesMut, status: StatusCode) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    out.put_slice(b"\r\n");
}

fn put_headers(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        if *name == TRANSFER_ENCODING {
            continue;
        }
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        out.reserve(name.len() + value.len() + 4);
        out.put_slice(name);
        out.put_slice(b": ");
        out.put_slice(value);
        out.put_slice(b"\r\n");
    }
}

/// Writes one frame of a body.
pub(crate) fn frame(out: &mut BytesMut, frame: Frame, coding: Coding) {
    match (frame, coding) {
        (Frame::Data(data), Coding::Plain | Coding::UntilClose) => out.extend_from_slice(&data),
        (Frame::Data(data), Coding::Chunked) if !data.is_empty() => {
            put_hex(out, data.len());
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&data);
            out.extend_from_slice(b"\r\n");
        }
        (Frame::Trailers(trailers), Coding::Chunked) => {
            out.extend_from_slice(b"0\r\n");
            put_headers(out, &trailers);
            out.extend_from_slice(b"\r\n");
        }
        (Frame::Data(_), Coding::Chunked | Coding::None)
        | (Frame::Trailers(_), Coding::None | Coding::Plain | Coding::UntilClose) => {}
    }
}

/// Writes the end of a body that had no trailers.
pub(crate) fn end(out: &mut BytesMut, coding: Coding) {
    if coding == Coding::Chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

fn put_hex(out: &mut BytesMut, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (number >> (place * 4)) & 0xf;
        out.put_u8(HEX.get(digit).copied().unwrap_or(b'0'));
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";
/// Bytes of a usual head.
const HEAD_ESTIMATE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_hex() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 65_535, 65_536, usize::MAX] {
            let mut out = BytesMut::new();
            put_hex(&mut out, number);
            assert_eq!(out, format!("{number:x}"));
        }
    }
}
