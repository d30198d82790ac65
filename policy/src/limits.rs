//! `limits` and `concurrency`: how much at a time.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::read::At;
use crate::units;

/// What one connection or request may ask of the proxy. `None` leaves it to the proxy's own configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of a header section (431).
    pub headers: Option<u64>,
    /// Header lines (431).
    pub header_count: Option<u32>,
    /// Bytes of a request body (413).
    pub body: Option<u64>,
    /// Inbound connections at a time.
    pub connections: Option<u32>,
    /// Streams at a time on an HTTP/2 connection.
    pub streams: Option<u32>,
    /// From a header's first byte to its last.
    pub header_timeout: Option<Duration>,
    /// Silence of a connection.
    pub idle_timeout: Option<Duration>,
}

/// Requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// At most so many.
    Fixed(NonZeroU32),
    /// As many as the app serves without queueing, found by the gradient of its latency.
    Auto,
}

impl Limits {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields(&[
            "headers",
            "header-count",
            "body",
            "connections",
            "streams",
            "header-timeout",
            "idle-timeout",
        ]);
        let number = |key, max| fields.get(key).and_then(|at| at.number(1, max));
        Self {
            headers: fields
                .get("headers")
                .and_then(|at| units::size(&at, 256..=1 << 20)),
            header_count: number("header-count", 256),
            body: fields
                .get("body")
                .and_then(|at| units::size(&at, 0..=1 << 40)),
            connections: number("connections", 1_000_000),
            streams: number("streams", 100_000),
            header_timeout: fields
                .get("header-timeout")
                .and_then(|at| units::duration(&at)),
            idle_timeout: fields
                .get("idle-timeout")
                .and_then(|at| units::duration(&at)),
        }
    }
}

impl Concurrency {
    pub(crate) fn read(at: &At<'_>) -> Option<Self> {
        if at.node.as_text() == Some("auto") {
            return Some(Self::Auto);
        }
        let number = at.number(1, 1_000_000).and_then(NonZeroU32::new);
        number.map(Self::Fixed)
    }
}
