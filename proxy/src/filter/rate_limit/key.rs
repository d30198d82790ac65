//! What requests are told apart by, as one number: a hash under a seed that nobody outside knows.
//!
//! What is not there (no identity, no such header, no such claim) is a value too: all requests without it are counted together.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Request};
use weft_policy::rate_limit::{RateKey, RateLimit};
use weft_policy::spiffe::SpiffeId;

use crate::filter::claims::Claims;
use crate::http::body::Body;

/// Who calls, as far as the connection knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) address: IpAddr,
    pub(super) identity: Option<&'a SpiffeId>,
}

/// The key of `request` under `limit`.
pub(super) fn of(
    limit: &RateLimit,
    seed: &RandomState,
    caller: Caller<'_>,
    request: &Request<Body>,
) -> u64 {
    let mut hash = seed.build_hasher();
    for key in &limit.per {
        match key {
            RateKey::ClientIp => {
                client(request.headers(), caller.address, limit.trusted_hops).hash(&mut hash);
            }
            RateKey::Identity => caller.identity.map(SpiffeId::as_str).hash(&mut hash),
            RateKey::Header(name) => header(request.headers(), name, &mut hash),
            RateKey::Claim(path) => {
                let claims = request.extensions().get::<Claims>();
                claims.and_then(|claims| claims.text(path)).hash(&mut hash);
            }
            RateKey::Path => path(limit, request.uri().path()).hash(&mut hash),
        }
    }
    hash.finish()
}

fn header(headers: &HeaderMap, name: &HeaderName, hash: &mut impl Hasher) {
    let values = headers.get_all(name);
    values.iter().for_each(|value| value.as_bytes().hash(hash));
    values.iter().count().hash(hash);
}

/// The pattern that the path fits, so that `/users/1` and `/users/2` are one; without patterns the path itself.
fn path<'a>(limit: &'a RateLimit, path: &'a str) -> &'a str {
    let mut patterns = limit.matches.paths.iter();
    let fits = patterns.find(|pattern| pattern.matches(path));
    fits.map_or(path, |pattern| pattern.as_str())
}

/// The client's address, whole for IPv4, its /64 for IPv6: one host has as many addresses below that as it likes.
///
/// With trusted proxies in front, each of which has appended the address that it saw, it is the one that the outermost of them
/// appended: `trusted_hops` from the end. What stands before it is the client's own word. A list that is shorter, or that
/// has something else than an address there, did not come through these proxies: then it is the connection's address.
fn client(headers: &HeaderMap, connection: IpAddr, trusted_hops: u8) -> u128 {
    let forwarded = usize::from(trusted_hops).checked_sub(1);
    let address = forwarded
        .and_then(|back| from_end(headers, back))
        .unwrap_or(connection);
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

fn from_end(headers: &HeaderMap, back: usize) -> Option<IpAddr> {
    let lines = headers.get_all(&FORWARDED_FOR);
    let items = lines
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let item = items.into_iter().nth(back)?;
    address(std::str::from_utf8(item).ok()?.trim())
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let with_port = || {
        text.parse()
            .map(|address: std::net::SocketAddr| address.ip())
    };
    bare.parse().or_else(|_no_bare_address| with_port()).ok()
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_is_who_the_outermost_trusted_proxy_saw() {
        let rows: &[(&str, &[&str], u8, &str)] = &[
            ("no hop is trusted", &["192.0.2.1"], 0, "10.0.0.9"),
            ("one", &["192.0.2.1"], 1, "192.0.2.1"),
            (
                "what the client wrote stands before",
                &["1.1.1.1, 192.0.2.1"],
                1,
                "192.0.2.1",
            ),
            ("two", &["1.1.1.1, 192.0.2.1 ,198.51.100.1"], 2, "192.0.2.1"),
            (
                "over several lines",
                &["1.1.1.1,192.0.2.1", "198.51.100.1"],
                2,
                "192.0.2.1",
            ),
            ("too short", &["192.0.2.1"], 2, "10.0.0.9"),
            ("none", &[], 1, "10.0.0.9"),
            ("no address", &["unknown"], 1, "10.0.0.9"),
            ("empty", &["192.0.2.1,"], 1, "10.0.0.9"),
            ("with a port", &["192.0.2.1:443"], 1, "192.0.2.1"),
            ("mapped", &["::ffff:192.0.2.1"], 1, "192.0.2.1"),
            ("IPv6", &["[2001:db8::5]:443"], 1, "2001:db8::"),
            (
                "IPv6 by its /64",
                &["2001:db8::1:2:3:4"],
                1,
                "2001:db8::ffff",
            ),
        ];
        let connection: IpAddr = "10.0.0.9".parse().unwrap();
        for (name, lines, hops, want) in rows {
            let lines = lines
                .iter()
                .map(|line| (FORWARDED_FOR, HeaderValue::from_static(line)));
            let headers: HeaderMap = lines.collect();
            let want = client(&HeaderMap::new(), want.parse().unwrap(), 0);
            assert_eq!(client(&headers, connection, *hops), want, "{name}");
        }
    }

    #[test]
    fn two_networks_are_two_clients() {
        let of = |text: &str| client(&HeaderMap::new(), text.parse().unwrap(), 0);
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
