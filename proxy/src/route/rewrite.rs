//! `rewrite`: another path and Host for the next hop.
//!
//! The result is normalised like what came from outside: it must have one reading only, and nothing that a wildcard took
//! may lead out of the place where the operator has put it.

use http::header::HOST;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Request};
use weft_policy::matcher::Captures;

use super::template::Template;
use crate::http::path;
use crate::reject::Reject;

/// A rewrite, ready to run.
pub(super) struct Rewrite {
    path: Option<Template>,
    host: Option<HeaderValue>,
}

impl Rewrite {
    pub(super) fn new(rewrite: &weft_policy::route::Rewrite) -> Self {
        let host = rewrite.host.as_ref();
        Self {
            path: rewrite.path.as_deref().map(Template::new),
            host: host.and_then(|host| HeaderValue::from_str(&host.name).ok()),
        }
    }

    /// # Errors
    /// [`Reject::Rewrite`] for what is no path with one reading.
    pub(super) fn apply<B>(
        &self,
        request: &mut Request<B>,
        captures: Option<&Captures<'_>>,
    ) -> Result<(), Reject> {
        let mut path = request.uri().path_and_query().cloned();
        if let Some(template) = &self.path {
            let text = template.fill(captures);
            path = Some(normalised(&text, request.uri().query())?);
        }
        if let Some(host) = &self.host {
            request.headers_mut().insert(HOST, host.clone());
        }
        // Host alone names the authority from here on.
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
        Ok(())
    }
}

/// `path` with the request's own query, unless it has one.
pub(super) fn normalised(path: &str, query: Option<&str>) -> Result<PathAndQuery, Reject> {
    let whole = match query {
        Some(query) if !path.contains('?') => format!("{path}?{query}"),
        _ => path.to_owned(),
    };
    let uri = match whole.parse::<Uri>() {
        Ok(uri) if whole.starts_with('/') => uri,
        Ok(_) | Err(_) => return Err(Reject::Rewrite),
    };
    let uri = path::normalise(uri).map_err(|_many_readings| Reject::Rewrite)?;
    uri.into_parts().path_and_query.ok_or(Reject::Rewrite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(path: &str, captures: &[&str]) -> Result<Request<()>, Reject> {
        let rewrite = Rewrite::new(&weft_policy::route::Rewrite {
            path: Some(path.to_owned()),
            host: None,
        });
        let mut request = Request::get("http://orders/api/user/x?q=1&r=%2F")
            .body(())
            .unwrap();
        let parts = captures.iter().map(|part| (None, *part)).collect();
        rewrite.apply(&mut request, Some(&Captures { parts }))?;
        Ok(request)
    }

    #[test]
    fn the_path_is_put_together_and_normalised() {
        let rows: &[(&str, &[&str], &str)] = &[
            ("/$1", &["user/7"], "/user/7?q=1&r=%2F"),
            ("/v2", &[], "/v2?q=1&r=%2F"),
            ("/v2?fixed=1", &[], "/v2?fixed=1"),
            ("/a/$1", &["b%2fc"], "/a/b%2Fc?q=1&r=%2F"),
            ("/a/$1/b", &[""], "/a//b?q=1&r=%2F"),
            ("/a/x/../$1", &["b"], "/a/b?q=1&r=%2F"),
        ];
        for (path, captures, want) in rows {
            assert_eq!(rewritten(path, captures).unwrap().uri(), want, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for (path, capture) in [
            ("$1", "user"),
            ("/$1", "a\\b"),
            ("/$1", "%zz"),
            ("/$1", "%00"),
            ("/a b", ""),
        ] {
            assert_eq!(
                rewritten(path, &[capture]).err(),
                Some(Reject::Rewrite),
                "{path} {capture}"
            );
        }
    }
}
