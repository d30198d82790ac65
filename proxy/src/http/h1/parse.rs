//! Message heads: bytes -> `http` types and [`Framing`] (RFC 9112 sections 2 to 6).
//!
//! httparse splits the lines; what it would let pass (bare LF, several Hosts, TE beside CL) is refused here.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};

use super::decode::Framing;
use crate::http::Limits;
use crate::http::headers::{has_any, has_token, single_host};
use crate::http::malformed::Malformed;
use crate::http::path;

/// A request head and what it says of the connection.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) request: Request<()>,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
}

/// An answer's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
}

/// Finds the end of a header section, and remembers in `scanned` how far it looked.
///
/// # Errors
/// A line ends in LF alone: RFC 9112 section 2.2 lets a recipient take it for a line end, and smuggling lives from
/// recipients that differ in it.
pub(crate) fn head_end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, Malformed> {
    let mut from = *scanned;
    while let Some(offset) = input
        .get(from..)
        .and_then(|rest| memchr::memchr(b'\n', rest))
    {
        let at = from + offset;
        if at == 0 || input.get(at - 1) != Some(&b'\r') {
            return Err(Malformed::BareLf);
        }
        from = at + 1;
        *scanned = from;
        let empty_line = at >= 3 && input.get(at - 3..at) == Some(b"\r\n\r");
        if empty_line {
            return Ok(Some(from));
        }
    }
    Ok(None)
}

/// Finds the end of a trailer section, which may be empty.
pub(super) fn section_end(input: &[u8]) -> Result<Option<usize>, Malformed> {
    if input.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    head_end(input, &mut 0)
}

/// Parses the request head that ends at `end`.
///
/// # Errors
/// Every way in which it is not exactly one request that all readers read alike.
pub(crate) fn request(
    input: &mut BytesMut,
    end: usize,
    limits: &Limits,
) -> Result<RequestHead, Malformed> {
    let head = input.split_to(end).freeze();
    let mut lines = [const { std::mem::MaybeUninit::uninit() }; MAX_LINES];
    let space = lines
        .get_mut(..limits.header_count.min(MAX_LINES))
        .unwrap_or_default();
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&head, space) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Malformed::RequestLine),
        Err(error) => return Err(from_httparse(error, Malformed::RequestLine, &head)),
    }
    let version = version(parsed.version)?;
    let method = method(parsed.method.unwrap_or_default())?;
    let headers = map(&head, parsed.headers)?;
    let target = head.slice_ref(parsed.path.unwrap_or_default().as_bytes());
    let framing = request_framing(&headers, version)?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    *request.uri_mut() = self::target(target, request.method())?;
    check_host(&mut request)?;
    finish_request(request, framing)
}

fn finish_request(mut request: Request<()>, framing: Framing) -> Result<RequestHead, Malformed> {
    let version = request.version();
    if !has_any(request.headers(), &DECIDING) {
        return Ok(RequestHead {
            request,
            framing,
            keep_alive: version == Version::HTTP_11,
            expects_continue: false,
        });
    }
    let keep_alive = keep_alive(request.headers(), version);
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    if version == Version::HTTP_10 {
        // RFC 9110 section 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
        headers.remove(UPGRADE);
    }
    // RFC 9110 section 10.1.1: "a server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore [it]".
    let expects_continue = version == Version::HTTP_11
        && headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let no_body = matches!(framing, Framing::None | Framing::Length(0));
    if headers.contains_key(UPGRADE) && has_token(headers, &CONNECTION, "upgrade") && !no_body {
        return Err(Malformed::UpgradeWithBody);
    }
    Ok(RequestHead {
        request,
        framing,
        keep_alive,
        expects_continue: expects_continue && !no_body,
    })
}

