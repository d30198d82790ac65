//! HTTP on one connection: the only place that knows which code moves the bytes.
//!
//! HTTP/1 is a codec of our own over httparse (`h1`), HTTP/2 is the h2 crate (`h2`). In front of them is the one
//! [`Body`](body::Body), behind them `http`'s types; filters and routes see nothing else.

pub(crate) mod body;
pub(crate) mod failure;
pub(crate) mod grpc;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod headers;
pub(crate) mod interim;
pub(crate) mod malformed;
pub(crate) mod path;
pub(crate) mod readings;
pub(crate) mod timer;
pub(crate) mod upgrade;

use std::time::Duration;

/// What one connection may ask of us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest header section, in bytes; the request line counts.
    pub(crate) header_bytes: usize,
    /// Most header lines.
    pub(crate) header_count: usize,
    /// From the first byte of a header to its last.
    pub(crate) header_timeout: Duration,
    /// How long a connection may be silent, between and inside messages.
    pub(crate) idle_timeout: Duration,
    /// Most streams at a time on one HTTP/2 connection.
    pub(crate) streams: u32,
}

impl Limits {
    /// Lets nothing pass; for a decoder that has nothing to decode.
    pub(crate) const NONE: Self = Self {
        header_bytes: 0,
        header_count: 0,
        header_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        streams: 0,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_count: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            streams: 250,
        }
    }
}
