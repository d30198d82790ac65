//! Laws of the HTTP/1 codec.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Version};
use tokio::time::Duration;

use crate::http::Limits;
use crate::http::body::{Body, Frame};
use crate::http::h1::decode::{Decoded, Decoder, Framing};
use crate::http::h1::encode::{self, After, Asked, Coding};
use crate::http::h1::parse::{self, RequestHead, ResponseHead};
use crate::http::malformed::Malformed;

/// Request heads: the end is found alike however the bytes are cut, and what we pass on is read as what we read.
pub fn head(bytes: &[u8]) {
    let whole = parse::head_end(bytes, &mut 0);
    let mut scanned = 0;
    let in_pieces = (0..=bytes.len())
        .map(|end| parse::head_end(bytes.get(..end).unwrap_or(bytes), &mut scanned))
        .find(|found| !matches!(found, Ok(None)));
    assert_eq!(in_pieces.unwrap_or(Ok(None)), whole);
    let Ok(Some(end)) = whole else { return };
    let Ok(first) = parse::request(&mut BytesMut::from(bytes), end, &LIMITS) else {
        return;
    };
    // The next hop gets a Host in any case; the outbound path adds the one that HTTP/1.0 may lack.
    if !first.request.headers().contains_key("host") {
        return;
    }
    let (parts, ()) = first.request.into_parts();
    let mut out = BytesMut::new();
    encode::request(&mut out, &parts, &Body::empty());
    let second = reread_request(&mut out);
    assert!(out.is_empty(), "bytes are left behind the head");
    let again = &second.request;
    assert_eq!(again.method(), &parts.method);
    assert_eq!(again.uri().path(), parts.uri.path());
    assert_eq!(again.uri().query(), parts.uri.query());
    assert_eq!(again.headers(), &parts.headers);
    if first.framing != Framing::Chunked {
        assert_eq!(second.framing, first.framing);
    }
}

/// Heads of answers: what we pass on is read as what we read.
pub fn answer(bytes: &[u8]) {
    let Ok(Some(end)) = parse::head_end(bytes, &mut 0) else {
        return;
    };
    let parsed = parse::response(&mut BytesMut::from(bytes), end, &Method::GET, &LIMITS);
    let Ok(ResponseHead { response, .. }) = parsed else {
        return;
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let (parts, ()) = response.into_parts();
    let mut out = BytesMut::new();
    let asked = Asked {
        method: &Method::GET,
        version: Version::HTTP_11,
        after: After::KeepAlive,
    };
    encode::response(&mut out, &parts, &Body::empty(), asked);
    let second = reread_response(&mut out);
    assert!(out.is_empty(), "bytes are left behind the head");
    assert_eq!(second.response.status(), parts.status);
    assert_eq!(
        without_length(second.response.headers()),
        without_length(&parts.headers)
    );
}

/// Chunked bodies: cut anywhere they are the same body, and encoded again they still are.
pub fn chunks(bytes: &[u8]) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let cut = usize::from(*first).min(rest.len());
    let (early, late) = rest.split_at(cut);
    let whole = decode(&[rest], LIMITS);
    let in_pieces = decode(&[early, late], LIMITS);
    assert_eq!(whole, in_pieces, "cut at {cut}");
    let Read::Whole { body, trailers, .. } = whole else {
        return;
    };
    let mut out = BytesMut::new();
    for piece in body.chunks(7) {
        let data = Frame::Data(Bytes::copy_from_slice(piece));
        encode::frame(&mut out, data, Coding::Chunked);
    }
    match trailers.is_empty() {
        true => encode::end(&mut out, Coding::Chunked),
        false => encode::frame(&mut out, Frame::Trailers(trailers.clone()), Coding::Chunked),
    }
    let again = Read::Whole {
        body,
        trailers,
        left: 0,
    };
    // A space behind each colon may be ours.
    assert_eq!(decode(&[&out], WIDE), again);
}

/// What a decoder made of all bytes.
#[derive(Debug, PartialEq)]
enum Read {
    Whole {
        body: Vec<u8>,
        trailers: HeaderMap,
        /// Bytes of the next message.
        left: usize,
    },
    /// The body so far.
    Part(Vec<u8>),
    Refused,
}

fn decode(pieces: &[&[u8]], limits: Limits) -> Read {
    let mut decoder = Decoder::new(Framing::Chunked, limits);
    let (mut input, mut body, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
    let mut pieces = pieces.iter();
    loop {
        match decoder.decode(&mut input) {
            Ok(Decoded::Frame(Frame::Data(data))) => body.extend_from_slice(&data),
            Ok(Decoded::Frame(Frame::Trailers(found))) => trailers = found,
            Ok(Decoded::More) => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => return Read::Part(body),
            },
            Ok(Decoded::End) => {
                let left = input.len() + pieces.map(|piece| piece.len()).sum::<usize>();
                return Read::Whole {
                    body,
                    trailers,
                    left,
                };
            }
            Err(_reason) => return Read::Refused,
        }
    }
}

fn reread_request(out: &mut BytesMut) -> RequestHead {
    reread(out, |out, end| parse::request(out, end, &WIDE)).expect("our own head is refused")
}

fn reread_response(out: &mut BytesMut) -> ResponseHead {
    let parse = |out: &mut BytesMut, end| parse::response(out, end, &Method::GET, &WIDE);
    reread(out, parse).expect("our own head is refused")
}

fn reread<H>(
    out: &mut BytesMut,
    parse: impl FnOnce(&mut BytesMut, usize) -> Result<H, Malformed>,
) -> Result<H, Malformed> {
    let end = parse::head_end(out, &mut 0)?.ok_or(Malformed::RequestLine)?;
    parse(out, end)
}

fn without_length(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove("content-length");
    headers
}

/// Small, so that a fuzzer reaches them.
const LIMITS: Limits = Limits {
    header_bytes: 64,
    header_count: 8,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(10),
    streams: 8,
};

/// For what we wrote ourselves.
const WIDE: Limits = Limits {
    header_bytes: 64 * 1024,
    header_count: 100,
    ..LIMITS
};
