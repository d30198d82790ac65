//! Which way a request takes to the service it is for: the first of the service's `routes` that matches.
//!
//! Comes after the filters and before the attempts. Compiled when a policy is taken in: a service without routes has no
//! [`Table`], and costs nothing here. What a route changes of the request is in the files below; its time-outs, retries and
//! fallback are those of its own [`CallPolicy`], which lies over the service's.

use std::sync::Arc;

use http::uri::Uri;
use http::{Request, Response};
use weft_policy::fault::Fault;
use weft_policy::matcher::{Captures, PathPattern, RequestMatch};
use weft_policy::route::Route;

use self::mirror::Mirror;
use self::redirect::Redirect;
use self::rewrite::Rewrite;
use self::split::Split;
use crate::cx::Cx;
use crate::discovery::service::Service;
use crate::exchange::Exchange;
use crate::filter::{fault, headers, matches::matches};
use crate::http::body::Body;
use crate::policy::calls::CallPolicy;
use crate::reject::Reject;
use crate::telemetry::record::RouteFacts;

pub(crate) mod fallback;
pub(crate) mod mirror;
mod redirect;
mod rewrite;
mod split;
mod template;

/// The routes of one service.
pub(crate) struct Table {
    rules: Vec<Rule>,
}

/// One route, ready to run.
struct Rule {
    /// `routes[2]`.
    name: Arc<str>,
    matches: Vec<Matcher>,
    split: Option<Split>,
    rewrite: Option<Rewrite>,
    redirect: Option<Redirect>,
    headers: weft_policy::headers::HeaderEdits,
    mirror: Option<Mirror>,
    fault: Option<Fault>,
    /// `None` where the route says nothing about how to call.
    calls: Option<Box<CallPolicy>>,
}

/// One match of a route, and what its paths are called in telemetry.
struct Matcher {
    wanted: RequestMatch,
    paths: Vec<Arc<str>>,
}

/// The way one request takes.
#[derive(Default)]
pub(crate) struct Way<'a> {
    rule: Option<&'a Rule>,
    pattern: Option<&'a PathPattern>,
    /// As it was matched, before a rewrite.
    uri: Uri,
    /// The service that a split has chosen in place of the one that was called.
    pub(crate) service: Option<Arc<Service>>,
    /// The answer, where the route is a redirection.
    pub(crate) redirection: Option<Response<Body>>,
}

impl Table {
    /// Makes the routes of `base` ready; `None` without any. `base` is also how the service is called where a route says
    /// nothing; `namespace` is our own.
    pub(crate) fn new(base: &CallPolicy, namespace: &str) -> Option<Self> {
        let routes = &base.calls.routes;
        let rules = routes.iter().enumerate();
        let rules: Vec<Rule> = rules
            .map(|(index, route)| Rule::new(index, route, base, namespace))
            .collect();
        (!rules.is_empty()).then_some(Self { rules })
    }

    /// Finds the route of `request`, which was for `port`, and does what it asks for; a request that no route matches goes on
    /// as it is.
    ///
    /// # Errors
    /// The route leads nowhere, or would make a request that is none.
    pub(crate) async fn take(
        &self,
        cx: &Cx,
        port: u16,
        request: &mut Request<Body>,
        exchange: &mut Exchange,
    ) -> Result<Way<'_>, Reject> {
        let Some((rule, pattern)) = self.find(request) else {
            return Ok(Way::default());
        };
        let mut way = Way {
            rule: Some(rule),
            pattern,
            uri: request.uri().clone(),
            ..Way::default()
        };
        exchange.routed(way.facts());
        if let Some(fault) = &rule.fault {
            fault::inject(cx, std::slice::from_ref(fault), request).await?;
        }
        if let Some(redirect) = &rule.redirect {
            way.redirection = Some(redirect.answer(request, way.captures().as_ref())?);
            return Ok(way);
        }
        if let Some(split) = &rule.split {
            way.service = Some(split.next(cx, port).await?);
        }
        if let Some(rewrite) = &rule.rewrite {
            rewrite.apply(request, way.captures().as_ref())?;
        }
        headers::edit(&rule.headers.request, request.headers_mut());
        if let Some(mirror) = &rule.mirror {
            mirror.copy(cx, port, request);
        }
        Ok(way)
    }

    fn find(&self, request: &Request<Body>) -> Option<(&Rule, Option<&PathPattern>)> {
        self.rules
            .iter()
            .find_map(|rule| Some((rule, rule.fits(request)?)))
    }
}

impl Rule {
    fn new(index: usize, route: &Route, base: &CallPolicy, namespace: &str) -> Self {
        let own = route.timeout.is_some() || route.retry.is_some() || route.fallback.is_some();
        Self {
            name: format!("routes[{index}]").into(),
            matches: route.matches.iter().map(Matcher::new).collect(),
            split: Split::new(&route.split, namespace),
            rewrite: route.rewrite.as_ref().map(Rewrite::new),
            redirect: route.redirect.as_ref().map(Redirect::new),
            headers: route.headers.clone(),
            mirror: route
                .mirror
                .as_ref()
                .map(|mirror| Mirror::new(mirror, namespace)),
            fault: route.fault.clone(),
            calls: own.then(|| Box::new(base.under(route))),
        }
    }

    /// `None` if the route is for other requests, else the path pattern that matched, if one was asked for.
    fn fits(&self, request: &Request<Body>) -> Option<Option<&PathPattern>> {
        if self.matches.is_empty() {
            return Some(None);
        }
        self.matches
            .iter()
            .find(|one| matches(&one.wanted, request))
            .map(|one| one.pattern(request.uri().path()))
    }
}

impl Matcher {
    fn new(wanted: &RequestMatch) -> Self {
        Self {
            paths: wanted
                .paths
                .iter()
                .map(|path| path.as_str().into())
                .collect(),
            wanted: wanted.clone(),
        }
    }

    /// The path pattern that matched.
    fn pattern(&self, path: &str) -> Option<&PathPattern> {
        let mut paths = self.wanted.paths.iter();
        paths.find(|pattern| pattern.matches(path))
    }
}

impl<'a> Way<'a> {
    /// How to call on this way; `base` is how the service is called.
    pub(crate) fn calls(&self, base: &'a CallPolicy) -> &'a CallPolicy {
        let own = self.rule.and_then(|rule| rule.calls.as_deref());
        own.unwrap_or(base)
    }

    /// What the wildcards of the matched path took.
    fn captures(&self) -> Option<Captures<'_>> {
        self.pattern?.captures(self.uri.path())
    }

    /// The answer in place of `reject`, if the way has one.
    pub(crate) fn fall_back(&self, calls: &CallPolicy, reject: Reject) -> Option<Response<Body>> {
        let fallback = calls.fallback.as_deref()?;
        fallback.answer(reject, self.captures().as_ref())
    }

    /// What the route does to the answer.
    pub(crate) fn answer(&self, response: &mut Response<Body>) {
        if let Some(rule) = self.rule {
            headers::edit(&rule.headers.response, response.headers_mut());
        }
    }

    /// What telemetry tells of the way: words of the operator's, never of the client's.
    fn facts(&self) -> Option<RouteFacts> {
        let rule = self.rule?;
        let template = self.pattern.and_then(|pattern| {
            let mut paths = rule.matches.iter().flat_map(|one| &one.paths);
            paths.find(|path| ***path == *pattern.as_str()).cloned()
        });
        Some(RouteFacts {
            name: Arc::clone(&rule.name),
            template,
        })
    }
}

#[cfg(test)]
mod tests;
