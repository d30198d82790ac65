//! Where a request carries its token: a header, a query parameter, a cookie.
//!
//! "Clients MUST NOT use more than one method to transmit the token in each request" (RFC 6750 section 2): of two different tokens we
//! would verify one and the app might read the other, so such a request is refused.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use weft_certs::jwt::error::JwtError;
use weft_policy::jwt::{JwtRule, TokenSource};

use crate::http::body::Body;
use crate::reject::Reject;

/// All places where a token may stand, each once.
pub(super) struct Sources(Vec<TokenSource>);

impl Sources {
    pub(super) fn of(rules: &[JwtRule]) -> Self {
        let mut all: Vec<TokenSource> = Vec::new();
        for source in rules.iter().flat_map(|rule| &rule.from) {
            if !all.contains(source) {
                all.push(source.clone());
            }
        }
        Self(all)
    }

    /// Whether `rule` takes tokens from there.
    pub(super) fn is_of(&self, source: usize, rule: &JwtRule) -> bool {
        let source = self.0.get(source);
        source.is_some_and(|source| rule.from.contains(source))
    }

    /// The request's token, and where it stands.
    ///
    /// # Errors
    /// There are two that differ, or what stands there cannot be read.
    pub(super) fn find<'a>(
        &self,
        request: &'a Request<Body>,
    ) -> Result<Option<(Cow<'a, str>, usize)>, Reject> {
        let mut found: Option<(&str, usize)> = None;
        for (place, source) in self.0.iter().enumerate() {
            each(request, source, |token| {
                let token = token.ok_or(JwtError::Malformed)?;
                match found {
                    None => found = Some((token, place)),
                    Some((known, _)) if known == token => {}
                    Some(_) => return Err(Reject::JwtSeveral),
                }
                Ok(())
            })?;
        }
        Ok(found.map(|(token, place)| (Cow::Borrowed(token), place)))
    }

    /// Takes the token out of the request, from every place where it stands.
    pub(super) fn remove(&self, source: usize, request: &mut Request<Body>) {
        match self.0.get(source) {
            Some(TokenSource::Header(name)) => {
                request.headers_mut().remove(name);
            }
            Some(TokenSource::Query(name)) => {
                if let Some(uri) = without_parameter(request.uri(), name) {
                    *request.uri_mut() = uri;
                }
            }
            Some(TokenSource::Cookie(name)) => remove_cookie(request.headers_mut(), name),
            None => {}
        }
    }
}

/// Shows what stands at `source`; `None` for what is not text.
fn each<'a>(
    request: &'a Request<Body>,
    source: &TokenSource,
    mut see: impl FnMut(Option<&'a str>) -> Result<(), Reject>,
) -> Result<(), Reject> {
    match source {
        TokenSource::Header(name) => {
            let mut values = request.headers().get_all(name).iter();
            values.try_for_each(|value| in_header(name, value).map_or(Ok(()), &mut see))
        }
        TokenSource::Query(name) => {
            let pairs = request.uri().query().unwrap_or_default().split('&');
            let values = pairs.filter_map(|pair| pair.split_once('='));
            let mut ours = values.filter(|(key, _)| key == name);
            ours.try_for_each(|(_, value)| see(Some(value)))
        }
        TokenSource::Cookie(name) => {
            let headers = request.headers().get_all(COOKIE).iter();
            let pairs = headers.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
            let mut ours = pairs.filter_map(|pair| cookie_value(pair, name));
            ours.try_for_each(|value| see(std::str::from_utf8(value).ok()))
        }
    }
}

/// In `Authorization` another scheme than Bearer is no token; in other headers the word Bearer may be left out.
fn in_header<'a>(name: &HeaderName, value: &'a HeaderValue) -> Option<Option<&'a str>> {
    let Ok(value) = value.to_str() else {
        return Some(None);
    };
    let bearer = value
        .split_at_checked(BEARER.len())
        .filter(|(scheme, rest)| {
            scheme.eq_ignore_ascii_case(BEARER) && (rest.is_empty() || rest.starts_with(' '))
        });
    match bearer {
        Some((_, token)) => Some(Some(token.trim_matches(' '))),
        None if *name == AUTHORIZATION || value.is_empty() => None,
        None => Some(Some(value)),
    }
}

/// RFC 6265 section 4.2.1; the value may stand in quotes.
fn cookie_value<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pair = pair.trim_ascii();
    let value = pair.strip_prefix(name.as_bytes())?.trim_ascii_start();
    let value = value.strip_prefix(b"=")?.trim_ascii();
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value))
}

fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let is_ours = |pair: &&str| pair.split_once('=').is_some_and(|(key, _)| key == name);
    let kept = uri.query()?.split('&').filter(|pair| !is_ours(pair));
    let kept: Vec<&str> = kept.collect();
    let path = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let pairs = headers.get_all(COOKIE).iter();
    let pairs = pairs.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let kept: Vec<&[u8]> = pairs
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty() && cookie_value(pair, name).is_none())
        .collect();
    let joined = HeaderValue::from_bytes(&kept.join(&b"; "[..]));
    headers.remove(COOKIE);
    if let Ok(value) = joined
        && !value.is_empty()
    {
        headers.insert(COOKIE, value);
    }
}

const BEARER: &str = "Bearer";

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        Sources(vec![
            TokenSource::Header(AUTHORIZATION),
            TokenSource::Header(HeaderName::from_static("x-token")),
            TokenSource::Query("access_token".to_owned()),
            TokenSource::Cookie("session".to_owned()),
        ])
    }

    fn request(uri: &str, headers: &[(&'static str, &'static str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(*name, value);
        }
        request
    }

    #[test]
    fn a_token_is_found_where_it_may_stand() {
        let malformed = Err("jwt_malformed");
        #[rustfmt::skip]
        let rows: [(&str, &[(&str, &str)], Result<Option<&str>, &str>); 21] = [
            ("/", &[], Ok(None)),
            ("/", &[("authorization", "Bearer a.b.c")], Ok(Some("a.b.c"))),
            ("/", &[("authorization", "bEARER   a.b.c ")], Ok(Some("a.b.c"))),
            ("/", &[("authorization", "Bearer")], Ok(Some(""))),
            ("/", &[("authorization", "Bearera.b.c")], Ok(None)),
            ("/", &[("authorization", "Basic dTpw")], Ok(None)),
            ("/", &[("authorization", "Bearer ä")], malformed),
            ("/", &[("authorization", "Bearer a"), ("authorization", "Bearer b")], Err("jwt_several")),
            ("/", &[("authorization", "Bearer a"), ("authorization", "Bearer a")], Ok(Some("a"))),
            ("/", &[("authorization", "Bearer a, Bearer b")], Ok(Some("a, Bearer b"))),
            ("/", &[("x-token", "a.b.c")], Ok(Some("a.b.c"))),
            ("/", &[("x-token", "Bearer a.b.c")], Ok(Some("a.b.c"))),
            ("/", &[("x-token", "")], Ok(None)),
            ("/?access_token=a.b.c&x=1", &[], Ok(Some("a.b.c"))),
            ("/?xaccess_token=a.b.c", &[], Ok(None)),
            ("/?access_token=a&access_token=b", &[], Err("jwt_several")),
            ("/?access_token=a", &[("authorization", "Bearer b")], Err("jwt_several")),
            ("/", &[("cookie", "a=1; session=a.b.c; b=2")], Ok(Some("a.b.c"))),
            ("/", &[("cookie", "session=\"a.b.c\"")], Ok(Some("a.b.c"))),
            ("/", &[("cookie", "xsession=a; Session=b; sessionx=c")], Ok(None)),
            ("/", &[("cookie", "session=a"), ("cookie", "session=b")], Err("jwt_several")),
        ];
        for (uri, headers, want) in rows {
            let request = request(uri, headers);
            let found = sources().find(&request);
            let found = found.map(|found| found.map(|(token, _)| token.into_owned()));
            assert_eq!(
                found
                    .as_ref()
                    .map(Option::as_deref)
                    .map_err(|reject| reject.label()),
                want,
                "{uri} {headers:?}"
            );
        }
    }

    #[test]
    fn only_the_token_is_removed() {
        let rows = [
            (2, "/a?access_token=t", "/a"),
            (2, "/a?x=1&access_token=t&y=%20", "/a?x=1&y=%20"),
            (2, "/a?x", "/a?x"),
        ];
        for (source, uri, want) in rows {
            let mut request = request(uri, &[]);
            sources().remove(source, &mut request);
            assert_eq!(request.uri(), want);
        }
        let cookies = [("cookie", "a=1; session=t"), ("cookie", "b=2;c")];
        let mut request = request("/", &cookies);
        sources().remove(3, &mut request);
        let left: Vec<_> = request.headers().get_all(COOKIE).iter().collect();
        assert_eq!(left, ["a=1; b=2; c"]);
    }
}