/// Parses the answer's head that ends at `end`; `method` is that of the request.
///
/// # Errors
/// Whatever would let two readers see different answers.
pub(crate) fn response(
    input: &mut BytesMut,
    end: usize,
    method: &Method,
    limits: &Limits,
) -> Result<ResponseHead, Malformed> {
    let head = input.split_to(end).freeze();
    let mut lines = [const { std::mem::MaybeUninit::uninit() }; MAX_LINES];
    let space = lines
        .get_mut(..limits.header_count.min(MAX_LINES))
        .unwrap_or_default();
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        &head,
        space,
    ) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Malformed::StatusLine),
        Err(error) => return Err(from_httparse(error, Malformed::StatusLine, &head)),
    }
    let version = version(parsed.version)?;
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
        .map_err(|_out_of_range| Malformed::StatusLine)?;
    let mut headers = map(&head, parsed.headers)?;
    let framing = response_framing(&headers, status, method, version)?;
    collapse_content_length(&mut headers);
    let mut kept = version == Version::HTTP_11;
    if has_any(&headers, &UNUSUAL) {
        headers.remove(TRANSFER_ENCODING);
        kept = keep_alive(&headers, version);
    }
    let keep_alive = kept && framing != Framing::UntilClose;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    Ok(ResponseHead {
        response,
        framing,
        keep_alive,
    })
}

/// Parses field lines without a first line, as in trailers.
pub(super) fn fields(section: &Bytes, limit: usize) -> Result<HeaderMap, Malformed> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let space = lines.get_mut(..limit.min(MAX_LINES)).unwrap_or_default();
    match httparse::parse_headers(section, space) {
        Ok(httparse::Status::Complete((_, parsed))) => map(section, parsed),
        Ok(httparse::Status::Partial) => Err(Malformed::Trailer),
        Err(error) => Err(from_httparse(error, Malformed::Trailer, section)),
    }
}

fn from_httparse(error: httparse::Error, line: Malformed, head: &[u8]) -> Malformed {
    match error {
        httparse::Error::TooManyHeaders => Malformed::TooManyHeaders,
        httparse::Error::Version => Malformed::Version,
        // RFC 9112 section 5.2: a line that begins with white space continues the one before.
        httparse::Error::HeaderName | httparse::Error::HeaderValue
            if head.windows(3).any(|at| matches!(at, b"\r\n " | b"\r\n\t")) =>
        {
            Malformed::ObsFold
        }
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Malformed::Header,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => line,
    }
}

fn version(minor: Option<u8>) -> Result<Version, Malformed> {
    match minor {
        Some(0) => Ok(Version::HTTP_10),
        Some(1) => Ok(Version::HTTP_11),
        Some(_) | None => Err(Malformed::Version),
    }
}

fn method(text: &str) -> Result<Method, Malformed> {
    let method =
        Method::from_bytes(text.as_bytes()).map_err(|_not_a_token| Malformed::RequestLine)?;
    check_case(text)?;
    Ok(method)
}

/// Methods are case-sensitive (RFC 9110 section 9.1); `get` is not GET, and an app that thinks so would be reached past
/// a rule about GET.
///
/// # Errors
/// A known method in another case.
pub(crate) fn check_case(method: &str) -> Result<(), Malformed> {
    let known = |name: &str| name.eq_ignore_ascii_case(method) && name != method;
    if method.bytes().any(|byte| byte.is_ascii_lowercase())
        && KNOWN_METHODS.iter().any(|name| known(name))
    {
        return Err(Malformed::MethodCase);
    }
    Ok(())
}

fn map(head: &Bytes, lines: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(lines.len() + SPARE_HEADERS);
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes())
            .map_err(|_not_a_token| Malformed::Header)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value))
            .map_err(|_control_byte| Malformed::Header)?;
        headers
            .try_append(name, value)
            .map_err(|_full| Malformed::TooManyHeaders)?;
    }
    Ok(headers)
}

