//! What a caller and our app are told beside the message itself: who called, that we drain, that nothing was processed.
//!
//! The caller's proxy reads and removes the marks (`outbound/verdict`); they are given to verified callers only.

use http::{HeaderValue, Response};
use tokio::time::Instant;
use weft_certs::identity::Identity;
use weft_certs::verify::Peer;

use super::Inbound;
use crate::cx::CallerHeaders;
use crate::exchange::Exchange;
use crate::http::body::Body;
use crate::http::headers;
use crate::reject::Reject;

impl Inbound {
    /// What a mesh caller is told beside the answer itself.
    pub(super) fn mark(&self, response: &mut Response<Body>, outcome: Option<Reject>) {
        if !self.cx.facts.secure {
            return;
        }
        if outcome.is_some_and(|reject| reject.row().unprocessed) {
            response
                .headers_mut()
                .insert(headers::UNPROCESSED, HeaderValue::from_static("1"));
        }
        if self.cx.worker.drain.begun() {
            self.told.set(true);
            response
                .headers_mut()
                .insert(headers::DRAINING, HeaderValue::from_static("1"));
        }
    }

    /// Our app may have failed because a call of its own did, which was tried as often as it may be.
    pub(super) fn mark_exhausted(&self, response: &mut Response<Body>, exchange: &Exchange) {
        let exhausted = self.cx.worker.policies.exhausted();
        if response.status().is_server_error()
            && exhausted.has(exchange.trace().trace_id, Instant::now())
        {
            let value = HeaderValue::from_static("1");
            response.headers_mut().insert(headers::EXHAUSTED, value);
        }
    }
}

/// `By=...;Hash=...;Subject="";URI=...`, Envoy's grammar.
pub(super) fn caller_headers(peer: &Peer, own: &Identity) -> Option<CallerHeaders> {
    let hash: String = peer
        .sha256
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let xfcc = format!(
        "By={};Hash={hash};Subject=\"\";URI={}",
        own.leaf.id(),
        peer.id
    );
    Some(CallerHeaders {
        xfcc: HeaderValue::from_str(&xfcc).ok()?,
        client_id: HeaderValue::from_str(peer.id.as_str()).ok()?,
    })
}
