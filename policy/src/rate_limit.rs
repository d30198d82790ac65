//! `rate-limit`: how often, for whom.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;

use crate::matcher::RequestMatch;

/// `100/s`: so many in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how much time: a second, a minute, an hour.
    pub per: Duration,
}

impl Rate {
    /// `10/s`.
    pub const TEN_A_SECOND: Self = Self {
        count: NonZeroU32::MIN.saturating_add(9),
        per: Duration::from_secs(1),
    };
}

/// One limit: in any window t at most `burst + rate x t` pass (GCRA, ITU-T I.371).
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// The long-term rate.
    pub rate: Rate,
    /// How many may come at once; the number before the slash unless written.
    pub burst: NonZeroU32,
    /// What is counted apart; empty counts all together.
    pub per: Vec<RateKey>,
    /// Which requests count.
    pub matches: RequestMatch,
    /// For `client-ip`: how many proxies in front of us are trusted to append to `x-forwarded-for`; 0 takes the connection's address.
    pub trusted_hops: u8,
}

/// What requests are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// The client's address; IPv6 by its /64.
    ClientIp,
    /// The verified caller.
    Identity,
    /// The value of a header.
    Header(HeaderName),
    /// The value of a claim (dotted path).
    Claim(String),
    /// The path, or the template of `match.path` that it fits.
    Path,
}
