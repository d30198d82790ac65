//! `timeout`: how long a caller waits.

use std::time::Duration;

use crate::read::At;
use crate::units;

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

impl Timeouts {
    /// Reads what is written over `base`.
    pub(crate) fn read(at: &At<'_>, base: Self) -> Self {
        let fields = at.fields_or("request", &["request", "try", "connect", "idle"]);
        let over = |key, base| match fields.get(key) {
            Some(at) => units::duration(&at),
            None => base,
        };
        Self {
            request: over("request", base.request),
            per_try: over("try", base.per_try),
            connect: over("connect", base.connect),
            idle: over("idle", base.idle),
        }
    }
}
