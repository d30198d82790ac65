//! A port or a range of ports, as an argument names it and as nftables matches it.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// The ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange {
    first: u16,
    last: u16,
}

/// A text that is neither `8080` nor `9000-9100`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a port (8080) or a range of ports (9000-9100)")]
pub(super) struct PortRangeError(String);

impl PortRange {
    /// One port.
    pub(super) const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let refuse = || PortRangeError(text.to_owned());
        let port = |text: &str| {
            text.parse::<NonZeroU16>()
                .ok()
                .map(NonZeroU16::get)
                .ok_or_else(refuse)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: port(first)?,
            last: port(last)?,
        };
        if range.first > range.last {
            Err(refuse())
        } else {
            Ok(range)
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PortRange;

    #[test]
    fn ports_and_ranges_are_read_and_printed_alike() {
        for text in ["1", "8080", "9000-9100", "65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        assert_eq!("80-80".parse::<PortRange>().unwrap().to_string(), "80");
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "-1",
            "80-",
            "90-80",
            "80-90-100",
            "http",
            " 80",
            "80;drop",
        ] {
            assert!(text.parse::<PortRange>().is_err(), "{text:?}");
        }
    }
}
