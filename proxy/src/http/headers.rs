//! Headers that belong to one connection only, and headers that only the proxy may write.

use std::net::SocketAddr;

use http::header::{self, CONNECTION, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::malformed::Malformed;

/// Identity of the caller, as the receiving proxy verified it.
pub(crate) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The caller's SPIFFE ID alone.
pub(crate) const CLIENT_ID: HeaderName = HeaderName::from_static("x-weft-client-id");
/// Which rejection of `reject.rs` an answer is.
pub(crate) const REJECT: HeaderName = HeaderName::from_static("x-weft-reject");
/// Between proxies: nothing has processed this request; another endpoint may have it, whatever the method.
pub(crate) const UNPROCESSED: HeaderName = HeaderName::from_static("x-weft-unprocessed");
/// Between proxies: this endpoint is about to end; take it out.
pub(crate) const DRAINING: HeaderName = HeaderName::from_static("x-weft-draining");

/// Between proxies: the `Expect` beside it is the proxy's own. Its body waits for word that the app was reached, so that it can
/// still go elsewhere.
pub(crate) const HELD: HeaderName = HeaderName::from_static("x-weft-held");

/// A copy of a request whose answer nobody reads.
pub(crate) const MIRRORED: HeaderName = HeaderName::from_static("x-weft-mirrored");

/// In an answer: what may be tried again was; whoever repeats the call multiplies the load below.
pub(crate) const EXHAUSTED: HeaderName = HeaderName::from_static("x-weft-retry-exhausted");
/// In an answer that policy gives in place of the service's: why.
pub(crate) const FALLBACK: HeaderName = HeaderName::from_static("x-weft-fallback");
/// Asked with `1`: the answer says what decided.
pub(crate) const EXPLAIN: HeaderName = HeaderName::from_static("x-weft-explain");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers that `Connection` may not name away: with them gone, the next hop would judge another request.
const NOT_REMOVABLE: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "authorization",
    "cookie",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-client-cert",
    "x-weft-client-id",
    "traceparent",
    "forwarded",
];

/// What a mesh endpoint's answer may say of the endpoint.
pub(crate) static MARKS: [HeaderName; 2] = [UNPROCESSED, DRAINING];

/// What only a proxy may say to a proxy.
pub(crate) static OF_THE_MESH: [HeaderName; 4] = [REJECT, UNPROCESSED, DRAINING, EXPLAIN];

/// What an app or a caller may not say of who calls, or in the mesh's own words.
static NOT_FROM_OUTSIDE: [HeaderName; 6] = [XFCC, CLIENT_ID, REJECT, UNPROCESSED, DRAINING, HELD];

/// RFC 9110 section 7.6.1, and `http2-settings`, which belongs to an upgrade.
static HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];

/// What a trailer section may not say: framing, routing, request modifiers, authentication, content format (RFC 9110 section 6.5.1), what
/// belongs to one connection, and who calls. Whoever merges trailers into the headers would take it for said by us.
static NOT_IN_TRAILERS: [HeaderName; 31] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    TRAILER,
    HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CACHE_CONTROL,
    header::EXPECT,
    header::MAX_FORWARDS,
    header::RANGE,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::PROXY_AUTHENTICATE,
    header::COOKIE,
    header::SET_COOKIE,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    XFCC,
    CLIENT_ID,
    UNPROCESSED,
    DRAINING,
];

/// Removes from trailers what they may not say, in whichever direction they go.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_all(trailers, &NOT_IN_TRAILERS);
    remove_lookalikes(trailers, &NOT_FROM_OUTSIDE);
}

/// Whether any of `names` is there.
///
/// One look at each header: a message has few, and few of `names` are ever there, so this costs less than a hash for each
/// of them.
pub(crate) fn has_any(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    headers.keys().any(|name| names.contains(name))
}

/// Removes `names`, as a rule none of which is there.
pub(crate) fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    if has_any(headers, names) {
        for name in names {
            headers.remove(name);
        }
    }
}

/// Removes the headers by which proxies talk to each other, wherever an app could have written them.
pub(crate) fn strip_mesh(headers: &mut HeaderMap) {
    remove_all(headers, &OF_THE_MESH);
}

/// Removes what only this proxy may tell the next: who calls, and the words between proxies.
pub(crate) fn strip_outside(headers: &mut HeaderMap) {
    remove_all(headers, &NOT_FROM_OUTSIDE);
    remove_lookalikes(headers, &NOT_FROM_OUTSIDE);
}

