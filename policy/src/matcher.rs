//! What a request must look like: paths, methods, hosts, headers, query.
//!
//! Compared with what the proxy has normalised and will forward, never with what came in.

use http::{HeaderName, Method};

use crate::headers::header_name;
use crate::problem::nearest;
use crate::read::At;

pub use self::host::HostPattern;
pub(crate) use self::path::placeholders;
pub use self::path::{Captures, PathPattern, PatternError};
pub use self::value::{Regex, ValueMatch};

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

impl RequestMatch {
    /// Reads a `match`; a text alone is its path.
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields_or("path", &["path", "method", "host", "headers", "query"]);
        Self {
            paths: fields.get("path").map(|at| paths(&at)).unwrap_or_default(),
            methods: fields
                .get("method")
                .map(|at| methods(&at))
                .unwrap_or_default(),
            hosts: fields.get("host").map(|at| hosts(&at)).unwrap_or_default(),
            headers: fields
                .get("headers")
                .map(|at| headers(&at))
                .unwrap_or_default(),
            query: fields.get("query").map(|at| query(&at)).unwrap_or_default(),
        }
    }
}

pub(crate) fn paths(at: &At<'_>) -> Vec<PathPattern> {
    at.texts(MAX_VALUES, PathPattern::parse)
}

pub(crate) fn methods(at: &At<'_>) -> Vec<Method> {
    at.some(MAX_VALUES, method)
}

pub(crate) fn hosts(at: &At<'_>) -> Vec<HostPattern> {
    at.some(MAX_VALUES, HostPattern::parse)
}

pub(crate) fn headers(at: &At<'_>) -> Vec<(HeaderName, ValueMatch)> {
    let entries = at.entries(MAX_NAMES).into_iter();
    let read =
        |(name, at): (&str, At<'_>)| Some((at.checked(header_name(name))?, ValueMatch::read(&at)?));
    entries.filter_map(read).collect()
}

fn query(at: &At<'_>) -> Vec<(String, ValueMatch)> {
    let entries = at.entries(MAX_NAMES).into_iter();
    let read = |(name, at): (&str, At<'_>)| Some((name.to_owned(), ValueMatch::read(&at)?));
    entries.filter_map(read).collect()
}

/// A method as it is sent: the known ones are upper-case, and `get` is another one than `GET` (RFC 9110 section 9.1).
fn method(text: &str) -> Result<Method, String> {
    let known = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let method = Method::from_bytes(text.as_bytes()).ok();
    if let Some(method) =
        method.filter(|method| !method.as_str().bytes().any(|c| c.is_ascii_lowercase()))
    {
        return Ok(method);
    }
    Err(match nearest(text, known) {
        Some(near) => format!("is no method; did you mean {near:?}?"),
        None => "is no method; write GET, POST, ...".to_owned(),
    })
}

const MAX_VALUES: usize = 256;
const MAX_NAMES: usize = 64;
