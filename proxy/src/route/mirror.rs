//! `mirror`: a copy of requests, sent and forgotten.
//!
//! The original never waits for it and never hears of it. A copy is sent when the whole request has passed, so only bodies
//! that fit into memory are copied, and so many copies run at a time: what is beyond that is counted and left out. Nothing
//! that a copy meets counts for the service: no breaker, no budget, no latency.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::UPGRADE;
use http::{HeaderValue, Request, Response, request};
use tokio::time::{Duration, Instant, timeout};
use weft_policy::units::Share;

use super::split::Part;
use crate::balance::{self, Wish};
use crate::cx::{Cx, Worker};
use crate::egress;
use crate::forward::{self, Sent};
use crate::http::body::{Body, BodyError, Frame, Source};
use crate::http::headers::MIRRORED;
use crate::http::interim::Interim;
use crate::outbound;
use crate::pool::Key;
use crate::retry::Attempt;

/// Where copies go, and how many.
pub(super) struct Mirror {
    to: Arc<Part>,
    share: Share,
    turns: AtomicU64,
    running: Arc<AtomicU32>,
}

impl Mirror {
    pub(super) fn new(mirror: &weft_policy::route::Mirror, namespace: &str) -> Self {
        Self {
            to: Arc::new(Part::new(&mirror.service, namespace)),
            share: mirror.share,
            turns: AtomicU64::new(0),
            running: Arc::default(),
        }
    }

    /// Arranges for a copy of `request`, if it is its turn.
    pub(super) fn copy(&self, cx: &Cx, port: u16, request: &mut Request<Body>) {
        let headers = request.headers();
        // A copy of a copy would have no end where services mirror each other.
        if headers.contains_key(UPGRADE) || headers.contains_key(MIRRORED) || !self.is_due() {
            return;
        }
        let metrics = cx.worker.telemetry.metrics();
        if request
            .body()
            .length()
            .is_some_and(|length| length > MAX_BODY)
        {
            return metrics.mirrored("too_large");
        }
        let Some(running) = Running::begin(&self.running) else {
            return metrics.mirrored("too_many");
        };
        let copy = Copy {
            head: marked(request),
            to: Arc::clone(&self.to),
            port,
            worker: Rc::clone(&cx.worker),
            _running: running,
        };
        let body = std::mem::replace(request.body_mut(), Body::empty());
        *request.body_mut() = if body.is_end() {
            copy.send(Vec::new());
            body
        } else {
            Source::Tee(Box::new(Tee::new(body, copy))).into()
        };
    }

    /// Copies are spread evenly over the requests.
    fn is_due(&self) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let share = u64::from(self.share.millionths());
        let copies = |turns: u64| turns.wrapping_mul(share) / u64::from(Share::ALL.millionths());
        copies(turn + 1) > copies(turn)
    }
}

/// The head of a copy.
fn marked(request: &Request<Body>) -> request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    let mark = HeaderValue::from_static("1");
    copy.headers_mut().insert(MIRRORED, mark);
    copy.into_parts().0
}

/// One of the copies that run.
struct Running(Arc<AtomicU32>);