/// Removes headers that apps which take `_` for `-` (CGI, WSGI, PHP) would read as one of `names`.
pub(crate) fn remove_lookalikes(headers: &mut HeaderMap, names: &[HeaderName]) {
    let has_one = |name: &HeaderName| memchr::memchr(b'_', name.as_str().as_bytes()).is_some();
    if names.is_empty() || !headers.keys().any(has_one) {
        return;
    }
    let is_copy = |name: &&HeaderName| {
        let plain = name.as_str().replace('_', "-");
        names
            .iter()
            .any(|own| own != *name && own.as_str().replace('_', "-") == plain)
    };
    let copies: Vec<HeaderName> = headers.keys().filter(is_copy).cloned().collect();
    for name in copies {
        headers.remove(name);
    }
}

/// HTTP/1.0 may leave Host out (RFC 9112 section 3.2); the next hop, to which we speak HTTP/1.1, may not.
pub(crate) fn add_host(headers: &mut HeaderMap, address: SocketAddr) {
    if !headers.contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(&address.to_string())
    {
        headers.insert(HOST, value);
    }
}

/// Removes what belongs to one connection only (RFC 9110 section 7.6.1). Upgrades are left to `upgrade`, which has looked
/// before.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if !has_any(headers, &HOP_BY_HOP) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        remove_named(headers);
    }
    let trailers = headers.contains_key(TE) && has_token(headers, &TE, "trailers");
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        // The one use of TE that every hop here can keep (section 10.1.4), and gRPC needs.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// "Intermediaries MUST parse a received Connection header field before a message is forwarded and, for each
/// connection-option in this field, remove any header or trailer field(s) from the message with the same name".
fn remove_named(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) else {
                continue;
            };
            let protected = NOT_REMOVABLE.contains(&name.as_str())
                || name == TE
                || name == TRAILER
                || name == UPGRADE;
            if !protected && headers.contains_key(&name) {
                named.push(name);
            }
        }
    }
    for name in named {
        headers.remove(name);
    }
}

/// Whether a comma list holds `token`, whatever the case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The Host header, if it is there, is there once, and is a host.
///
/// # Errors
/// More than one, or not `uri-host [ ":" port ]` (RFC 9110 section 7.2).
pub(crate) fn single_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Malformed> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return Ok(None);
    };
    if hosts.next().is_some() {
        return Err(Malformed::HostSeveral);
    }
    if !is_host(host.as_bytes()) {
        return Err(Malformed::HostInvalid);
    }
    Ok(Some(host))
}

/// A name or address with an optional port, and nothing that could end one (`/`, `@`, `,`, space).
fn is_host(bytes: &[u8]) -> bool {
    let (name, port) = match bytes {
        [b'[', ..] => match bytes.iter().position(|byte| *byte == b']') {
            Some(end) => bytes.split_at(end + 1),
            None => return false,
        },
        _ => bytes.split_at(
            bytes
                .iter()
                .position(|byte| *byte == b':')
                .unwrap_or(bytes.len()),
        ),
    };
    let in_brackets =
        |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'[' | b']' | b'%');
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte);
    let name_ok = match name {
        [] => false,
        [b'[', ..] => name.iter().all(in_brackets),
        _ => name.iter().all(in_name),
    };
    name_ok
        && match port {
            [] => true,
            [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        rows.iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_connection_names_is_removed_but_for_what_is_protected() {
        let mut map = headers(&[
            (
                "connection",
                "close, X-Hop, authorization, x-forwarded-client-cert",
            ),
            ("x-hop", "1"),
            ("authorization", "kept"),
            ("x-forwarded-client-cert", "kept"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers, deflate"),
            ("x-end", "kept"),
        ]);
        remove_hop_by_hop(&mut map);
        assert_eq!(
            map,
            headers(&[
                ("authorization", "kept"),
                ("x-forwarded-client-cert", "kept"),
                ("te", "trailers"),
                ("x-end", "kept"),
            ])
        );
    }

    #[test]
    fn what_an_app_could_take_for_our_word_is_removed() {
        let mut map = headers(&[
            ("x_weft_client_id", "spiffe://x/ns/a/sa/b"),
            ("x_forwarded-client_cert", "URI=spiffe://x/ns/a/sa/b"),
            ("x-forwarded-client-cert", "URI=spiffe://x/ns/a/sa/b"),
            ("x_own", "kept"),
        ]);
        strip_outside(&mut map);
        assert_eq!(map, headers(&[("x_own", "kept")]));
    }

    #[test]
    fn a_host_is_a_host() {
        for good in [
            "a",
            "a.b:80",
            "127.0.0.1",
            "[::1]:443",
            "a_b",
            "orders.shop.svc.cluster.local",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a,b", "a/b", "u@a", "a:80:81", "a:x", "[::1", "[::1]x", "a:123456",
            "a?b", "a#",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
