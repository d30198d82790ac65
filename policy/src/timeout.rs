//! `timeout`: how long a caller waits.

use std::time::Duration;

/// How long each part of a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of the request to the answer's header over all tries, for gRPC to its trailers.
    pub request: Option<Duration>,
    /// The same for one try.
    pub per_try: Option<Duration>,
    /// For TCP and TLS with the endpoint; `None` leaves it to the proxy's configuration.
    pub connect: Option<Duration>,
    /// Silence of upgrades, tunnels and streamed bodies; `None` leaves it to the proxy's configuration.
    pub idle: Option<Duration>,
}

impl Timeouts {
    /// What holds where nothing is written.
    pub const DEFAULT: Self = Self {
        request: None,
        per_try: None,
        connect: None,
        idle: None,
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}
