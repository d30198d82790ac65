//! The body that is being read from an HTTP/2 stream, and the pump that writes one.
//!
//! Credit goes back to the sender only for what has been passed on: a slow reader slows the sender, not our memory.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::time::Duration;

use crate::http::body::{Body, BodyError, Frame};
use crate::http::headers::clean_trailers;
use crate::http::malformed::Malformed;
use crate::http::timer::Timer;
use crate::tasks::AbortOnDrop;

/// A message body on its way in.
pub(crate) struct Incoming {
    stream: RecvStream,
    /// What `content-length` says and has not come yet.
    announced: Option<u64>,
    data_ended: bool,
    arrival: Option<Arriving>,
    /// The rest of the request, which ends with its answer.
    _upload: Option<AbortOnDrop>,
    _in_flight: Option<InFlight>,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream, announced: Option<u64>) -> Self {
        Self {
            stream,
            announced,
            data_ended: false,
            arrival: None,
            _upload: None,
            _in_flight: None,
        }
    }

    /// Lets somebody else see how it comes in.
    pub(in crate::http) fn arrival(&mut self) -> Rc<Arrival> {
        let arrival = Rc::<Arrival>::default();
        self.arrival = Some(Arriving(Rc::clone(&arrival)));
        arrival
    }

    /// Ties the rest of the request and its place on the connection to this answer.
    pub(super) fn holding(self, upload: Option<AbortOnDrop>, in_flight: InFlight) -> Self {
        Self {
            _upload: upload,
            _in_flight: Some(in_flight),
            ..self
        }
    }

    /// The bytes still to come, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        if self.stream.is_end_stream() {
            Some(0)
        } else {
            self.announced.filter(|left| *left > 0)
        }
    }

    /// The next piece; `None` after the last.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        if !self.data_ended {
            let data = self.stream.poll_data(cx);
            if let Some(Arriving(arrival)) = &self.arrival {
                arrival.see(&data);
            }
            match ready!(data) {
                Some(Ok(data)) => return Poll::Ready(Some(self.passed(data))),
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Stream(error)))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(checked(trailers)),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(BodyError::Stream(error)))),
        }
    }

    fn passed(&mut self, data: Bytes) -> Result<Frame, BodyError> {
        self.announced = self
            .announced
            .map(|left| left.saturating_sub(data.len() as u64));
        self.stream
            .flow_control()
            .release_capacity(data.len())
            .map_err(BodyError::Stream)?;
        Ok(Frame::Data(data))
    }
}

/// Trailers as they may go on; none is left where all of them were what trailers may not say.
fn checked(mut trailers: HeaderMap) -> Option<Result<Frame, BodyError>> {
    if trailers.len() > MAX_TRAILERS {
        return Some(Err(BodyError::Malformed(Malformed::TooManyHeaders)));
    }
    clean_trailers(&mut trailers);
    (!trailers.is_empty()).then_some(Ok(Frame::Trailers(trailers)))
}

/// How a request's body comes in, for whoever waits for the answer meanwhile.
#[derive(Default)]
pub(in crate::http) struct Arrival {
    bytes: Cell<u64>,
    wanted: Cell<bool>,
    ended: Cell<bool>,
}

impl Arrival {
    /// Bytes that have been passed on.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether somebody waits for more of it, which its sender has not sent.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// Whether nothing of it is wanted any more.
    pub(super) fn is_over(&self) -> bool {
        self.ended.get()
    }

    fn see(&self, data: &Poll<Option<Result<Bytes, h2::Error>>>) {
        self.wanted.set(data.is_pending());
        match data {
            Poll::Ready(Some(Ok(data))) => self.bytes.set(self.bytes.get() + data.len() as u64),
            Poll::Ready(Some(Err(_)) | None) => self.ended.set(true),
            Poll::Pending => {}
        }
    }
}

