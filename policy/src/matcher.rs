//! What a request must look like: paths, methods, hosts, headers, query.
//!
//! Compared with what the proxy has normalised and will forward, never with what came in.

use http::{HeaderName, Method};

pub use self::host::HostPattern;
pub use self::path::{Captures, PathPattern};
pub use self::value::ValueMatch;

mod host;
mod path;
mod value;

/// Conditions on a request; an empty list does not constrain, several values of one list are alternatives, and all lists must hold.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RequestMatch {
    /// Paths without query.
    pub paths: Vec<PathPattern>,
    /// Methods, compared exactly (RFC 9110 section 9.1: "The method token is case-sensitive").
    pub methods: Vec<Method>,
    /// Hosts without port.
    pub hosts: Vec<HostPattern>,
    /// Headers: each must match.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters, after percent-decoding: each must match.
    pub query: Vec<(String, ValueMatch)>,
}

impl RequestMatch {
    /// Whether every request matches.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.paths.is_empty()
            && self.methods.is_empty()
            && self.hosts.is_empty()
            && self.headers.is_empty()
            && self.query.is_empty()
    }
}
