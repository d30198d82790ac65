//! gRPC over HTTP/2: who is a gRPC caller, and what a status is called.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};

/// `grpc-status`, in trailers or in a trailers-only answer.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`, percent-encoded.
pub(crate) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

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
}
