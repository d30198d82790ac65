//! What may happen to a request before it is sent, in the order in which it happens.

pub(crate) mod trace;

use http::Request;

use crate::cx::Cx;
use crate::http::body::Body;
use crate::http::headers::{self, CLIENT_ID, XFCC};
use crate::reject::Reject;

/// Filters of requests for our app.
///
/// # Errors
/// The request must not reach the app.
pub(crate) fn inbound(cx: &Cx, request: &mut Request<Body>) -> Result<(), Reject> {
    let map = request.headers_mut();
    // Never from outside: what the app reads here is what this proxy has verified, or nothing.
    map.remove(XFCC);
    map.remove(CLIENT_ID);
    headers::strip_mesh(map);
    if let Some(caller) = &cx.caller {
        map.insert(XFCC, caller.xfcc.clone());
        map.insert(CLIENT_ID, caller.client_id.clone());
    }
    Ok(())
}

/// Filters of requests from our app.
///
/// # Errors
/// The request must not leave.
pub(crate) fn outbound(_cx: &Cx, request: &mut Request<Body>) -> Result<(), Reject> {
    let map = request.headers_mut();
    map.remove(XFCC);
    map.remove(CLIENT_ID);
    headers::strip_mesh(map);
    Ok(())
}
