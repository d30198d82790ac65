//! By when a call must be answered, who says so, and how that travels from hop to hop.
//!
//! What travels is the time that is left, not a time of day: clocks of hosts differ. gRPC has `grpc-timeout` for it, other
//! calls `x-weft-deadline` in milliseconds, which only mesh proxies and their own apps read and write. A deadline is
//! shortened at each hop by the time that hop took; it never grows.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, request};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use crate::http::body::{Body, BodyError, Frame};
use crate::http::grpc;
use crate::http::headers::{REJECT, has_any};
use crate::reject::Reject;

/// Milliseconds that are left to answer.
pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("x-weft-deadline");

/// When a call must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// What is said when it has passed: it names whose deadline it was.
    pub(crate) whose: Reject,
}

impl Deadline {
    /// The sooner of what the caller asks for and the `limit` of policy, for a request that came at `start`.
    pub(crate) fn of(headers: &HeaderMap, limit: Option<Duration>, start: Instant) -> Option<Self> {
        let asked = has_any(headers, &ASKS).then(|| asked(headers)).flatten();
        let asked = asked.map(|left| Self::after(start, left, Reject::Deadline));
        let limit = limit.map(|left| Self::after(start, left, Reject::RequestTimeout));
        sooner(asked, limit)
    }

    pub(crate) fn after(now: Instant, left: Duration, whose: Reject) -> Self {
        Self {
            at: now + left.min(LONGEST),
            whose,
        }
    }

    /// Whether a hop below gave up, with the answer of these `headers`, because of a limit that we set: our timer may be the later one.
    pub(crate) fn was_ours(&self, headers: &HeaderMap) -> bool {
        let gave_up = |label: &HeaderValue| *label == Reject::Deadline.label();
        self.whose != Reject::Deadline && headers.get(REJECT).is_some_and(gave_up)
    }

    /// The time that is left at `now`.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }
}

/// What `future` brings, if it does before `until`; it costs no timer where there is no deadline.
///
/// # Errors
/// What is said of the deadline.
pub(crate) async fn by<T>(
    until: Option<Deadline>,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Reject> {
    let Some(until) = until else {
        return Ok(future.await);
    };
    let mut timer = Box::pin(sleep_until(until.at));
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        timer.as_mut().poll(cx).map(|()| Err(until.whose))
    })
    .await
}

/// The answer to a gRPC call, which has until its deadline for its trailers too: then it gets them from here.
pub(crate) struct Until {
    body: Body,
    timer: Pin<Box<Sleep>>,
    ended: bool,
}

impl Until {
    pub(crate) fn new(body: Body, deadline: Deadline) -> Self {
        Self {
            body,
            timer: Box::pin(sleep_until(deadline.at)),
            ended: false,
        }
    }

    /// The next piece; `None` after the last.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = self.body.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.ended = true;
        // Resets the stream of the callee.
        self.body = Body::empty();
        Poll::Ready(Some(Ok(Frame::Trailers(Reject::Deadline.trailers()))))
    }
}

/// An answer that may not fall silent for longer than `timeout.idle`.
pub(crate) struct Idle {
    body: Body,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    pub(crate) fn new(body: Body, limit: Duration) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + limit));
        Self { body, limit, timer }
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
        if let Poll::Ready(frame) = self.body.poll_frame(cx) {
            self.timer.as_mut().reset(Instant::now() + self.limit);
            return Poll::Ready(frame);
        }
        let silent = self.timer.as_mut().poll(cx);
        silent.map(|()| Some(Err(BodyError::Idle)))
    }
}

/// The sooner one, the first if they are equal.
pub(crate) fn sooner(one: Option<Deadline>, other: Option<Deadline>) -> Option<Deadline> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.at < one.at { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// How long the caller says that it waits.
fn asked(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers.get(DEADLINE).and_then(parse);
    let grpc = grpc::timeout(headers).filter(|_| grpc::is_grpc(headers));
    match (millis, grpc) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A plain number of at most ten digits; anything else is no deadline.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let plain = (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let millis = plain.then(|| text.parse().ok()).flatten()?;
    Some(Duration::from_millis(millis))
}

/// Tells the next hop what is left: [`DEADLINE`], and `grpc-timeout` in a gRPC call.
pub(crate) fn tell(headers: &mut HeaderMap, left: Duration) {
    if grpc::is_grpc(headers) {
        headers.insert(grpc::TIMEOUT, grpc::timeout_value(left));
    }
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    headers.insert(DEADLINE, HeaderValue::from(millis));
}

/// The head for a next hop that is neither a mesh proxy nor our own app: headers of the mesh are not for strangers.
pub(crate) fn for_stranger(head: &request::Parts) -> Box<request::Parts> {
    let mut head = Box::new(head.clone());
    head.headers.remove(DEADLINE);
    head
}

/// Headers that ask for an answer in time.
static ASKS: [HeaderName; 2] = [DEADLINE, grpc::TIMEOUT];
/// Longer is no deadline anybody will see; it keeps the sum in range.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;

    fn map(rows: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = rows.iter();
        pairs
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_deadline_is_a_plain_number_of_milliseconds() {
        let rows = [
            ("250", Some(250)),
            ("0", Some(0)),
            ("9999999999", Some(9_999_999_999)),
            ("", None),
            ("-1", None),
            ("1s", None),
            ("+5", None),
            ("99999999999", None),
        ];
        for (text, want) in rows {
            let got = asked(&map(&[(DEADLINE, text)]));
            assert_eq!(got, want.map(Duration::from_millis), "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_sooner_one_counts_and_names_itself() {
        let ms = Duration::from_millis;
        let grpc = (CONTENT_TYPE, "application/grpc");
        let rows = [
            ("none", vec![], None, None),
            (
                "policy",
                vec![],
                Some(50),
                Some((50, Reject::RequestTimeout)),
            ),
            (
                "caller",
                vec![(DEADLINE, "20")],
                Some(50),
                Some((20, Reject::Deadline)),
            ),
            (
                "policy first",
                vec![(DEADLINE, "80")],
                Some(50),
                Some((50, Reject::RequestTimeout)),
            ),
            (
                "gRPC",
                vec![grpc.clone(), (grpc::TIMEOUT, "30m")],
                None,
                Some((30, Reject::Deadline)),
            ),
            (
                "both",
                vec![grpc, (grpc::TIMEOUT, "30m"), (DEADLINE, "10")],
                None,
                Some((10, Reject::Deadline)),
            ),
            ("not gRPC", vec![(grpc::TIMEOUT, "30m")], None, None),
        ];
        for (name, headers, limit, want) in rows {
            let got = Deadline::of(&map(&headers), limit.map(ms), Instant::now());
            let want = want.map(|(left, whose)| Deadline::after(Instant::now(), ms(left), whose));
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn strangers_get_no_header_of_the_mesh() {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.headers = map(&[(CONTENT_TYPE, "application/grpc"), (DEADLINE, "20")]);
        tell(&mut head.headers, Duration::from_millis(15));
        assert_eq!(head.headers[DEADLINE], "15");
        assert_eq!(head.headers[grpc::TIMEOUT], "15000u");
        let head = for_stranger(&head);
        assert_eq!(head.headers[grpc::TIMEOUT], "15000u");
        assert!(!head.headers.contains_key(DEADLINE));
    }
}
