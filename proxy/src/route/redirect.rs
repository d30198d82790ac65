//! `redirect`: an answer that sends the caller elsewhere (RFC 9110 section 15.4).
//!
//! Parts that are not written stay the request's own. As in the Gateway API, a scheme brings its well-known port along, and
//! that port is never written out.

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode};
use weft_policy::matcher::Captures;

use super::rewrite::normalised;
use super::template::Template;
use crate::http::body::Body;
use crate::reject::{self, Reject};

/// A redirection, ready to run.
pub(super) struct Redirect {
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<Template>,
    status: StatusCode,
}

impl Redirect {
    pub(super) fn new(redirect: &weft_policy::route::Redirect) -> Self {
        Self {
            scheme: redirect.scheme.clone(),
            host: redirect.host.clone(),
            port: redirect.port,
            path: redirect.path.as_deref().map(Template::new),
            status: redirect.status,
        }
    }

    /// # Errors
    /// [`Reject::Rewrite`] where no URL comes of it.
    pub(super) fn answer<B>(
        &self,
        request: &Request<B>,
        captures: Option<&Captures<'_>>,
    ) -> Result<Response<Body>, Reject> {
        let location = HeaderValue::try_from(self.location(request, captures)?)
            .map_err(|_unprintable| Reject::Rewrite)?;
        Ok(reject::redirection(self.status, location))
    }

    fn location<B>(
        &self,
        request: &Request<B>,
        captures: Option<&Captures<'_>>,
    ) -> Result<String, Reject> {
        let own = request
            .headers()
            .get(HOST)
            .and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let own_host = own.as_ref().map(Authority::host);
        let host = self.host.as_deref().or(own_host).ok_or(Reject::Rewrite)?;
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let known = if scheme == "https" { 443 } else { 80 };
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => port,
            (None, Some(_)) => known,
            (None, None) => own.as_ref().and_then(Authority::port_u16).unwrap_or(known),
        };
        let port = match port {
            port if port == known => String::new(),
            port => format!(":{port}"),
        };
        let uri = request.uri();
        let path = match &self.path {
            Some(template) => normalised(&template.fill(captures), uri.query())?,
            None => uri.path_and_query().cloned().ok_or(Reject::Rewrite)?,
        };
        Ok(format!("{scheme}://{host}{port}{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect() -> weft_policy::route::Redirect {
        weft_policy::route::Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
        }
    }

    #[test]
    fn what_is_not_written_stays_the_requests_own() {
        let text = |text: &str| Some(text.to_owned());
        let rows = [
            (redirect(), "http://shop:8080/a?b=1"),
            (
                weft_policy::route::Redirect {
                    scheme: text("https"),
                    ..redirect()
                },
                "https://shop/a?b=1",
            ),
            (
                weft_policy::route::Redirect {
                    scheme: text("https"),
                    port: Some(8443),
                    ..redirect()
                },
                "https://shop:8443/a?b=1",
            ),
            (
                weft_policy::route::Redirect {
                    port: Some(80),
                    ..redirect()
                },
                "http://shop/a?b=1",
            ),
            (
                weft_policy::route::Redirect {
                    host: text("example.com"),
                    path: text("/new/$1"),
                    ..redirect()
                },
                "http://example.com:8080/new/x?b=1",
            ),
        ];
        let request = Request::get("/a?b=1")
            .header(HOST, "shop:8080")
            .body(())
            .unwrap();
        let captures = Captures {
            parts: vec![(None, "x")],
        };
        for (redirect, want) in rows {
            let response = Redirect::new(&redirect)
                .answer(&request, Some(&captures))
                .unwrap();
            assert_eq!(response.status(), 302);
            assert_eq!(response.headers()["location"], want);
        }
    }
}
