//! Why an attempt got no answer, and what the retry loop needs to know of it: may the request have been processed?

use std::io;

use super::body::BodyError;
use super::malformed::Malformed;

/// Whether the other side can have acted on a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processed {
    /// It cannot: nothing was sent, or the protocol or the kernel says that nothing was read.
    No,
    /// Nobody can tell.
    Maybe,
}

/// An attempt without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Failure {
    pub(crate) processed: Processed,
    /// The connection had carried a request before: its end may only mean that it was idle for too long.
    pub(crate) reused: bool,
    #[source]
    pub(crate) error: SendError,
}

/// What went wrong while sending or before the answer's head was there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("connection failed before the answer")]
    Io(#[source] io::Error),
    #[error("connection ended before the answer")]
    Closed,
    #[error("answer refused: {0}")]
    Malformed(Malformed),
    #[error("stream failed before the answer")]
    Stream(#[source] h2::Error),
    #[error("request body failed")]
    Request(#[source] BodyError),
}

impl Failure {
    /// A failure after which nobody can tell.
    pub(crate) fn maybe(error: SendError) -> Self {
        Self {
            processed: Processed::Maybe,
            reused: false,
            error,
        }
    }
}