impl Running {
    fn begin(running: &Arc<AtomicU32>) -> Option<Self> {
        let more = |count| (count < MAX_RUNNING).then_some(count + 1);
        let begun = running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        begun.ok().map(|_before| Self(Arc::clone(running)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A copy that waits for its body.
struct Copy {
    head: request::Parts,
    to: Arc<Part>,
    port: u16,
    worker: Rc<Worker>,
    _running: Running,
}

impl Copy {
    /// Sends it in a task of its own.
    fn send(self, body: Vec<Bytes>) {
        let tasks = self.worker.tasks.clone();
        drop(tasks.spawn_local(async move {
            let sent = timeout(MAX_TIME, self.deliver(body.concat().into())).await;
            let result = match sent {
                Ok(Some(())) => "ok",
                Ok(None) | Err(_) => "failed",
            };
            self.worker.telemetry.metrics().mirrored(result);
        }));
    }

    /// `None` if there was no answer.
    async fn deliver(&self, body: Bytes) -> Option<()> {
        let worker = &self.worker;
        let service = self.to.find(&worker.discovery, self.port).await?;
        egress::check_service(&worker.policies.current().policy.egress, &service).ok()?;
        for fresh in [false, true] {
            let policy = worker.policies.current();
            let calls = &policy.calls(&service.name).calls;
            let wish = Wish {
                balance: &calls.balance,
                breaker: &calls.breaker,
                key: None,
                avoid: &[],
                now: Instant::now(),
            };
            let picked = balance::pick(&service, &wish)?;
            let lane = worker.pool.lane(Key::Endpoint(picked.id), || {
                outbound::lane::endpoint_target(&service.name, &picked)
            });
            let attempt = Attempt {
                head: &self.head,
                body: body.clone().into(),
                fresh,
                avoid: &[],
                until: None,
            };
            match forward::send(&lane, attempt, &Interim::None, worker, &Cell::default()).await {
                Sent::Answer(answer) => return discard(answer).await,
                Sent::Failed(failed) if failed.reused => {}
                Sent::Failed(_) | Sent::NotConnected(_) => return None,
            }
        }
        None
    }
}

/// Reads an answer that nobody wants, so that its connection can be used again.
async fn discard(answer: Response<Body>) -> Option<()> {
    let mut body = answer.into_body();
    let mut left = MAX_ANSWER;
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        if let Frame::Data(data) = frame.ok()? {
            left = left.checked_sub(data.len())?;
        }
    }
    Some(())
}

/// A request's body, of which a copy is kept as it passes.
pub(crate) struct Tee {
    body: Body,
    pieces: Vec<Bytes>,
    size: u64,
    /// Until it is sent or given up.
    copy: Option<Copy>,
}

impl Tee {
    fn new(body: Body, copy: Copy) -> Self {
        Self {
            body,
            pieces: Vec::new(),
            size: 0,
            copy: Some(copy),
        }
    }

    /// The bytes still to come, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.length()
    }

    /// The next piece; `None` after the last.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = ready!(self.body.poll_frame(cx));
        match &frame {
            Some(Ok(Frame::Data(data))) => self.keep(data),
            // Trailers of requests say nothing that a copy needs.
            Some(Ok(Frame::Trailers(_))) | None => self.finish(),
            Some(Err(_)) => self.copy = None,
        }
        if self.body.is_end() {
            self.finish();
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, data: &Bytes) {
        self.size += data.len() as u64;
        if self.size <= MAX_BODY {
            self.pieces.push(data.clone());
        } else if let Some(copy) = self.copy.take() {
            self.pieces = Vec::new();
            copy.worker.telemetry.metrics().mirrored("too_large");
        }
    }

    fn finish(&mut self) {
        if let Some(copy) = self.copy.take() {
            copy.send(std::mem::take(&mut self.pieces));
        }
    }
}

/// Bytes of a body that are copied at most.
const MAX_BODY: u64 = 64 * 1024;

/// Copies of one route that run at a time, in the whole proxy.
const MAX_RUNNING: u32 = 100;

/// How long one may take.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read; then its connection is closed.
const MAX_ANSWER: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use weft_policy::route::ServiceRef;
    use weft_policy::units::parse_share;

    use super::*;

    fn mirror(share: &str) -> Mirror {
        let service = ServiceRef {
            name: "shadow".to_owned(),
            namespace: None,
            port: None,
        };
        let share = parse_share(share).unwrap();
        Mirror::new(&weft_policy::route::Mirror { service, share }, "shop")
    }

    #[test]
    fn a_share_of_requests_is_copied_exactly() {
        for (share, want) in [
            ("0%", 0),
            ("0.1%", 1),
            ("10%", 100),
            ("33%", 330),
            ("100%", 1_000),
        ] {
            let mirror = mirror(share);
            let copies = (0..1_000).filter(|_| mirror.is_due()).count();
            assert_eq!(copies, want, "{share}");
        }
    }

    #[test]
    fn copies_are_bounded_in_number() {
        let mirror = mirror("100%");
        let running: Vec<_> = (0..MAX_RUNNING + 10)
            .filter_map(|_| Running::begin(&mirror.running))
            .collect();
        assert_eq!(running.len(), MAX_RUNNING as usize);
        drop(running);
        assert!(Running::begin(&mirror.running).is_some());
    }
}
