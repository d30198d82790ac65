//! `balance` and `pool`: which endpoint, over how many connections.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use http::HeaderName;

use crate::headers::header_name;
use crate::read::{At, not_one_of};
use crate::units;

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

impl Balance {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields_or("algorithm", &["algorithm", "locality", "warmup"]);
        let algorithm = fields
            .get("algorithm")
            .and_then(|at| at.parse(Algorithm::parse));
        let locality = [
            ("prefer", Locality::Prefer),
            ("strict", Locality::Strict),
            ("off", Locality::Off),
        ];
        Self {
            algorithm: algorithm.unwrap_or_default(),
            locality: fields
                .get("locality")
                .and_then(|at| at.word(&locality))
                .unwrap_or_default(),
            warmup: fields.get("warmup").and_then(|at| units::duration(&at)),
        }
    }
}

impl Algorithm {
    fn parse(text: &str) -> Result<Self, String> {
        let known = [
            "least-loaded",
            "round-robin",
            "random",
            "hash:client-ip",
            "hash:header:<name>",
            "hash:cookie:<name>",
        ];
        if let Some(name) = text.strip_prefix("hash:header:") {
            return header_name(name).map(|name| Self::Hash(HashKey::Header(name)));
        }
        if let Some(name) = text
            .strip_prefix("hash:cookie:")
            .filter(|name| is_token(name))
        {
            return Ok(Self::Hash(HashKey::Cookie(name.to_owned())));
        }
        match text {
            "least-loaded" => Ok(Self::LeastLoaded),
            "round-robin" => Ok(Self::RoundRobin),
            "random" => Ok(Self::Random),
            "hash:client-ip" => Ok(Self::Hash(HashKey::ClientIp)),
            _ => Err(not_one_of(text, known.into_iter())),
        }
    }
}

/// Whether it is a token (RFC 9110 section 5.6.2), as cookie names are.
pub(crate) fn is_token(name: &str) -> bool {
    let mark = |c: u8| b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || mark(c))
}

impl PoolPolicy {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields(&["connections", "pending", "requests-per-connection", "idle"]);
        let default = Self::default();
        let connections = fields
            .get("connections")
            .and_then(|at| at.number(1, MAX_COUNT));
        let requests = fields.get("requests-per-connection");
        let requests = requests.and_then(|at| at.number(1, u64::MAX));
        Self {
            connections: connections.and_then(NonZeroU32::new),
            pending: fields
                .get("pending")
                .and_then(|at| at.number(0, MAX_COUNT))
                .unwrap_or(default.pending),
            requests_per_connection: requests.and_then(NonZeroU64::new),
            idle: fields.get("idle").and_then(|at| units::duration(&at)),
        }
    }
}

const MAX_COUNT: u64 = 1_000_000;
