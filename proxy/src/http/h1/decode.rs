//! Where a message body ends (RFC 9112 sections 6 and 7): length, chunks, or the end of the connection.
//!
//! Strict where a lenient reader would differ from another: sizes are hex digits only, lines end in CRLF only.
//! Chunk extensions are dropped (section 7.1.1: "a recipient MUST ignore unrecognized chunk extensions").

use bytes::{Buf, Bytes, BytesMut};

use super::parse;
use crate::http::Limits;
use crate::http::body::Frame;
use crate::http::headers::clean_trailers;
use crate::http::malformed::Malformed;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection ends; answers only.
    UntilClose,
}

/// The reading state of one body.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// Bytes of chunk headers, extensions and trailers so far that carried nothing.
    overhead: usize,
    limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// What the decoder makes of the input.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// A piece of the body, or its trailers.
    Frame(Frame),
    /// The input does not hold a whole piece yet.
    More,
    /// The body is complete.
    End,
}

impl Decoder {
    /// The decoder of a message without a body.
    pub(crate) fn done() -> Self {
        Self {
            state: State::Done,
            overhead: 0,
            limits: Limits::NONE,
        }
    }

    pub(crate) fn new(framing: Framing, limits: Limits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            overhead: 0,
            limits,
        }
    }

    /// Whether the body has been taken whole.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the end of the body, or cuts it.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// The bytes still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(length) => Some(length),
            State::Done => Some(0),
            State::ChunkSize
            | State::ChunkData(_)
            | State::ChunkEnd
            | State::Trailers
            | State::UntilClose => None,
        }
    }

    /// Takes the next piece out of `input`.
    ///
    /// # Errors
    /// The framing is broken; the connection cannot be used any further.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                State::Length(left) => {
                    let Some(data) = take(input, left) else {
                        return Ok(Decoded::More);
                    };
                    let left = left - data.len() as u64;
                    self.state = if left == 0 {
                        State::Done
                    } else {
                        State::Length(left)
                    };
                    return Ok(Decoded::Frame(Frame::Data(data)));
                }
                State::ChunkData(left) => {
                    let Some(data) = take(input, left) else {
                        return Ok(Decoded::More);
                    };
                    let left = left - data.len() as u64;
                    self.state = if left == 0 {
                        State::ChunkEnd
                    } else {
                        State::ChunkData(left)
                    };
                    return Ok(Decoded::Frame(Frame::Data(data)));
                }
                State::UntilClose => {
                    let Some(data) = take(input, u64::MAX) else {
                        return Ok(Decoded::More);
                    };
                    return Ok(Decoded::Frame(Frame::Data(data)));
                }
                State::ChunkSize => match self.line(input)? {
                    None => return Ok(Decoded::More),
                    Some(line) => {
                        let size = chunk_size(&line)?;
                        self.state = if size == 0 {
                            State::Trailers
                        } else {
                            State::ChunkData(size)
                        };
                    }
                },
                State::ChunkEnd => match input.get(..2) {
                    None if b"\r\n".starts_with(input) => return Ok(Decoded::More),
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.state = State::ChunkSize;
                    }
                    Some(_) | None => return Err(Malformed::Chunk),
                },
                State::Trailers => return self.trailers(input),
            }
        }
    }

    /// One chunk header, without its CRLF.
    fn line(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            return if input.len() > self.overhead_left() + MAX_SIZE_LINE {
                Err(Malformed::Chunk)
            } else {
                Ok(None)
            };
        };
        // Only what is not the size itself counts, so that many small honest chunks are no attack.
        self.overhead += end.saturating_sub(MAX_SIZE_LINE);
        if self.overhead > self.limits.header_bytes {
            return Err(Malformed::Chunk);
        }
        let line = input.split_to(end + 1).freeze();
        line.strip_suffix(b"\r\n")
            .map(|text| Some(line.slice_ref(text)))
            .ok_or(Malformed::Chunk)
    }

    fn overhead_left(&self) -> usize {
        self.limits.header_bytes.saturating_sub(self.overhead)
    }

    /// RFC 9112 section 7.1.2.
    fn trailers(&mut self, input: &mut BytesMut) -> Result<Decoded, Malformed> {
        let end = parse::section_end(input)?;
        // Not only what is incomplete: the limit must not depend on how the bytes were cut.
        if end.unwrap_or(input.len()) > self.overhead_left() {
            return Err(Malformed::HeaderTooLarge);
        }
        let Some(end) = end else {
            return Ok(Decoded::More);
        };
        let section = input.split_to(end).freeze();
        let mut trailers = parse::fields(&section, self.limits.header_count)
            .map_err(|_reason| Malformed::Trailer)?;
        // Only now: a body that ends in a broken section is not one after which the connection goes on.
        self.state = State::Done;
        clean_trailers(&mut trailers);
        if trailers.is_empty() {
            return Ok(Decoded::End);
        }
        Ok(Decoded::Frame(Frame::Trailers(trailers)))
    }
}

