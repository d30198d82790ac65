//! Connections that stop speaking HTTP: 101 Switching Protocols (RFC 9110 section 7.8) and CONNECT (section 9.3.6).

use std::fmt;

use bytes::{BufMut, BytesMut};
#[cfg(test)]
use http::HeaderName;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, response};
use tokio::time::Duration;

use super::h1::conn::Conn;
use super::h1::encode::{self, Asked};
use super::headers::{has_token, remove_hop_by_hop};
use crate::exchange::Exchange;
use crate::http::body::Body;
use crate::tcp;

/// The far end of a tunnel, and the exchange that ends with it.
pub(crate) struct Upgraded {
    conn: Conn,
    pub(crate) exchange: Option<Box<Exchange>>,
    /// After how long a silence it ends, if policy says so.
    pub(crate) idle: Option<Duration>,
}

impl Upgraded {
    pub(crate) fn new(conn: Conn) -> Self {
        Self {
            conn,
            exchange: None,
            idle: None,
        }
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded")
            .field("conn", &self.conn)
            .finish_non_exhaustive()
    }
}

/// Removes hop-by-hop headers but keeps an upgrade that we can carry; tells which.
///
/// `h2c` is never kept: it would let requests past us that we have not seen (the h2c smuggling of 2020).
pub(crate) fn prepare(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut offers = headers.get_all(UPGRADE).iter();
    let wanted = offers
        .next()
        .filter(|_| has_token(headers, &CONNECTION, "upgrade"))
        .cloned();
    let one = offers.next().is_none();
    remove_hop_by_hop(headers);
    let wanted = wanted.filter(|value| one && !offers_h2c(value))?;
    put(headers, wanted.clone());
    Some(wanted)
}

/// Whether an answer switches to what was `offered`, and to nothing else.
///
/// RFC 9110 section 7.8: "A server MUST NOT switch to a protocol that was not indicated by the client in the corresponding
/// request's Upgrade header field."
pub(super) fn is_among(answer: &HeaderMap, offered: &HeaderValue) -> bool {
    let mut chosen = answer
        .get_all(UPGRADE)
        .iter()
        .flat_map(protocols)
        .peekable();
    chosen.peek().is_some()
        && chosen.all(|one| protocols(offered).any(|other| one.eq_ignore_ascii_case(other)))
}

fn protocols(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
}

/// Whether `h2c` is among the protocols of an Upgrade header, each `name [ "/" version ]` (RFC 9110 section 7.8).
fn offers_h2c(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|byte| matches!(byte, b',' | b'/'))
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

/// Marks a message as one that switches protocols.
pub(crate) fn put(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Writes the head of the answer that switches; it has no framing of its own.
pub(super) fn put_head(out: &mut BytesMut, head: &response::Parts, asked: Asked<'_>) {
    if head.status.is_informational() {
        encode::interim(out, head.status, &head.headers);
    } else {
        let mut plain = BytesMut::new();
        let _coding = encode::response(&mut plain, head, &Body::empty(), asked);
        // RFC 9110 section 9.3.6: no Content-Length or Transfer-Encoding in a successful answer to CONNECT.
        out.put_slice(&without_length(&plain));
    }
}

fn without_length(head: &[u8]) -> Vec<u8> {
    const LINE: &[u8] = b"content-length: 0\r\n";
    match head.windows(LINE.len()).position(|window| window == LINE) {
        Some(at) => [
            head.get(..at).unwrap_or_default(),
            head.get(at + LINE.len()..).unwrap_or_default(),
        ]
        .concat(),
        None => head.to_vec(),
    }
}

/// Copies both ways until both have ended.
pub(crate) async fn run(downstream: Conn, upgraded: Upgraded, idle: Duration) {
    let Upgraded {
        conn,
        exchange,
        idle: own,
    } = upgraded;
    let (down, down_input, _none) = downstream.into_parts();
    let (up, up_input, _open) = conn.into_parts();
    let copied = tcp::forward(
        tcp::End::new(down, down_input),
        tcp::End::new(up, up_input),
        own.unwrap_or(idle),
    )
    .await;
    if let Some(mut exchange) = exchange {
        exchange.tunnelled(copied.sent, copied.received);
    }
}

/// Headers of a WebSocket handshake that must survive.
#[cfg(test)]
const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_upgrade_survives_and_h2c_does_not() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(KEY, HeaderValue::from_static("x"));
        assert!(prepare(&mut headers).is_some());
        assert_eq!(
            (headers.len(), &headers[CONNECTION]),
            (3, &HeaderValue::from_static("upgrade"))
        );

        for offer in ["h2c", "H2C", "websocket, h2c", "h2c,websocket", "h2c/1"] {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(offer));
            assert!(prepare(&mut headers).is_none(), "{offer}");
            assert!(!headers.contains_key(UPGRADE) && !headers.contains_key(CONNECTION));
        }
    }
}