/// RFC 9112 section 3.2: the four forms of a request target.
fn target(text: Bytes, method: &Method) -> Result<Uri, Malformed> {
    let first = text.first().copied().ok_or(Malformed::Target)?;
    if text.contains(&b'#') {
        return Err(Malformed::Target);
    }
    if *method == Method::CONNECT {
        let uri = Uri::from_maybe_shared(text).map_err(|_not_a_uri| Malformed::Target)?;
        let whole = uri.scheme().is_none() && uri.path_and_query().is_none();
        return if whole && uri.port_u16().is_some() {
            Ok(uri)
        } else {
            Err(Malformed::Target)
        };
    }
    if text.as_ref() == b"*" {
        return if *method == Method::OPTIONS {
            Ok(Uri::from_static("*"))
        } else {
            Err(Malformed::Target)
        };
    }
    let uri = Uri::from_maybe_shared(text).map_err(|_not_a_uri| Malformed::Target)?;
    let absolute = first != b'/';
    if absolute && (uri.scheme() != Some(&http::uri::Scheme::HTTP) || uri.authority().is_none()) {
        return Err(Malformed::Target);
    }
    path::normalise(uri)
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1; section 3.2.2: the absolute form's authority replaces it.
fn check_host(request: &mut Request<()>) -> Result<(), Malformed> {
    let host = single_host(request.headers())?;
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(Malformed::HostMissing);
    }
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    if authority.as_str().contains('@') {
        return Err(Malformed::Target);
    }
    let value =
        HeaderValue::from_str(authority.as_str()).map_err(|_unprintable| Malformed::Target)?;
    request.headers_mut().insert(HOST, value);
    // An authority may hold what a Host may not, such as a comma.
    single_host(request.headers()).map(|_host| ())
}

/// RFC 9112 section 6.3, for requests.
fn request_framing(headers: &HeaderMap, version: Version) -> Result<Framing, Malformed> {
    if !has_any(headers, &DECIDING) {
        return Ok(Framing::None);
    }
    let length = content_length(headers)?;
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(Malformed::ContentLength);
    }
    match (chunked(headers, version)?, length) {
        // Section 6.1: "regardless, the server MUST close the connection after responding to such a request".
        (true, Some(_)) => Err(Malformed::TeAndCl),
        (true, None) => Ok(Framing::Chunked),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::None),
    }
}

/// RFC 9112 section 6.3, for answers.
fn response_framing(
    headers: &HeaderMap,
    status: StatusCode,
    method: &Method,
    version: Version,
) -> Result<Framing, Malformed> {
    let length = content_length(headers)?;
    let chunked = chunked(headers, version)?;
    if chunked && length.is_some() {
        return Err(Malformed::TeAndCl);
    }
    let connected = *method == Method::CONNECT && status.is_success();
    if *method == Method::HEAD || is_bodiless(status) || connected {
        return Ok(Framing::None);
    }
    Ok(match (chunked, length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    })
}

/// RFC 9110 section 6.4.1: answers that never have content.
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

fn chunked(headers: &HeaderMap, version: Version) -> Result<bool, Malformed> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(false);
    };
    if version == Version::HTTP_10 {
        return Err(Malformed::TeInHttp10);
    }
    if values.next().is_some() || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Malformed::TransferEncoding);
    }
    Ok(true)
}

/// All values must be the same plain number (RFC 9110 section 8.6: `1*DIGIT`).
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Malformed::ContentLength);
        }
        let text = value
            .to_str()
            .map_err(|_not_ascii| Malformed::ContentLength)?;
        let number = text
            .parse::<u64>()
            .map_err(|_too_large| Malformed::ContentLength)?;
        if length.is_some_and(|other| other != number) {
            return Err(Malformed::ContentLength);
        }
        length = Some(number);
    }
    Ok(length)
}

fn collapse_content_length(headers: &mut HeaderMap) {
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1
        && let Some(first) = headers.get(CONTENT_LENGTH).cloned()
    {
        headers.insert(CONTENT_LENGTH, first);
    }
}

/// RFC 9112 section 9.3.
fn keep_alive(headers: &HeaderMap, version: Version) -> bool {
    if has_token(headers, &CONNECTION, "close") {
        return false;
    }
    version == Version::HTTP_11 || has_token(headers, &CONNECTION, "keep-alive")
}

const KNOWN_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
/// Where none of these is, a request has no body, and the connection is kept as its version says.
static DECIDING: [HeaderName; 5] = [
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    CONNECTION,
    EXPECT,
    UPGRADE,
];
/// What a usual answer does without.
static UNUSUAL: [HeaderName; 2] = [TRANSFER_ENCODING, CONNECTION];
/// The most header lines we can be configured to take.
const MAX_LINES: usize = 256;
/// Room for what the proxy adds.
const SPARE_HEADERS: usize = 3;

#[cfg(test)]
#[path = "parse/tests.rs"]
mod tests;
