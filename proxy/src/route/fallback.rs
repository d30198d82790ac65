//! What is answered in place of a service that cannot: `fallback`.
//!
//! Sent where the breaker is open, on time-outs, and where there is no connection; marked by `x-weft-fallback`, so that nobody takes it
//! for the service's own. A gRPC caller gets its status: no text is a message of its protocol.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use weft_policy::matcher::Captures;
use weft_policy::route;

use super::template::Template;
use crate::http::body::Body;
use crate::http::headers::FALLBACK;
use crate::reject::Reject;

/// One fallback, ready to be sent.
pub(crate) struct Fallback {
    status: StatusCode,
    content_type: HeaderValue,
    body: Template,
    kind: Kind,
}

/// How what a caller wrote is put into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Json,
    Html,
}

impl Fallback {
    pub(crate) fn new(fallback: &route::Fallback) -> Self {
        Self {
            status: fallback.status,
            content_type: fallback.content_type.clone(),
            body: Template::new(&fallback.body),
            kind: Kind::of(&fallback.content_type),
        }
    }

    /// The answer in place of `reject`; `None` where that is nothing a fallback is for.
    pub(crate) fn answer(
        &self,
        reject: Reject,
        captures: Option<&Captures<'_>>,
    ) -> Option<Response<Body>> {
        if !is_for(reject) {
            return None;
        }
        let text = self
            .body
            .fill_with(captures, |value| self.kind.escaped(value));
        let length = HeaderValue::from(text.len());
        let mut response = Response::new(Body::from(Bytes::from(text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(FALLBACK, HeaderValue::from_static(reject.label()));
        Some(response)
    }
}

/// The service was not there, or not in time.
fn is_for(reject: Reject) -> bool {
    matches!(
        reject,
        Reject::BreakerOpen
            | Reject::NoEndpoint
            | Reject::RequestTimeout
            | Reject::TryTimeout
            | Reject::Deadline
            | Reject::Connect
            | Reject::ConnectTimeout
            | Reject::Handshake
            | Reject::PoolFull
    )
}

impl Kind {
    fn of(content_type: &HeaderValue) -> Self {
        let text = content_type
            .to_str()
            .unwrap_or_default()
            .to_ascii_lowercase();
        match text.split(';').next().unwrap_or_default().trim() {
            json if json == "application/json" || json.ends_with("+json") => Self::Json,
            "text/html" | "application/xhtml+xml" | "text/xml" | "application/xml" => Self::Html,
            _ => Self::Plain,
        }
    }

    /// `value` as a part of a text or a quoted string of that kind, where it ends nothing and begins nothing.
    fn escaped(self, value: &str) -> String {
        let mut text = String::with_capacity(value.len());
        for c in value.chars() {
            match (self, c) {
                (Self::Json, '"' | '\\') => text.extend(['\\', c]),
                (Self::Html, '&') => text.push_str("&amp;"),
                (Self::Html, '<') => text.push_str("&lt;"),
                (Self::Html, '>') => text.push_str("&gt;"),
                (Self::Html, '"') => text.push_str("&quot;"),
                (Self::Html, '\'') => text.push_str("&#39;"),
                (_, c) if c.is_control() => {}
                (_, c) => text.push(c),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_wrote_stays_a_value() {
        let rows = [
            ("application/json; charset=utf-8", r#"a"b\c"#, r#"a\"b\\c"#),
            ("application/problem+json", "\"", "\\\""),
            ("text/html", "<b a='1'>&", "&lt;b a=&#39;1&#39;&gt;&amp;"),
            ("text/plain", "<\">\r\n", "<\">"),
        ];
        for (kind, value, want) in rows {
            let kind = Kind::of(&HeaderValue::from_static(kind));
            assert_eq!(kind.escaped(value), want, "{kind:?}");
        }
    }
}
