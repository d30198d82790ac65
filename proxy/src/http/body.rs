//! The one body type of the data path.
//!
//! It hides whether bytes come from HTTP/1, HTTP/2, memory or the replay buffer, tells whoever made it how many passed
//! (`Watch`), and never collects them.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Duration;

use super::grpc::messages::Messages;
use super::h1;
use super::h2;
use super::malformed::Malformed;
use super::upgrade::Upgraded;
use crate::deadline::{Deadline, Idle, Until};
use crate::exchange::Exchange;
use crate::retry::replay::Replay;
use crate::route::mirror::Tee;

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Frame {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("connection failed inside the body")]
    Io(#[source] std::io::Error),
    #[error("connection ended inside the body")]
    Cut,
    #[error("malformed body")]
    Malformed(#[source] Malformed),
    #[error("stream failed inside the body")]
    Stream(#[source] ::h2::Error),
    #[error("body is larger than the limit")]
    TooLarge,
    #[error("nothing more of the body came in time")]
    Idle,
    #[error("body could not be kept for another attempt")]
    NotKept,
}

/// Where the bytes come from.
pub(crate) enum Source {
    Empty,
    Full(Bytes),
    Http1(h1::body::Incoming),
    Http2(h2::body::Incoming),
    Replay(Replay),
    Tee(Box<Tee>),
    Until(Box<Until>),
    Idle(Box<Idle>),
    /// No content: the connection speaks another protocol from here on.
    Upgraded(Box<Upgraded>),
}

/// A request's or an answer's content.
pub(crate) struct Body {
    source: Source,
    watch: Watch,
}

/// Who is told what passes.
#[derive(Default)]
enum Watch {
    #[default]
    Nobody,
    /// Counts the bytes of a request, and lets no more than `max` pass.
    Count { counted: Rc<Counted>, max: u64 },
    /// Counts the bytes of an answer, and ends the exchange with it.
    Exchange(Box<Exchange>),
}

/// What has passed of a request's body.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) bytes: Cell<u64>,
    /// `None` where it is no gRPC call's.
    messages: Option<Cell<Messages>>,
}

impl Counted {
    /// So many bytes, which were no messages.
    pub(crate) fn bytes(count: u64) -> Self {
        Self {
            bytes: Cell::new(count),
            messages: None,
        }
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.as_ref().map_or(0, |seen| seen.get().count())
    }

    fn see(&self, data: &[u8]) {
        self.bytes.set(self.bytes.get() + data.len() as u64);
        if let Some(messages) = &self.messages {
            let mut seen = messages.get();
            seen.see(data);
            messages.set(seen);
        }
    }
}

impl Body {
    /// A body without bytes.
    pub(crate) fn empty() -> Self {
        Source::Empty.into()
    }

    /// Counts the bytes of this request body, if it can have any, and its `messages` if it is a gRPC call's.
    pub(crate) fn count(&mut self, messages: Option<Messages>) -> Option<Rc<Counted>> {
        if matches!(self.source, Source::Empty) {
            return None;
        }
        let counted = Rc::new(Counted {
            bytes: Cell::new(0),
            messages: messages.map(Cell::new),
        });
        self.watch = Watch::Count {
            counted: Rc::clone(&counted),
            max: u64::MAX,
        };
        Some(counted)
    }

    /// Lets the server of an HTTP/2 stream see how this request body comes in, if there is one.
    pub(super) fn arrival(&mut self) -> Option<Rc<h2::body::Arrival>> {
        match &mut self.source {
            Source::Http2(body) => Some(body.arrival()),
            _ => None,
        }
    }

    /// Fails this request body, which is counted, at the first byte beyond `limit`.
    pub(crate) fn limit(&mut self, limit: u64) {
        if let Watch::Count { max, .. } = &mut self.watch {
            *max = limit;
        }
    }

    /// Ends `exchange` when this answer's body ends, however it does.
    pub(crate) fn end_with(&mut self, exchange: Box<Exchange>) {
        self.watch = Watch::Exchange(exchange);
    }

    /// Ends this answer, or the tunnel that it opens, after so long a silence.
    pub(crate) fn idle(&mut self, limit: Duration) {
        match &mut self.source {
            Source::Empty | Source::Full(_) => {}
            Source::Upgraded(upgraded) => upgraded.idle = Some(limit),
            _ => self.wrap(|body| Source::Idle(Box::new(Idle::new(body, limit)))),
        }
    }

    /// Ends the answer to a gRPC call with its status when the deadline comes first.
    pub(crate) fn until(&mut self, deadline: Deadline) {
        // An answer that is nothing but its head carries the status in it.
        if !self.is_own() && !self.is_end() {
            self.wrap(|body| Source::Until(Box::new(Until::new(body, deadline))));
        }
    }

    fn wrap(&mut self, wrapped: impl FnOnce(Self) -> Source) {
        let body = std::mem::replace(self, Self::empty());
        *self = wrapped(body).into();
    }

    /// Takes the tunnel that this answer opens, with the exchange that ends with it.
    pub(crate) fn take_upgraded(&mut self) -> Option<Box<Upgraded>> {
        if !matches!(self.source, Source::Upgraded(_)) {
            return None;
        }
        let Source::Upgraded(mut upgraded) = std::mem::replace(&mut self.source, Source::Empty)
        else {
            return None;
        };
        if let Watch::Exchange(exchange) = std::mem::take(&mut self.watch) {
            upgraded.exchange = Some(exchange);
        }
        Some(upgraded)
    }

    /// Whether it is held in memory: an answer of the proxy itself, or none.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.source, Source::Empty | Source::Full(_))
    }

    /// The bytes still to come, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Empty | Source::Upgraded(_) => Some(0),
            Source::Full(bytes) => Some(bytes.len() as u64),
            Source::Http1(body) => body.length(),
            Source::Http2(body) => body.length(),
            Source::Replay(body) => body.length(),
            Source::Tee(body) => body.length(),
            Source::Idle(body) => body.length(),
            // Trailers come last.
            Source::Until(_) => None,
        }
    }

    /// Whether nothing follows, not even trailers.
    pub(crate) fn is_end(&self) -> bool {
        self.length() == Some(0)
    }

    /// The next piece; `None` after the last.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = ready!(self.source.poll_frame(cx));
        match self.watch.see(frame.as_ref()) {
            Ok(()) => Poll::Ready(frame),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Empty | Self::Upgraded(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then_some(Ok(Frame::Data(bytes))))
            }
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
            Self::Replay(body) => body.poll_frame(cx),
            Self::Tee(body) => body.poll_frame(cx),
            Self::Until(body) => body.poll_frame(cx),
            Self::Idle(body) => body.poll_frame(cx),
        }
    }
}