/// The end of it that reads.
struct Arriving(Rc<Arrival>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.ended.set(true);
    }
}

/// Counts one request on a connection for as long as it lives.
#[derive(Debug)]
pub(super) struct InFlight(Rc<Cell<usize>>);

impl InFlight {
    pub(super) fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Writes a body to a stream, frame by frame, as the other side gives credit.
pub(super) struct Pump {
    stream: SendStream<Bytes>,
    body: Body,
    /// Read from the body, not yet covered by credit.
    waiting: Bytes,
    /// Bytes that were given to the connection.
    sent: u64,
}

/// How a pump ended short.
#[derive(Debug)]
pub(super) enum PumpError {
    /// Our source failed; the stream has been reset.
    Body(BodyError),
    /// The other side wants no more.
    Stream,
    /// Nothing moved for too long; the stream has been reset.
    Idle,
}

impl Pump {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self {
            stream,
            body,
            waiting: Bytes::new(),
            sent: 0,
        }
    }

    /// Writes all of it.
    pub(super) async fn run(mut self) -> Result<(), PumpError> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Writes all of it, unless neither it nor the `request` on the same stream gets on for `limit`.
    pub(super) async fn run_within(
        mut self,
        limit: Duration,
        request: Option<&Arrival>,
    ) -> Result<(), PumpError> {
        let mut timer = Timer::new(limit);
        let mut last = (0, 0);
        poll_fn(|cx| {
            let written = self.poll(cx);
            if written.is_ready() {
                return written;
            }
            let moved = (self.sent, request.map_or(0, Arrival::bytes));
            if moved != last {
                last = moved;
                timer.set(limit);
            }
            ready!(timer.poll(cx));
            self.stream.send_reset(Reason::CANCEL);
            Poll::Ready(Err(PumpError::Idle))
        })
        .await
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            if let Poll::Ready(Ok(_) | Err(_)) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(PumpError::Stream));
            }
            if !self.waiting.is_empty() {
                ready!(self.poll_send(cx))?;
                continue;
            }
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => {
                    if self.body.is_end() && self.fits(data.len()) {
                        return Poll::Ready(self.send(data, true));
                    }
                    self.waiting = data;
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    let sent = self.stream.send_trailers(trailers);
                    return Poll::Ready(sent.map_err(|_gone| PumpError::Stream));
                }
                Some(Err(error)) => {
                    self.stream.send_reset(reason(&error));
                    return Poll::Ready(Err(PumpError::Body(error)));
                }
                None => return Poll::Ready(self.send(Bytes::new(), true)),
            }
        }
    }

    /// Whether so many bytes need not wait for credit; asks for it.
    fn fits(&mut self, count: usize) -> bool {
        self.stream.reserve_capacity(count);
        self.stream.capacity() >= count
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        self.stream.reserve_capacity(self.waiting.len());
        let mut credit = self.stream.capacity();
        while credit == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(more)) => credit = more,
                Some(Err(_)) | None => return Poll::Ready(Err(PumpError::Stream)),
            }
        }
        let data = self.waiting.split_to(credit.min(self.waiting.len()));
        Poll::Ready(self.send(data, false))
    }

    fn send(&mut self, data: Bytes, end: bool) -> Result<(), PumpError> {
        self.sent += data.len() as u64;
        self.stream
            .send_data(data, end)
            .map_err(|_gone| PumpError::Stream)
    }
}

/// What a reset says to the other side about a body that we could not read.
fn reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Stream(error) => error.reason().unwrap_or(Reason::INTERNAL_ERROR),
        BodyError::Malformed(_) => Reason::PROTOCOL_ERROR,
        BodyError::Io(_)
        | BodyError::Cut
        | BodyError::TooLarge
        | BodyError::NotKept
        | BodyError::Idle => Reason::INTERNAL_ERROR,
    }
}

/// As many as a head may ever have (`limits.header-count`).
const MAX_TRAILERS: usize = 256;
