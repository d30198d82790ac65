//! `balance` and `pool`: which endpoint, over how many connections.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use http::HeaderName;

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Balance {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What nearness counts.
    pub locality: Locality,
    /// How long a new endpoint's share grows from a tenth to its whole.
    pub warmup: Option<Duration>,
}

/// Which endpoint is next.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The better of two at random, by peak EWMA of latency times load.
    #[default]
    LeastLoaded,
    /// One after the other, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The same value goes to the same endpoint, unless that has more than 1.25 of the mean load.
    Hash(HashKey),
}

/// What a consistent hash is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// The client's address.
    ClientIp,
}

/// Nearness of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Locality {
    /// The same zone while it has enough endpoints that work.
    #[default]
    Prefer,
    /// The same zone only.
    Strict,
    /// Counts nothing.
    Off,
}

/// Connections to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPolicy {
    /// Most at a time; `None` leaves it to the proxy's configuration, 1024.
    pub connections: Option<NonZeroU32>,
    /// Most requests that wait for one.
    pub pending: u32,
    /// After so many a connection is closed.
    pub requests_per_connection: Option<NonZeroU64>,
    /// How long an unused one is kept; `None` leaves it to the proxy's configuration, 60 s.
    pub idle: Option<Duration>,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            connections: None,
            pending: 1024,
            requests_per_connection: None,
            idle: None,
        }
    }
}
