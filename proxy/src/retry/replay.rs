//! Keeps the beginning of a request body, so that another attempt can send it again.
//!
//! Up to the bytes that `retry.max-body` says; a larger body streams through as before and can be sent only once.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use crate::http::body::{Body, BodyError, Frame, Source};

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
    /// Bytes that are kept at most.
    most: u64,
}

/// The body of one attempt.
pub(crate) struct Replay {
    state: Rc<RefCell<State>>,
    next: usize,
    trailers_given: bool,
}

impl Kept {
    pub(crate) fn new(source: Body, most: u64) -> Self {
        let (pieces, trailers) = (Vec::new(), None);
        Self(Rc::new(RefCell::new(State {
            source,
            pieces,
            size: 0,
            trailers,
            ended: false,
            lost: false,
            most,
        })))
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.borrow().lost
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
        if self.size as u64 > self.most {
            self.lost = true;
            self.pieces = Vec::new();
        }
        if !self.lost {
            self.pieces.push(data.clone());
        }
    }
}

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
        let kept = Kept::new(Body::from(Bytes::from_static(b"hello")), 5);
        assert_eq!(read(kept.attempt()).await.unwrap(), 5);
        assert!(kept.is_whole());
        assert_eq!(kept.attempt().length(), Some(5));
        assert_eq!(read(kept.attempt()).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_large_body_passes_once() {
        let kept = Kept::new(Body::from(Bytes::from(vec![0; 6])), 5);
        assert_eq!(read(kept.attempt()).await.unwrap(), 6);
        assert!(!kept.is_whole());
        assert!(matches!(
            read(kept.attempt()).await,
            Err(BodyError::NotKept)
        ));
    }
}
