//! Keeps the beginning of a request body, so that another attempt can send it again.
//!
//! Up to the bytes that `retry.max-body` says. A larger body streams through, and is kept on for as long as its endpoint may
//! hand it back unread (see [`HANDED_BACK`]); beyond that it can be sent only once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use crate::http::body::{Body, BodyError, Frame, Source};
use crate::http::h2::STREAM_WINDOW;

/// The body of all attempts.
#[derive(Clone)]
pub(crate) struct Kept(Rc<RefCell<State>>);

struct State {
    source: Body,
    pieces: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Something has passed that was not kept.
    lost: bool,
    /// Bytes that are kept for any cause.
    most: u64,
    /// Where more is kept, what of the worker's room for it this body has.
    spare: Option<Spare>,
    borrowed: usize,
}

/// What one worker may keep of all bodies beyond what policy says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spare(Rc<Cell<usize>>);

impl Spare {
    fn take(&self, bytes: usize) -> bool {
        let taken = self.0.get() + bytes;
        let fits = taken <= SPARE_BYTES;
        if fits {
            self.0.set(taken);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_sub(bytes));
    }
}

/// The body of one attempt.
pub(crate) struct Replay {
    state: Rc<RefCell<State>>,
    next: usize,
    trailers_given: bool,
}

impl Kept {
    /// With `spare` it is kept on while an endpoint may hand it back.
    pub(crate) fn new(source: Body, most: u64, spare: Option<Spare>) -> Self {
        let (pieces, trailers) = (Vec::new(), None);
        Self(Rc::new(RefCell::new(State {
            source,
            pieces,
            size: 0,
            trailers,
            ended: false,
            lost: false,
            most,
            spare,
            borrowed: 0,
        })))
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.borrow().lost
    }

    /// Whether policy lets it be sent again where it may have been read.
    pub(crate) fn is_small(&self) -> bool {
        let state = self.0.borrow();
        !state.lost && state.size as u64 <= state.most
    }

    /// The body from its beginning.
    pub(crate) fn attempt(&self) -> Body {
        Source::Replay(Replay {
            state: Rc::clone(&self.0),
            next: 0,
            trailers_given: false,
        })
        .into()
    }
}

impl Replay {
    /// The bytes still to come, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        let state = self.state.borrow();
        let again = state
            .pieces
            .get(self.next..)
            .unwrap_or_default()
            .iter()
            .map(|piece| piece.len() as u64)
            .sum::<u64>();
        if state.ended {
            let trailers = state.trailers.is_some() && !self.trailers_given;
            return (!trailers || again > 0).then_some(again);
        }
        state.source.length().map(|rest| rest + again)
    }

    /// The next piece; `None` after the last.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let state = &mut *self.state.borrow_mut();
        if let Some(piece) = state.pieces.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::Data(piece.clone()))));
        }
        if state.lost && self.next == 0 {
            return Poll::Ready(Some(Err(BodyError::NotKept)));
        }
        if state.ended {
            let trailers = state.trailers.clone().filter(|_| !self.trailers_given);
            self.trailers_given = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::Trailers(trailers))));
        }
        let frame = ready!(state.source.poll_frame(cx));
        match &frame {
            Some(Ok(Frame::Data(data))) => {
                state.keep(data);
                self.next += 1;
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                state.trailers = Some(trailers.clone());
                state.ended = true;
                self.trailers_given = true;
            }
            Some(Err(_)) => state.lost = true,
            None => state.ended = true,
        }
        Poll::Ready(frame)
    }
}

impl State {
    fn keep(&mut self, data: &Bytes) {
        self.size += data.len();
        if self.size as u64 > self.most && !self.lost {
            self.lost = !self.borrow(data.len());
        }
        if self.lost {
            self.forget();
        } else {
            self.pieces.push(data.clone());
        }
    }

    fn borrow(&mut self, bytes: usize) -> bool {
        let may =
            self.size <= HANDED_BACK && self.spare.as_ref().is_some_and(|spare| spare.take(bytes));
        if may {
            self.borrowed += bytes;
        }
        may
    }

    fn forget(&mut self) {
        self.pieces = Vec::new();
        if let Some(spare) = &self.spare {
            spare.give_back(std::mem::take(&mut self.borrowed));
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.forget();
    }
}

/// An endpoint that takes more of a body than this has reached its app, and hands nothing back: in HTTP/2 it gives no credit
/// before (a window, and what is on its way), in HTTP/1 its caller waits for its word at the size that policy keeps.
const HANDED_BACK: usize = 2 * STREAM_WINDOW as usize;
/// Of all bodies of one worker.
const SPARE_BYTES: usize = 32 * HANDED_BACK;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn read(mut body: Body) -> Result<usize, BodyError> {
        let mut count = 0;
        while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
            if let Frame::Data(data) = frame? {
                count += data.len();
            }
        }
        Ok(count)
    }

    #[tokio::test]
    async fn a_small_body_can_be_sent_again() {
        let kept = Kept::new(Body::from(Bytes::from_static(b"hello")), 5, None);
        assert_eq!(read(kept.attempt()).await.unwrap(), 5);
        assert!(kept.is_whole());
        assert_eq!(kept.attempt().length(), Some(5));
        assert_eq!(read(kept.attempt()).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_body_that_may_be_handed_back_is_kept_while_there_is_room() {
        let spare = Spare::default();
        let body = || Body::from(Bytes::from(vec![0; 6]));
        let kept = Kept::new(body(), 5, Some(spare.clone()));
        assert_eq!(read(kept.attempt()).await.unwrap(), 6);
        assert!(kept.is_whole() && !kept.is_small());
        assert_eq!(read(kept.attempt()).await.unwrap(), 6);
        assert_eq!(spare.0.get(), 6);
        assert!(spare.take(SPARE_BYTES - 6));
        let other = Kept::new(body(), 5, Some(spare.clone()));
        assert_eq!(read(other.attempt()).await.unwrap(), 6);
        assert!(!other.is_whole(), "there was no room left");
        drop((kept, other));
        assert_eq!(
            spare.0.get(),
            SPARE_BYTES - 6,
            "room that was not given back"
        );
    }

    #[tokio::test]
    async fn a_large_body_passes_once() {
        let kept = Kept::new(Body::from(Bytes::from(vec![0; 6])), 5, None);
        assert_eq!(read(kept.attempt()).await.unwrap(), 6);
        assert!(!kept.is_whole());
        assert!(matches!(
            read(kept.attempt()).await,
            Err(BodyError::NotKept)
        ));
    }
}
