//! Every reason for which the proxy answers itself: the one table to status, gRPC code, label and what may follow.
//!
//! Nobody else builds an error response, so a person can tell the mesh's 503 from the app's: each carries
//! `x-weft-reject` and says what happened.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use weft_certs::jwt::error::JwtError;

use crate::http::body::Body;
use crate::http::grpc;
use crate::http::headers::REJECT;
use crate::http::malformed::Malformed;

/// Why a request gets no answer from the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// The request is not one that all readers read alike.
    Malformed(Malformed),
    /// The header came too slowly.
    HeaderTimeout,
    /// The body stopped coming.
    BodyTimeout,
    /// The app reads nothing more of the body, and does not answer.
    BodyUnread,
    /// In explicit mode: the name is in no file and not in DNS.
    UnknownService,
    /// The control plane is away, and never said whether the address is in the mesh.
    DiscoveryAway,
    /// A route leads to a service that nobody knows.
    UnknownDestination,
    /// A route makes a path of the request that has no single reading.
    Rewrite,
    /// It is not in the mesh, and policy does not let our app call it.
    EgressDenied,
    /// The request would come back to us.
    Loop,
    /// Without redirection: no app is declared for this port.
    NoApp,
    /// The service has no endpoint.
    NoEndpoint,
    /// The breakers of all endpoints are open.
    BreakerOpen,
    /// The answer took longer than `timeout.request`.
    RequestTimeout,
    /// A try took longer than `timeout.try`.
    TryTimeout,
    /// No TCP connection to the endpoint.
    Connect,
    /// No TCP connection to the endpoint in time.
    ConnectTimeout,
    /// The app does not listen; nothing has seen the request.
    AppGone,
    /// We have no certificate, and the endpoint needs one.
    NoIdentity,
    /// Mesh TLS with the endpoint failed.
    Handshake,
    /// The endpoint is not who discovery says it is.
    WrongIdentity,
    /// Too many connections to the endpoint.
    PoolFull,
    /// The connection was reset before the answer.
    UpstreamReset,
    /// The app cancelled the call before it answered.
    UpstreamCancelled,
    /// The app cancelled the call because the caller's own deadline had passed.
    Deadline,
    /// The connection ended before the answer.
    UpstreamClosed,
    /// The answer is not one that all readers read alike.
    UpstreamMalformed,
    /// The caller's own body failed.
    RequestBody,
    /// The caller's own body is larger than policy allows.
    BodyTooLarge,
    /// More requests than policy allows.
    RateLimited,
    /// More requests in flight than policy allows, or than the app serves without queueing.
    Overloaded,
    /// Aborted because policy asks for faults.
    FaultAbort {
        /// To an HTTP caller.
        status: StatusCode,
        /// To a gRPC caller.
        grpc: u8,
    },
    /// Plain text where policy asks for mutual TLS.
    Plaintext,
    /// No token where one is required.
    JwtMissing,
    /// More than one token.
    JwtSeveral,
    /// The token is no good.
    Jwt(JwtError),
    /// The issuer's keys could not be read yet.
    JwtNoKeys,
    /// A rule of `deny` matches.
    AuthzDenied,
    /// No rule of `allow` matches.
    AuthzNotAllowed,
    /// Something that a rule of `allow` or `deny` looks at has no single reading.
    AuthzUnreadable,
}

/// Who is asking: what a refusal looks like depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Status, JSON body.
    Http,
    /// Trailers-only (gRPC PROTOCOL-HTTP2, Responses).
    Grpc,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) status: StatusCode,
    /// gRPC code, by the mapping of gRPC's http-grpc-status-mapping.
    pub(crate) grpc: u8,
    pub(crate) label: &'static str,
    pub(crate) message: &'static str,
    /// Nothing has processed the request: another endpoint may have it, whatever the method.
    pub(crate) unprocessed: bool,
}

const CANCELLED: u8 = 1;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;
const NOT_NOW: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const BAD: StatusCode = StatusCode::BAD_GATEWAY;

