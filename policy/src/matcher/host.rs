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
    /// Whether `host`, without port, is meant; letters compare without case (RFC 9110 section 4.2.3).
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let Some(front) = host.len().checked_sub(self.name.len()) else {
            return false;
        };
        let end = host.as_bytes().get(front..).unwrap_or_default();
        end.eq_ignore_ascii_case(self.name.as_bytes()) && (front > 0) == self.wildcard
    }
}
