//! What a request shows to the rules, each thing with one reading or none.

use http::header::HOST;
use http::{HeaderMap, HeaderName, Method, Request};
use serde_json::Value;
use weft_policy::authz::Rule;
use weft_policy::matcher::ValueMatch;

use super::Looks;
use crate::filter::matches::fits;
use crate::http::body::Body;
use crate::http::readings::Readings;

/// Something that a rule looks at has no single reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// What the rules look at, read once a request.
pub(super) struct Facts<'a> {
    method: &'a Method,
    path: Option<Readings<'a>>,
    host: &'a str,
    headers: &'a HeaderMap,
    query: Vec<(String, String)>,
}

impl<'a> Facts<'a> {
    /// # Errors
    /// A path that is not text, a header or a query parameter that is there twice or is not text, or no host, where a rule looks at it.
    pub(super) fn of(request: &'a Request<Body>, looks: &Looks) -> Result<Self, Unreadable> {
        let path = looks.paths.then(|| Readings::of(request.uri().path()));
        if path.as_ref().is_some_and(|path| !path.are_text()) {
            return Err(Unreadable);
        }
        for name in &looks.headers {
            let mut values = request.headers().get_all(name).iter();
            let first = values.next();
            if values.next().is_some() || first.is_some_and(|value| text(value).is_none()) {
                return Err(Unreadable);
            }
        }
        Ok(Self {
            method: request.method(),
            path,
            host: if looks.hosts { host(request)? } else { "" },
            headers: request.headers(),
            query: if looks.query {
                query(request.uri().query().unwrap_or_default())?
            } else {
                Vec::new()
            },
        })
    }

    /// Whether all readings of the request are what `rule` allows.
    pub(super) fn match_allowed(&self, rule: &Rule) -> bool {
        let fits = |path: &str| {
            rule.request
                .paths
                .iter()
                .any(|pattern| pattern.matches(path))
        };
        let path =
            rule.request.paths.is_empty() || self.path.as_ref().is_some_and(|path| path.all(fits));
        path && self.matches_beside_path(rule)
    }

    /// Whether a reading of the request is what `rule` denies.
    pub(super) fn match_denied(&self, rule: &Rule) -> bool {
        let fits = |path: &str| {
            rule.request
                .paths
                .iter()
                .any(|pattern| pattern.matches(path))
        };
        let path =
            rule.request.paths.is_empty() || self.path.as_ref().is_none_or(|path| path.any(fits));
        path && self.matches_beside_path(rule)
    }

    fn matches_beside_path(&self, rule: &Rule) -> bool {
        let wanted = &rule.request;
        let method = wanted.methods.is_empty() || wanted.methods.contains(self.method);
        let host =
            wanted.hosts.is_empty() || wanted.hosts.iter().any(|host| host.matches(self.host));
        let headers = |(name, value): &(HeaderName, ValueMatch)| {
            fits(value, self.headers.get(name).and_then(text))
        };
        let query = |(name, value): &(String, ValueMatch)| {
            let found = self.query.iter().find(|(key, _)| key == name);
            fits(value, found.map(|(_, value)| value.as_str()))
        };
        method && host && wanted.headers.iter().all(headers) && wanted.query.iter().all(query)
    }
}

fn text(value: &http::HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// The host without port, and without the dot that a full name may end in. An IPv6 address has its brackets, as in a rule.
fn host(request: &Request<Body>) -> Result<&str, Unreadable> {
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request
            .headers()
            .get(HOST)
            .and_then(text)
            .ok_or(Unreadable)?,
    };
    let name = match host.rfind(']').filter(|_| host.starts_with('[')) {
        Some(end) => host.get(..=end).unwrap_or(host),
        None => host.split_once(':').map_or(host, |(name, _port)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.is_empty() || name.contains(['%', '@', ',']) {
        true => Err(Unreadable),
        false => Ok(name),
    }
}

/// The parameters, decoded, each there once.
fn query(text: &str) -> Result<Vec<(String, String)>, Unreadable> {
    let mut all: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if all.len() >= MAX_PARAMETERS || all.iter().any(|(known, _)| *known == name) {
            return Err(Unreadable);
        }
        all.push((name, value));
    }
    Ok(all)
}

/// `application/x-www-form-urlencoded` (URL standard section 5.1).
fn decode(text: &str) -> Result<String, Unreadable> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => hex(rest.next())? << 4 | hex(rest.next())?,
            other => other,
        });
    }
    String::from_utf8(out).or(Err(Unreadable))
}

fn hex(digit: Option<u8>) -> Result<u8, Unreadable> {
    let value = digit.and_then(|digit| char::from(digit).to_digit(16));
    let value = value.ok_or(Unreadable)?;
    u8::try_from(value).or(Err(Unreadable))
}

/// A claim of several values is any of them; so is a scope, whose values are words (RFC 8693 section 4.2).
///
/// # Errors
/// The claim has other values than texts, numbers and truths.
pub(super) fn claim_is_one_of(
    path: &str,
    value: &Value,
    wanted: &[String],
) -> Result<bool, Unreadable> {
    let is_wanted = |text: &str| wanted.iter().any(|one| one == text || one == "*");
    match value {
        Value::String(text) if matches!(path, "scope" | "scp") => {
            Ok(text.split(' ').any(is_wanted))
        }
        Value::String(text) => Ok(is_wanted(text)),
        Value::Number(number) => Ok(is_wanted(&number.to_string())),
        Value::Bool(truth) => Ok(is_wanted(if *truth { "true" } else { "false" })),
        Value::Array(items) => {
            let mut found = false;
            for item in items {
                match item {
                    Value::Array(_) | Value::Object(_) | Value::Null => return Err(Unreadable),
                    plain => found |= claim_is_one_of("", plain, wanted)?,
                }
            }
            Ok(found)
        }
        Value::Null | Value::Object(_) => Err(Unreadable),
    }
}

const MAX_PARAMETERS: usize = 128;
