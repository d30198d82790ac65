//! Whether a request is one that a rule speaks of, for rules that grant nothing: limits, faults, routes.
//!
//! Where a header or a parameter is there more than once, one value that fits is enough. Not for authorization, which must
//! also refuse what cannot be read.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderName, Request};
use weft_policy::matcher::{RequestMatch, ValueMatch};

use crate::http::readings::Readings;

/// Whether all conditions of `wanted` hold.
pub(crate) fn matches<B>(wanted: &RequestMatch, request: &Request<B>) -> bool {
    wanted.is_any()
        || (method(wanted, request)
            && path(wanted, request)
            && host(wanted, request)
            && wanted
                .headers
                .iter()
                .all(|(name, value)| header(name, value, request))
            && wanted
                .query
                .iter()
                .all(|(name, value)| query(name, value, request)))
}

/// Whether all conditions of `wanted` hold, the path's for any of its readings: what an app takes for the same path is one to a limit.
pub(crate) fn matches_any_reading<B>(wanted: &RequestMatch, request: &Request<B>) -> bool {
    if matches(wanted, request) {
        return true;
    }
    if wanted.paths.is_empty() {
        return false;
    }
    let beside_path = RequestMatch {
        paths: Vec::new(),
        ..wanted.clone()
    };
    let fits = |path: &str| wanted.paths.iter().any(|pattern| pattern.matches(path));
    Readings::of(request.uri().path()).any(fits) && matches(&beside_path, request)
}

fn method<B>(wanted: &RequestMatch, request: &Request<B>) -> bool {
    wanted.methods.is_empty() || wanted.methods.contains(request.method())
}

fn path<B>(wanted: &RequestMatch, request: &Request<B>) -> bool {
    let path = request.uri().path();
    wanted.paths.is_empty() || wanted.paths.iter().any(|pattern| pattern.matches(path))
}

fn host<B>(wanted: &RequestMatch, request: &Request<B>) -> bool {
    if wanted.hosts.is_empty() {
        return true;
    }
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.map(without_port);
    host.is_some_and(|host| wanted.hosts.iter().any(|pattern| pattern.matches(host)))
}

/// `orders:80` is `orders`, `[::1]:80` is `[::1]`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn header<B>(name: &HeaderName, wanted: &ValueMatch, request: &Request<B>) -> bool {
    let mut values = request.headers().get_all(name).iter().peekable();
    if wanted.is_about_presence() || values.peek().is_none() {
        return wanted.matches(values.peek().map(|_there| ""));
    }
    values.any(|value| {
        std::str::from_utf8(value.as_bytes()).is_ok_and(|value| wanted.matches(Some(value)))
    })
}

fn query<B>(name: &str, wanted: &ValueMatch, request: &Request<B>) -> bool {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs
        .filter(|(key, _)| !name.is_empty() && decoded(key) == name)
        .peekable();
    if values.peek().is_none() {
        return wanted.matches(None);
    }
    values.any(|(_, value)| wanted.matches(Some(&decoded(value))))
}

/// As `application/x-www-form-urlencoded` is read (WHATWG URL, section 5.1).
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'+', after) => (b' ', after),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', rest.get(1..).unwrap_or_default()),
            },
            (byte, after) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Whether `value` is what it must be; `None` is a value that is not there.
pub(crate) fn fits(wanted: &ValueMatch, value: Option<&str>) -> bool {
    wanted.matches(value)
}

#[cfg(test)]
mod tests {
    use weft_policy::matcher::{HostPattern, PathPattern};

    use super::*;

    fn request() -> Request<()> {
        let request = Request::post("/users/1?a=1&b=x%20y+z&a=2&flag")
            .header(HOST, "Orders.shop:80")
            .header("x-two", "1")
            .header("x-two", "2")
            .header("x-odd", &b"\xff"[..]);
        request.body(()).unwrap()
    }

    fn value(text: &str) -> ValueMatch {
        ValueMatch::parse(text).unwrap()
    }

    #[test]
    fn all_conditions_must_hold_and_of_each_one_value() {
        let path = |text: &str| RequestMatch {
            paths: vec![PathPattern::parse(text).unwrap()],
            ..RequestMatch::default()
        };
        let host = |text: &str| RequestMatch {
            hosts: vec![HostPattern::parse(text).unwrap()],
            ..RequestMatch::default()
        };
        let header = |name: &'static str, text: &str| RequestMatch {
            headers: vec![(HeaderName::from_static(name), value(text))],
            ..RequestMatch::default()
        };
        let query = |name: &str, text: &str| RequestMatch {
            query: vec![(name.to_owned(), value(text))],
            ..RequestMatch::default()
        };
        let absent = |name: &'static str| RequestMatch {
            headers: vec![(HeaderName::from_static(name), ValueMatch::Absent)],
            ..RequestMatch::default()
        };
        let method = |method| RequestMatch {
            methods: vec![method],
            ..RequestMatch::default()
        };
        let rows = [
            ("anything", RequestMatch::default(), true),
            ("method", method(http::Method::POST), true),
            ("another method", method(http::Method::GET), false),
            ("path", path("/users/{id}"), true),
            ("another path", path("/orders/*"), false),
            ("host without port and case", host("orders.shop"), true),
            ("another host", host("*.orders.shop"), false),
            ("second value", header("x-two", "2"), true),
            ("no value", header("x-two", "3"), false),
            ("there, though unreadable", header("x-odd", "*"), true),
            ("unreadable", header("x-odd", "regex:.*"), false),
            ("not there", header("x-none", "regex:.*"), false),
            ("absent", absent("x-none"), true),
            ("not absent", absent("x-two"), false),
            ("parameter", query("a", "2"), true),
            ("decoded parameter", query("b", "x y z"), true),
            ("parameter without value", query("flag", "*"), true),
            ("no parameter", query("c", "*"), false),
        ];
        for (name, wanted, want) in rows {
            assert_eq!(matches(&wanted, &request()), want, "{name}");
        }
        let both = RequestMatch {
            methods: vec![http::Method::GET],
            ..path("/users/*")
        };
        assert!(!matches(&both, &request()));
    }

    #[test]
    fn a_limit_on_a_path_is_one_on_what_apps_take_for_it() {
        let wanted = RequestMatch {
            paths: vec![PathPattern::parse("/login").unwrap()],
            ..RequestMatch::default()
        };
        let rows = [
            ("/login", true),
            ("//login", true),
            ("/login;x=1", true),
            ("/a/..%2flogin", true),
            ("/logins", false),
        ];
        for (path, want) in rows {
            let request = Request::get(path).body(()).unwrap();
            assert_eq!(matches_any_reading(&wanted, &request), want, "{path}");
        }
    }
}