impl Watch {
    fn see(&mut self, frame: Option<&Result<Frame, BodyError>>) -> Result<(), BodyError> {
        match (self, frame) {
            (Self::Nobody, _)
            | (Self::Count { .. }, None | Some(Err(_) | Ok(Frame::Trailers(_)))) => {}
            (Self::Count { counted, max }, Some(Ok(Frame::Data(data)))) => {
                counted.see(data);
                if counted.bytes.get() > *max {
                    return Err(BodyError::TooLarge);
                }
            }
            (Self::Exchange(exchange), Some(Ok(Frame::Data(data)))) => {
                exchange.answered(data);
            }
            (Self::Exchange(exchange), Some(Ok(Frame::Trailers(trailers)))) => {
                exchange.trailers(trailers);
            }
            (Self::Exchange(exchange), Some(Err(_))) => exchange.failed(),
            (Self::Exchange(exchange), None) => exchange.completed(),
        }
        Ok(())
    }
}

impl From<Source> for Body {
    fn from(source: Source) -> Self {
        Self {
            source,
            watch: Watch::Nobody,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Source::Full(bytes).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            Source::Empty => "empty",
            Source::Full(_) => "full",
            Source::Http1(_) => "http1",
            Source::Http2(_) => "http2",
            Source::Replay(_) => "replay",
            Source::Tee(_) => "tee",
            Source::Until(_) => "until",
            Source::Idle(_) => "idle",
            Source::Upgraded(_) => "upgraded",
        };
        f.debug_struct("Body")
            .field("source", &kind)
            .field("length", &self.length())
            .finish()
    }
}
