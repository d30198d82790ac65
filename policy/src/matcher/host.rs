//! Host patterns: `orders.shop`, `*.example.com`.

/// A host name without port, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// Lower-case, without the leading `*` if there was one (`.example.com`).
    pub name: String,
    /// `*.example.com`: one or more labels stand in front.
    pub wildcard: bool,
}

impl HostPattern {
    /// Parses a host name, an address (IPv6 in brackets), or `*.` and a name.
    ///
    /// # Errors
    /// Says how a host is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, wildcard) = match text.strip_prefix('*') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let name = rest.strip_prefix('.').filter(|_| wildcard).unwrap_or(rest);
        if wildcard && name.len() == rest.len() {
            return Err("has a * that is not a whole first label; write *.example.com".to_owned());
        }
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let address = address.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        if !(is_host(name) || address && !wildcard) {
            return Err(match name.contains(':') {
                true => "is no host; write it without scheme and port".to_owned(),
                false => "is no host; write orders.shop or *.example.com".to_owned(),
            });
        }
        let name = rest.to_ascii_lowercase();
        Ok(Self { name, wildcard })
    }

    /// Whether `host`, without port, is meant; letters compare without case (RFC 9110 section 4.2.3).
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        // The root's dot says nothing more (RFC 1034 section 3.1).
        let host = host.strip_suffix('.').unwrap_or(host);
        let Some(front) = host.len().checked_sub(self.name.len()) else {
            return false;
        };
        let end = host.as_bytes().get(front..).unwrap_or_default();
        end.eq_ignore_ascii_case(self.name.as_bytes()) && (front > 0) == self.wildcard
    }
}

fn is_host(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(inner);
    name.len() <= 253 && name.split('.').all(label)
}
