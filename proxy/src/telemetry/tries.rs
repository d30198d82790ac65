//! The attempts at one sampled request: once there is a second one, each is a span of its own.
//!
//! Nothing is done here for a request that is not sampled. The first attempt is sent with the request's own span as its
//! parent; a further one gets a span of its own, so that a next hop hangs under the attempt that reached it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{StatusCode, request};
use tokio::time::Instant;
use weft_policy::spiffe::SpiffeId;

use super::record::TraceContext;
use crate::filter::trace;

/// One attempt, as its span tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) span_id: [u8; 8],
    pub(crate) start: Instant,
    /// Until the head of its answer, or its failure.
    pub(crate) duration: Duration,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) status: Option<StatusCode>,
    /// A fixed word: why it failed.
    pub(crate) failed: Option<&'static str>,
}

/// The attempts at one request so far.
#[derive(Debug)]
pub(crate) struct Tries {
    trace: TraceContext,
    /// Without the latest, so that a request with one attempt allocates nothing.
    earlier: Vec<Try>,
    latest: Option<Try>,
}

impl Tries {
    /// None so far.
    pub(crate) fn of(trace: TraceContext) -> Self {
        Self {
            trace,
            earlier: Vec::new(),
            latest: None,
        }
    }

    /// Begins an attempt; gives the head to send where it is not `head` itself.
    pub(crate) fn begin(&mut self, head: &request::Parts) -> Option<request::Parts> {
        if !self.trace.sampled {
            return None;
        }
        let before = self.latest.take();
        let own = before.is_some().then(|| self.trace.sibling());
        self.earlier.extend(before);
        self.latest = Some(Try {
            span_id: own.unwrap_or(self.trace).span_id,
            start: Instant::now(),
            duration: Duration::ZERO,
            endpoint: None,
            peer: None,
            status: None,
            failed: Some(GIVEN_UP),
        });
        own.map(|own| {
            let mut head = head.clone();
            trace::rewrite(&mut head.headers, &own);
            head
        })
    }

    /// Whom the latest attempt goes to.
    pub(crate) fn to(&mut self, endpoint: SocketAddr, peer: Option<&SpiffeId>) {
        if let Some(latest) = &mut self.latest {
            latest.endpoint = Some(endpoint);
            latest.peer = peer.cloned();
        }
    }

    /// What the latest attempt brought.
    pub(crate) fn end(&mut self, status: Option<StatusCode>, failed: Option<&'static str>) {
        if let Some(latest) = &mut self.latest {
            latest.duration = latest.start.elapsed();
            (latest.status, latest.failed) = (status, failed);
        }
    }

    /// All attempts, where there was more than one.
    pub(crate) fn into_all(self) -> Vec<Try> {
        let mut all = self.earlier;
        if !all.is_empty() {
            all.extend(self.latest);
        }
        all
    }
}

/// Of an attempt that nobody waited for any longer.
const GIVEN_UP: &str = "given_up";

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn trace(sampled: bool) -> TraceContext {
        TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            parent_id: Some([3; 8]),
            sampled,
        }
    }

    /// As the trace filter leaves it.
    fn head() -> request::Parts {
        Request::get("http://orders/")
            .header("traceparent", "of the request as a whole")
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    #[tokio::test]
    async fn one_attempt_is_the_request_itself() {
        let mut tries = Tries::of(trace(true));
        assert!(tries.begin(&head()).is_none());
        tries.end(Some(StatusCode::OK), None);
        assert!(tries.into_all().is_empty());
    }

    #[tokio::test]
    async fn a_further_attempt_has_a_span_of_its_own() {
        let mut tries = Tries::of(trace(true));
        assert!(tries.begin(&head()).is_none());
        tries.end(None, Some("connect"));
        let second = tries.begin(&head()).unwrap();
        tries.to("10.0.0.9:80".parse().unwrap(), None);
        let sent = second.headers["traceparent"].to_str().unwrap().to_owned();
        let all = tries.into_all();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].span_id, all[0].failed), ([2; 8], Some("connect")));
        assert_ne!(all[1].span_id, [2; 8]);
        assert_eq!(all[1].failed, Some(GIVEN_UP), "nobody has told its end");
        let id: String = all[1]
            .span_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(sent, format!("00-{}-{id}-01", "01".repeat(16)));
    }

    #[tokio::test]
    async fn what_is_not_sampled_keeps_its_head() {
        let mut tries = Tries::of(trace(false));
        assert!(tries.begin(&head()).is_none() && tries.begin(&head()).is_none());
        assert!(tries.into_all().is_empty());
    }
}
