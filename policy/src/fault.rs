//! `fault`: trouble on purpose.

use std::time::Duration;

use http::StatusCode;

use crate::matcher::RequestMatch;
use crate::status::GrpcCode;
use crate::units::Share;

/// Delays, and then aborts, a share of requests.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Fault {
    /// Which requests.
    pub matches: RequestMatch,
    /// How long, and what share of them.
    pub delay: Option<(Duration, Share)>,
    /// With what, and what share of them.
    pub abort: Option<(Abort, Share)>,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// `status: 503`; a gRPC caller gets the code it maps to.
    Status(StatusCode),
    /// `status: unavailable`; another caller gets the status it maps to.
    Grpc(GrpcCode),
}
