//! `routes`: which service a request goes to, and what happens to it on the way.

use std::num::NonZeroU16;

use http::StatusCode;

use crate::fault::Fault;
use crate::headers::HeaderEdits;
use crate::matcher::{HostPattern, RequestMatch};
use crate::retry::Retry;
use crate::timeout::Timeouts;
use crate::units::Share;

/// One route; the first that matches wins.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Route {
    /// What it is for; one of several must match.
    pub matches: Vec<RequestMatch>,
    /// Where it goes; empty is the service itself.
    pub split: Vec<Split>,
    /// The path and host that are sent on.
    pub rewrite: Option<Rewrite>,
    /// Answered with a redirection instead.
    pub redirect: Option<Redirect>,
    /// Edits of the heads.
    pub headers: HeaderEdits,
    /// The service's own with the route's over them.
    pub timeout: Option<Timeouts>,
    /// The service's own with the route's over it.
    pub retry: Option<Retry>,
    /// A copy goes there as well, and its answer nowhere.
    pub mirror: Option<Mirror>,
    /// Trouble on purpose.
    pub fault: Option<Fault>,
    /// In place of the service's own.
    pub fallback: Option<Fallback>,
}

/// A service as an operator names it: `orders`, `orders.shop`, with a port if it is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// The name.
    pub name: String,
    /// The namespace; the policy's own unless written.
    pub namespace: Option<String>,
    /// `orders:8080`; the request's own unless written.
    pub port: Option<NonZeroU16>,
}

/// One part of a weighted split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Where to.
    pub service: ServiceRef,
    /// In proportion to the others' weights; 0 sends nothing.
    pub weight: u32,
}

/// What is sent on in place of what came.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Rewrite {
    /// The path; `$1` and `{name}` stand for what `*` and `{name}` of the match took, or a regex's groups.
    pub path: Option<String>,
    /// The Host.
    pub host: Option<HostPattern>,
}

/// An answer that sends the caller elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `http` or `https`; the request's own unless written.
    pub scheme: Option<String>,
    /// The host; the request's own unless written.
    pub host: Option<String>,
    /// The port; that of the scheme if one is written, else the request's own.
    pub port: Option<u16>,
    /// The path, with captures as in [`Rewrite`]; the request's own unless written.
    pub path: Option<String>,
    /// 301, 302, 303, 307 or 308; 302 unless written.
    pub status: StatusCode,
}

/// A copy of requests, sent and forgotten.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where to.
    pub service: ServiceRef,
    /// Of requests.
    pub share: Share,
}

/// What is answered when the breaker is open, on timeout, and when there is no connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// 200 unless written.
    pub status: StatusCode,
    /// `text/plain; charset=utf-8` unless written.
    pub content_type: http::HeaderValue,
    /// UTF-8; `{name}` stands for what `{name}` of the route's template took.
    pub body: String,
}
