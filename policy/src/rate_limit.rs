//! `rate-limit`: how often, for whom.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;

use crate::headers::header_name;
use crate::matcher::RequestMatch;
use crate::node::Kind;
use crate::read::{At, Item, not_one_of};

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

impl Rate {
    /// Parses `100/s`, `1000/min`, `5000/h`.
    ///
    /// # Errors
    /// Says how a rate is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (count, unit) = text
            .split_once('/')
            .ok_or("has no time; write 100/s, 1000/min or 5000/h")?;
        let seconds = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            _ => {
                return Err(format!(
                    "{unit:?} is no time of a rate; write {count}/s, {count}/min or {count}/h"
                ));
            }
        };
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|_| digits);
        Ok(Self {
            count: count.ok_or("is no whole number from 1 to 4294967295 before the slash")?,
            per: Duration::from_secs(seconds),
        })
    }
}

impl RateLimit {
    /// Reads `rate-limit`: rates, limits, or both.
    pub(crate) fn read_list(at: &At<'_>) -> Vec<Self> {
        let items = at.items(MAX_LIMITS).into_iter();
        items.filter_map(|item| Self::read_item(&item)).collect()
    }

    fn read_item(item: &Item<'_>) -> Option<Self> {
        match item {
            Item::Node(at) if !matches!(at.node.kind, Kind::Text(_)) => Self::read(at),
            Item::Node(_) | Item::Word(..) => item.parse(Rate::parse).map(Self::of),
        }
    }

    /// So many for all together.
    #[must_use]
    pub fn of(rate: Rate) -> Self {
        Self {
            rate,
            burst: rate.count,
            per: Vec::new(),
            matches: RequestMatch::default(),
            trusted_hops: 0,
        }
    }

    fn read(at: &At<'_>) -> Option<Self> {
        let fields = at.fields(&["rate", "burst", "per", "match", "trusted-hops"]);
        let rate = fields.need("rate").and_then(|at| at.parse(Rate::parse));
        let burst = fields
            .get("burst")
            .and_then(|at| at.number(1, u64::from(u32::MAX)));
        let rest = Self {
            per: fields
                .get("per")
                .map(|at| at.some(MAX_KEYS, RateKey::parse))
                .unwrap_or_default(),
            matches: fields
                .get("match")
                .map(|at| RequestMatch::read(&at))
                .unwrap_or_default(),
            trusted_hops: fields
                .get("trusted-hops")
                .and_then(|at| at.number(0, 16))
                .unwrap_or(0),
            ..Self::of(rate?)
        };
        let burst = burst.and_then(NonZeroU32::new).unwrap_or(rest.burst);
        Some(Self { burst, ..rest })
    }
}

impl RateKey {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("header:") {
            return header_name(name).map(Self::Header);
        }
        if let Some(claim) = text
            .strip_prefix("claim:")
            .filter(|claim| !claim.is_empty())
        {
            return Ok(Self::Claim(claim.to_owned()));
        }
        let known = [
            "client-ip",
            "identity",
            "path",
            "header:<name>",
            "claim:<name>",
        ];
        match text {
            "client-ip" => Ok(Self::ClientIp),
            "identity" => Ok(Self::Identity),
            "path" => Ok(Self::Path),
            _ => Err(not_one_of(text, known.into_iter())),
        }
    }
}

const MAX_LIMITS: usize = 64;
const MAX_KEYS: usize = 8;
