//! `limits` and `concurrency`: how much at a time.

use std::num::NonZeroU32;
use std::time::Duration;

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
