//! gRPC over HTTP/2: who is a gRPC caller, and what a status is called.

pub(crate) mod messages;

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// `grpc-status`, in trailers or in a trailers-only answer.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`, percent-encoded.
pub(crate) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// `grpc-timeout`: how long the caller waits.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const PUSH_BACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether a request is gRPC: `"application/grpc" [("+proto" / "+json" / {custom})]` (gRPC PROTOCOL-HTTP2, Requests).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The status code of trailers or of a trailers-only answer.
pub(crate) fn status(headers: &HeaderMap) -> Option<u16> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// How long the caller waits: `"grpc-timeout" TimeoutValue TimeoutUnit`, at most eight digits and one letter
/// (gRPC PROTOCOL-HTTP2, Requests).
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if value.len() > 8 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = value.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Writes how long a callee has: in the finest unit that eight digits hold, rounded down.
pub(crate) fn timeout_value(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let seconds = u128::from(left.as_secs());
    let units = [
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
    ];
    let fits = units.into_iter().find(|(count, _)| *count <= MOST);
    let (count, unit) = fits.unwrap_or(((seconds / 3600).min(MOST), 'H'));
    let text = format!("{count}{unit}");
    HeaderValue::try_from(text).unwrap_or_else(|_never| HeaderValue::from_static("0u"))
}

/// Asks a gRPC caller to wait before it tries again (gRFC A6, Pushback); nothing in an answer to somebody else.
pub(crate) fn push_back(headers: &mut HeaderMap, millis: u64) {
    if headers.contains_key(STATUS) {
        headers.insert(PUSH_BACK, HeaderValue::from(millis));
    }
}

/// What an HTTP status is to a gRPC caller (gRPC, HTTP to gRPC Status Code Mapping).
pub(crate) fn code_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// What a gRPC code is to an HTTP caller (google.rpc.Code, HTTP Mapping).
pub(crate) fn status_of(code: u8) -> StatusCode {
    let status = match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Percent-encodes a message (gRPC PROTOCOL-HTTP2, Status-Message).
pub(crate) fn encode_message(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let rows = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ];
        for (value, want) in rows {
            let headers: HeaderMap = [(CONTENT_TYPE, value.parse().unwrap())]
                .into_iter()
                .collect();
            assert_eq!(is_grpc(&headers), want, "{value}");
        }
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        let rows = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("200m", Some(Duration::from_millis(200))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1", None),
        ];
        for (value, want) in rows {
            let headers: HeaderMap = [(TIMEOUT, value.parse().unwrap())].into_iter().collect();
            assert_eq!(timeout(&headers), want, "{value:?}");
        }
    }
}
