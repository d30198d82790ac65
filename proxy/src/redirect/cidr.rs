//! A block of addresses, as an argument names it and as nftables matches it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block of IPv4 or IPv6 addresses (RFC 4632 section 3.1, RFC 4291 section 2.3); bits outside the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// A text that is no block of addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a block of addresses (10.0.0.0/8, fd00::/8, 192.0.2.7)")]
pub(super) struct CidrError(String);

impl Cidr {
    /// The word that nftables has for the address family: `ip` or `ip6`.
    pub(super) fn family(&self) -> &'static str {
        match self.network {
            IpAddr::V4(_) => "ip",
            IpAddr::V6(_) => "ip6",
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let refuse = || CidrError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                (address, Some(prefix.parse::<u8>().ok().ok_or_else(refuse)?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok().ok_or_else(refuse)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest {
            return Err(refuse());
        }
        Ok(Self {
            network: network(address, prefix),
            prefix,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Clears the bits of `address` that `prefix` does not cover.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    #[test]
    fn blocks_lose_the_bits_outside_their_prefix() {
        let rows = [
            ("10.0.0.0/8", "10.0.0.0/8", "ip"),
            ("10.1.2.3/8", "10.0.0.0/8", "ip"),
            ("192.0.2.7", "192.0.2.7/32", "ip"),
            ("0.0.0.0/0", "0.0.0.0/0", "ip"),
            ("fd00::1/8", "fd00::/8", "ip6"),
            ("::1", "::1/128", "ip6"),
            ("2001:db8::/0", "::/0", "ip6"),
        ];
        for (text, printed, family) in rows {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(
                (cidr.to_string().as_str(), cidr.family()),
                (printed, family),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/8/8",
            "example.com",
            "10.0.0.0/-1",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?}");
        }
    }
}
