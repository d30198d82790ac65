//! `fault`: trouble on purpose.

use std::time::Duration;

use http::StatusCode;

use crate::matcher::RequestMatch;
use crate::read::At;
use crate::status::{self, GrpcCode};
use crate::units::{self, Share};

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

impl Fault {
    pub(crate) fn read_list(at: &At<'_>) -> Vec<Self> {
        at.nodes(MAX_FAULTS).iter().map(Self::read).collect()
    }

    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields(&["match", "delay", "abort"]);
        Self {
            matches: fields
                .get("match")
                .map(|at| RequestMatch::read(&at))
                .unwrap_or_default(),
            delay: fields.get("delay").and_then(|at| delay(&at)),
            abort: fields.get("abort").and_then(|at| abort(&at)),
        }
    }
}

fn delay(at: &At<'_>) -> Option<(Duration, Share)> {
    let fields = at.fields_or("for", &["for", "share"]);
    let wait = units::duration(&fields.need("for")?)?;
    Some((wait, share(fields.get("share").as_ref())))
}

fn abort(at: &At<'_>) -> Option<(Abort, Share)> {
    let fields = at.fields_or("status", &["status", "share"]);
    let status = fields.need("status")?.parse(Abort::parse)?;
    Some((status, share(fields.get("share").as_ref())))
}

/// All of them unless written.
fn share(at: Option<&At<'_>>) -> Share {
    at.and_then(|at| at.parse(units::parse_share))
        .unwrap_or(Share::ALL)
}

impl Abort {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return status::parse_status(text, 200..=599).map(Self::Status);
        }
        GrpcCode::parse(text).map(Self::Grpc)
    }
}

const MAX_FAULTS: usize = 64;
