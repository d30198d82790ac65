//! What may happen to a request before it is sent, in the order in which it happens.

pub(crate) mod trace;

use http::{Request, Response};
use weft_policy::Policy;

use crate::cx::Cx;
use crate::http::body::Body;
use crate::http::headers::{CLIENT_ID, XFCC, strip_mesh};
use crate::policy::Active;
use crate::reject::Reject;

/// The filters that one policy asks for on what comes in, ready to run. A filter that is not asked for is `None`.
pub(crate) struct Inbound {}

/// What the filters keep over a change of policy.
#[derive(Default)]
pub(crate) struct Kept {}

/// What a request holds on to until its answer is complete, and what it does to the answer, be it the app's or a refusal.
#[derive(Debug, Default)]
pub(crate) struct Passed {}

impl Inbound {
    /// `None` where `policy` asks for nothing: then nothing is run.
    pub(crate) fn new(_policy: &Policy, _kept: &Kept) -> Option<Self> {
        None
    }

    /// One line a filter. What passes leaves its traces in `passed`, which also sees the answer to what is refused.
    #[expect(clippy::unused_async, reason = "filters that wait will land here")]
    async fn run(
        &self,
        _cx: &Cx,
        _request: &mut Request<Body>,
        _passed: &mut Passed,
    ) -> Result<(), Reject> {
        Ok(())
    }
}

impl Passed {
    /// What passing adds to the answer.
    pub(crate) fn answer(&self, _response: &mut Response<Body>) {}
}

/// Filters of requests for our app.
///
/// # Errors
/// The request must not reach the app.
pub(crate) async fn inbound(
    cx: &Cx,
    policy: &Active,
    request: &mut Request<Body>,
    passed: &mut Passed,
) -> Result<(), Reject> {
    let map = request.headers_mut();
    // Never from outside: what the app reads here is what this proxy has verified, or nothing.
    map.remove(XFCC);
    map.remove(CLIENT_ID);
    strip_mesh(map);
    if let Some(caller) = &cx.caller {
        map.insert(XFCC, caller.xfcc.clone());
        map.insert(CLIENT_ID, caller.client_id.clone());
    }
    match &policy.inbound {
        None => Ok(()),
        Some(filters) => Box::pin(filters.run(cx, request, passed)).await,
    }
}

/// Filters of requests from our app.
///
/// # Errors
/// The request must not leave.
pub(crate) fn outbound(_cx: &Cx, request: &mut Request<Body>) -> Result<(), Reject> {
    let map = request.headers_mut();
    map.remove(XFCC);
    map.remove(CLIENT_ID);
    strip_mesh(map);
    Ok(())
}