impl Reject {
    /// The row of this reason.
    #[rustfmt::skip]
    pub(crate) fn row(self) -> Row {
        let (status, grpc, label, message) = match self {
            Self::Malformed(what) => (what.status(), INTERNAL, what.label(), malformed_message(what)),
            Self::HeaderTimeout => (StatusCode::REQUEST_TIMEOUT, UNAVAILABLE, "header_timeout", "the request header did not arrive in time"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, UNAVAILABLE, "body_timeout", "nothing more of the request body arrived in time"),
            Self::BodyUnread => (StatusCode::GATEWAY_TIMEOUT, UNAVAILABLE, "body_unread", "the app reads nothing more of the request body, and does not answer"),
            Self::RequestBody => (StatusCode::BAD_REQUEST, INTERNAL, "request_body", "the request body failed before its end"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, RESOURCE_EXHAUSTED, "body_too_large", "the request body is larger than the limit"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, "rate_limited", "too many requests; Retry-After says when the next one may come"),
            Self::Overloaded => (NOT_NOW, UNAVAILABLE, "overloaded", "too many requests are in flight"),
            Self::FaultAbort { status, grpc } => (status, grpc, "fault_abort", "aborted by the fault policy"),
            Self::UnknownService => (StatusCode::NOT_FOUND, UNAVAILABLE, "unknown_service", "no service of that name and port is known, and DNS knows none either"),
            Self::DiscoveryAway => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, "discovery_away", "the control plane is away and never said who is at this address"),
            Self::UnknownDestination => (NOT_NOW, UNAVAILABLE, "unknown_destination", "a route leads to a service that is not known"),
            Self::Rewrite => (StatusCode::BAD_REQUEST, INTERNAL, "rewrite", "a route makes a path of this request that has no single reading"),
            Self::EgressDenied => (StatusCode::FORBIDDEN, PERMISSION_DENIED, "egress_denied", "policy does not let this app call hosts outside the mesh, or not this one"),
            Self::Loop => (StatusCode::LOOP_DETECTED, INTERNAL, "loop", "the request would come back to this proxy"),
            Self::NoApp => (StatusCode::NOT_FOUND, UNAVAILABLE, "no_app", "no app is declared for this port; see WEFT_INBOUND_PORTS"),
            Self::NoEndpoint => (NOT_NOW, UNAVAILABLE, "no_endpoint", "the service has no endpoint"),
            Self::AppGone => (NOT_NOW, UNAVAILABLE, "app_gone", "the app does not listen on its port"),
            Self::NoIdentity => (NOT_NOW, UNAVAILABLE, "no_identity", "the proxy has no certificate yet"),
            Self::BreakerOpen => (NOT_NOW, UNAVAILABLE, "breaker_open", "the service fails too often; its circuit breakers are open"),
            Self::RequestTimeout => (StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, "timeout_request", "no answer within timeout.request"),
            Self::TryTimeout => (StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, "timeout_try", "no answer within timeout.try"),
            Self::PoolFull => (NOT_NOW, UNAVAILABLE, "pool_full", "too many connections to the endpoint"),
            Self::Connect => (BAD, UNAVAILABLE, "connect", "no connection to the endpoint"),
            Self::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, UNAVAILABLE, "connect_timeout", "no connection to the endpoint in time"),
            Self::Handshake => (BAD, UNAVAILABLE, "handshake", "mesh TLS with the endpoint failed"),
            Self::WrongIdentity => (BAD, UNAVAILABLE, "wrong_identity", "the endpoint has another identity than discovery says"),
            Self::UpstreamReset => (BAD, UNAVAILABLE, "upstream_reset", "the connection was reset before the answer"),
            Self::UpstreamClosed => (BAD, UNAVAILABLE, "upstream_closed", "the connection ended before the answer"),
            Self::UpstreamMalformed => (BAD, INTERNAL, "upstream_malformed", "the answer was not well-formed HTTP"),
            Self::UpstreamCancelled => (BAD, CANCELLED, "upstream_cancelled", "the app cancelled the call before it answered"),
            Self::Plaintext => (StatusCode::FORBIDDEN, PERMISSION_DENIED, "plaintext", "this port takes mutual TLS only"),
            Self::JwtMissing => (StatusCode::UNAUTHORIZED, UNAUTHENTICATED, "jwt_missing", "a token is required"),
            Self::JwtSeveral => (StatusCode::BAD_REQUEST, UNAUTHENTICATED, "jwt_several", "the request has more than one token"),
            Self::Jwt(error) => (StatusCode::UNAUTHORIZED, UNAUTHENTICATED, error.label(), error.message()),
            Self::JwtNoKeys => (NOT_NOW, UNAVAILABLE, "jwt_no_keys", "the keys of the token's issuer are not there yet"),
            Self::AuthzDenied => (StatusCode::FORBIDDEN, PERMISSION_DENIED, "authz_denied", "a rule of this service denies the request"),
            Self::AuthzNotAllowed => (StatusCode::FORBIDDEN, PERMISSION_DENIED, "authz_not_allowed", "no rule of this service allows the request"),
            Self::AuthzUnreadable => (StatusCode::FORBIDDEN, PERMISSION_DENIED, "authz_unreadable", "what the rules of this service look at has no single reading"),
            Self::Deadline => (StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, "deadline", "the caller's deadline passed before the app answered"),
        };
        let unprocessed = matches!(self, Self::AppGone | Self::PoolFull | Self::Overloaded);
        Row { status, grpc, label, message, unprocessed }
    }

    /// Metric label and value of `x-weft-reject`.
    pub(crate) fn label(self) -> &'static str {
        self.row().label
    }

    /// The answer to `caller`.
    pub(crate) fn response(self, caller: Caller) -> Response<Body> {
        let row = self.row();
        match caller {
            Caller::Http => {
                let mut response = http_response(&row);
                if let Some(challenge) = self.challenge() {
                    let headers = response.headers_mut();
                    headers.insert(WWW_AUTHENTICATE, challenge);
                }
                response
            }
            Caller::Grpc => grpc_response(&row),
        }
    }

    /// What ends a gRPC call whose answer has begun.
    pub(crate) fn trailers(self) -> HeaderMap {
        let mut headers = grpc_response(&self.row()).into_parts().0.headers;
        headers.remove(CONTENT_TYPE);
        headers
    }

    /// "If the request lacks any authentication information ... the resource server SHOULD NOT include an error code or other error
    /// information" (RFC 6750 section 3.1).
    fn challenge(self) -> Option<HeaderValue> {
        let error = match self {
            Self::JwtMissing => return Some(HeaderValue::from_static(r#"Bearer realm="weft""#)),
            Self::JwtSeveral => "invalid_request",
            Self::Jwt(_) => "invalid_token",
            _ => return None,
        };
        let message = self.row().message;
        let challenge =
            format!(r#"Bearer realm="weft", error="{error}", error_description="{message}""#);
        HeaderValue::from_str(&challenge).ok()
    }
}

fn malformed_message(what: Malformed) -> &'static str {
    match what {
        Malformed::HeaderTooLarge | Malformed::TooManyHeaders => {
            "the request header is larger than the limit"
        }
        Malformed::TargetTooLong => "the request line is longer than the limit",
        Malformed::Version => "only HTTP/1.0, HTTP/1.1 and HTTP/2 are served",
        Malformed::HostMissing => "the request has no Host",
        Malformed::HostSeveral => "the request has more than one Host",
        Malformed::TeAndCl => "the request has both Transfer-Encoding and Content-Length",
        Malformed::Path => "the path has no single reading",
        _ => "the request is malformed; the reason is in this answer",
    }
}

/// The answer that sends the caller to `location` (RFC 9110 section 15.4).
pub(crate) fn redirection(status: StatusCode, location: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

fn http_response(row: &Row) -> Response<Body> {
    let body = format!(
        r#"{{"status":"error","message":"{}","reason":"{}"}}"#,
        row.message, row.label
    );
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::from(Bytes::from(body)));
    *response.status_mut() = row.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(REJECT, HeaderValue::from_static(row.label));
    response
}

fn grpc_response(row: &Row) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(grpc::STATUS, HeaderValue::from(u16::from(row.grpc)));
    // The text is ours and printable, so it always makes a header value.
    if let Ok(message) = HeaderValue::from_str(&grpc::encode_message(row.message)) {
        headers.insert(grpc::MESSAGE, message);
    }
    headers.insert(REJECT, HeaderValue::from_static(row.label));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_caller_gets_status_label_and_reason() {
        let response = Reject::NoEndpoint.response(Caller::Http);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[REJECT], "no_endpoint");
        assert_eq!(
            response.headers()[CONTENT_LENGTH],
            response.body().length().unwrap().to_string().as_str()
        );
    }

    #[test]
    fn a_grpc_caller_gets_trailers_only() {
        let response = Reject::Connect.response(Caller::Grpc);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[grpc::STATUS], "14");
        assert_eq!(response.headers()[REJECT], "connect");
        assert!(response.body().is_end());
    }

    /// All variants; one that is missing here does not compile.
    macro_rules! every {
        ($type:ident: $($variant:ident)* $(, not $other:pat)?) => {{
            let _complete = |one| match one { $($type::$variant)|* => {} $($other => {})? };
            [$($type::$variant),*]
        }};
    }

    #[test]
    fn the_docs_list_every_reason_with_its_status() {
        let malformed = every!(Malformed: BareLf ObsFold RequestLine StatusLine Interim Header HeaderTooLarge
            TooManyHeaders TargetTooLong Version MethodCase Target Path HostMissing HostSeveral HostInvalid
            TeAndCl TransferEncoding TeInHttp10 ContentLength Chunk Trailer BytesBeforeUpgrade UpgradeWithBody);
        let rejects = every!(Reject: HeaderTimeout BodyTimeout BodyUnread RequestBody UnknownService DiscoveryAway UnknownDestination Rewrite EgressDenied Loop NoApp NoEndpoint AppGone BreakerOpen RequestTimeout TryTimeout
            NoIdentity PoolFull Connect ConnectTimeout Handshake WrongIdentity UpstreamReset UpstreamCancelled
            UpstreamClosed UpstreamMalformed Deadline BodyTooLarge RateLimited Overloaded Plaintext JwtMissing JwtSeveral
            JwtNoKeys AuthzDenied AuthzNotAllowed AuthzUnreadable,
            not Reject::Malformed(_) | Reject::FaultAbort { .. } | Reject::Jwt(_));
        let mut want: Vec<String> = malformed
            .map(|what| format!("| `{}` | {} |", what.label(), what.status().as_u16()))
            .into();
        let tokens = JwtError::ALL.into_iter().map(Reject::Jwt);
        want.extend(rejects.into_iter().chain(tokens).map(|reject| {
            let Row {
                label,
                status,
                grpc,
                ..
            } = reject.row();
            format!("| `{label}` | {} | {grpc} |", status.as_u16())
        }));
        let docs = include_str!("../../docs/data-path.md");
        for row in &want {
            let found = docs.lines().filter(|line| line.starts_with(row.as_str()));
            assert_eq!(found.count(), 1, "docs/data-path.md: {row}");
        }
        let has_status = |line: &&str| {
            let status = line.split('|').nth(2).unwrap_or_default().trim();
            line.starts_with("| `") && status.parse::<u16>().is_ok()
        };
        let listed = docs.lines().filter(has_status).count();
        assert_eq!(
            listed,
            want.len(),
            "docs/data-path.md has rows of reasons that are gone"
        );
    }
}
