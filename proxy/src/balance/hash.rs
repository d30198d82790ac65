//! `hash:...`: the same key goes to the same endpoint, with bounded load.
//!
//! Rendezvous hashing: every endpoint has a score for a key, and the highest wins. Nothing is stored, so every worker and
//! every proxy agrees, updates and restarts move only the keys of what came or went, and weights hold exactly. It looks at
//! all endpoints of the tier, a few nanoseconds each. Load is bounded as in "Consistent Hashing with Bounded Loads"
//! (Mirrokni, Thorup, Zadimoghaddam 2016): an endpoint with more than 1.25 of the mean is passed over, so that a popular key
//! spreads.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::COOKIE;
use weft_policy::balance::{Algorithm, Balance, HashKey};

use crate::discovery::endpoint::{Member, Tier};

/// What of a request its endpoint depends on; `None` where `balance` asks for none or the request has none.
pub(crate) fn key(balance: &Balance, headers: &HeaderMap, client: IpAddr) -> Option<u64> {
    match &balance.algorithm {
        Algorithm::LeastLoaded | Algorithm::RoundRobin | Algorithm::Random => None,
        Algorithm::Hash(HashKey::Header(name)) => {
            let mut values = headers.get_all(name).iter().peekable();
            values.peek()?;
            Some(values.fold(BEGIN, |hash, value| hash_on(hash, value.as_bytes())))
        }
        Algorithm::Hash(HashKey::Cookie(name)) => cookie(headers, name).map(of),
        Algorithm::Hash(HashKey::ClientIp) => Some(match client.to_canonical() {
            IpAddr::V4(ip) => of(&ip.octets()),
            IpAddr::V6(ip) => of(&ip.octets()),
        }),
    }
}

/// The first cookie of that name (RFC 6265 section 4.2.1).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let values = headers.get_all(COOKIE).iter();
    let mut pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

/// The member with the highest score that is `open` and has room.
pub(super) fn choose(
    tier: &Tier,
    key: u64,
    open: impl Fn(&Member) -> u32 + Copy,
) -> Option<&Member> {
    let eligible = || tier.members().iter().filter(|member| open(member) > 0);
    let (pending, weight) = eligible().fold((1_u64, 0_u64), |(pending, weight), member| {
        let here = u64::from(member.endpoint.pending());
        (pending + here, weight + u64::from(member.weight))
    });
    let has_room = |member: &&Member| {
        let (here, own) = (
            u64::from(member.endpoint.pending()),
            u64::from(member.weight),
        );
        // ceil(1.25 x mean x own share), with this request counted in.
        let bound = (pending * own * BOUND_QUARTERS).div_ceil((weight * 4).max(1));
        here < bound
    };
    let best =
        |one: &&Member, other: &&Member| score(tier, one, key).total_cmp(&score(tier, other, key));
    // Someone always has room: the bounds add up to more than all that runs.
    eligible().filter(has_room).max_by(best)
}

/// How much `member` is meant for `key`: the higher the more (weighted rendezvous hashing).
#[expect(clippy::cast_precision_loss, reason = "53 bits of a hash are plenty")]
fn score(tier: &Tier, member: &Member, key: u64) -> f64 {
    let drawn = (mixed(key ^ member.endpoint.point) >> 11) as f64;
    if tier.even() {
        return drawn;
    }
    let unit = (drawn + 0.5) / (1_u64 << 53) as f64;
    f64::from(member.weight) / -unit.ln()
}

/// A hash of `bytes` that is the same in every proxy of every version (FNV-1a with a final mix).
pub(crate) fn of(bytes: &[u8]) -> u64 {
    mixed(hash_on(BEGIN, bytes))
}

fn hash_on(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(hash, step)
}

/// Makes every bit depend on every other (the finalizer of `SplitMix64`).
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// FNV's offset basis.
const BEGIN: u64 = 0xcbf2_9ce4_8422_2325;

/// 1.25 of the mean load, in quarters.
const BOUND_QUARTERS: u64 = 5;
