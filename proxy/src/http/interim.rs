//! 1xx answers on their way to whoever sent the request (RFC 9110 section 15.2: "A proxy MUST forward 1xx responses
//! unless the proxy itself requested the generation of the 1xx response").

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::h1;
use super::headers;

/// Where the interim answers of one request go.
#[derive(Clone)]
pub(crate) enum Interim {
    /// To an HTTP/1 connection, before the final head.
    Http1(h1::conn::Shared),
    /// To an HTTP/2 stream, before the final HEADERS.
    Http2(Rc<RefCell<h2::server::SendResponse<Bytes>>>),
    /// To nobody.
    None,
}

impl Interim {
    /// Passes one on. `100 Continue` is not passed: each hop sends it when it wants the body. Nor is `101`, which is never
    /// interim (in HTTP/2 it is not even allowed, RFC 9113 section 8.6).
    pub(crate) fn forward(&self, status: StatusCode, mut fields: HeaderMap) {
        if status == StatusCode::CONTINUE || status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        headers::remove_hop_by_hop(&mut fields);
        match self {
            Self::Http1(conn) => {
                h1::encode::interim(&mut conn.borrow_mut().output, status, &fields);
            }
            Self::Http2(stream) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = fields;
                // A stream that is gone needs no interim answer.
                let _sent = stream.borrow_mut().send_informational(response);
            }
            Self::None => {}
        }
    }
}