fn take(input: &mut BytesMut, left: u64) -> Option<Bytes> {
    if input.is_empty() {
        return None;
    }
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    Some(input.split_to(count).freeze())
}

/// `chunk-size [ chunk-ext ]` (RFC 9112 section 7.1); at most 16 digits.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (size, extension) = line.split_at(digits);
    if digits == 0 || digits > 16 {
        return Err(Malformed::Chunk);
    }
    // BWS before the semicolon is allowed (section 7.1.1); anything else after the digits is not.
    let rest = extension.trim_ascii_start();
    let clean = rest.is_empty() && extension.is_empty() || rest.starts_with(b";");
    if !clean || extension.contains(&b'\r') {
        return Err(Malformed::Chunk);
    }
    let text = std::str::from_utf8(size).map_err(|_not_text| Malformed::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_too_large| Malformed::Chunk)
}

/// The longest chunk header that carries nothing but a size.
const MAX_SIZE_LINE: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(bytes: &[u8]) -> Result<(Vec<u8>, bool), Malformed> {
        let mut decoder = Decoder::new(Framing::Chunked, Limits::default());
        let mut input = BytesMut::from(bytes);
        let mut body = Vec::new();
        loop {
            match decoder.decode(&mut input)? {
                Decoded::Frame(Frame::Data(data)) => body.extend_from_slice(&data),
                Decoded::Frame(Frame::Trailers(_)) => {}
                Decoded::More => return Ok((body, false)),
                Decoded::End => return Ok((body, input.is_empty())),
            }
        }
    }

    #[test]
    fn chunks_become_a_body() {
        let rows: &[(&str, &[u8], &[u8])] = &[
            ("two chunks", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
            (
                "upper and lower case hex",
                b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
                b"01234567890123456789",
            ),
            ("extension", b"3;a=b\r\nabc\r\n0\r\n\r\n", b"abc"),
            ("leading zeros", b"0003\r\nabc\r\n0\r\n\r\n", b"abc"),
            ("trailers", b"1\r\na\r\n0\r\nx-a: b\r\n\r\n", b"a"),
        ];
        for (name, bytes, want) in rows {
            assert_eq!(decode_all(bytes), Ok((want.to_vec(), true)), "{name}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        let rows: &[(&str, &[u8])] = &[
            ("bare LF after the size", b"3\nabc\r\n0\r\n\r\n"),
            ("bare LF after the data", b"3\r\nabc\n0\r\n\r\n"),
            ("no digits", b"\r\nabc"),
            ("0x prefix", b"0x3\r\nabc\r\n"),
            ("plus sign", b"+3\r\nabc\r\n"),
            ("underscore", b"1_0\r\n"),
            ("seventeen digits", b"00000000000000003\r\nabc\r\n"),
            ("space in front", b" 3\r\nabc\r\n"),
            ("space behind", b"3 \r\nabc\r\n"),
            ("too much data", b"3\r\nabcd\r\n0\r\n\r\n"),
            ("CR in the extension", b"3;a\rb\r\nabc\r\n"),
            ("bare LF in the trailers", b"0\r\nx: y\n\r\n"),
        ];
        for (name, bytes) in rows {
            assert!(
                decode_all(bytes).is_err(),
                "{name}: {:?}",
                decode_all(bytes)
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn every_split_of_chunks_gives_the_same_body(cut in 0_usize..32) {
            let bytes: &[u8] = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nt: v\r\n\r\n";
            let cut = cut.min(bytes.len());
            let mut decoder = Decoder::new(Framing::Chunked, Limits::default());
            let mut input = BytesMut::from(&bytes[..cut]);
            let mut body = Vec::new();
            let mut late = Some(&bytes[cut..]);
            loop {
                match decoder.decode(&mut input).unwrap() {
                    Decoded::Frame(Frame::Data(data)) => body.extend_from_slice(&data),
                    Decoded::Frame(Frame::Trailers(trailers)) => assert_eq!(trailers["t"], "v"),
                    Decoded::More => input.extend_from_slice(late.take().expect("the rest was there already")),
                    Decoded::End => break,
                }
            }
            assert_eq!(body, b"abcde");
            assert!(decoder.is_done());
        }
    }
}
