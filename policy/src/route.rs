//! `routes`: which service a request goes to, and what happens to it on the way.

use std::num::NonZeroU16;

use http::StatusCode;

use crate::caller::is_name;
use crate::fault::Fault;
use crate::headers::{HeaderEdits, header_value};
use crate::matcher::{self, HostPattern, PathPattern, RequestMatch};
use crate::node::Kind;
use crate::own;
use crate::read::{At, Fields, Item};
use crate::retry::Retry;
use crate::scope::Scope;
use crate::status::parse_status;
use crate::timeout::Timeouts;
use crate::units::{self, Share};

/// One route; the first that matches wins.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Route {
    /// What it is for; one of several must match.
    pub matches: Vec<RequestMatch>,
    /// Where it goes; empty is the service itself.
    pub split: Vec<Split>,
    /// The path and host that are sent on.
    pub rewrite: Option<Rewrite>,
    /// Answered with a redirection instead.
    pub redirect: Option<Redirect>,
    /// Edits of the heads.
    pub headers: HeaderEdits,
    /// The service's own with the route's over them.
    pub timeout: Option<Timeouts>,
    /// The service's own with the route's over it.
    pub retry: Option<Retry>,
    /// A copy goes there as well, and its answer nowhere.
    pub mirror: Option<Mirror>,
    /// Trouble on purpose.
    pub fault: Option<Fault>,
    /// In place of the service's own.
    pub fallback: Option<Fallback>,
}

/// A service as an operator names it: `orders`, `orders.shop`, with a port if it is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// The name.
    pub name: String,
    /// The namespace; the policy's own unless written, none for a host outside the cluster.
    pub namespace: Option<String>,
    /// `orders:8080`; the request's own unless written.
    pub port: Option<NonZeroU16>,
}

/// One part of a weighted split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Where to.
    pub service: ServiceRef,
    /// In proportion to the others' weights; 0 sends nothing.
    pub weight: u32,
}

/// What is sent on in place of what came.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Rewrite {
    /// The path; `$1` and `{name}` stand for what `*` and `{name}` of the match took, or a regex's groups.
    pub path: Option<String>,
    /// The Host.
    pub host: Option<HostPattern>,
}

/// An answer that sends the caller elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `http` or `https`; the request's own unless written.
    pub scheme: Option<String>,
    /// The host; the request's own unless written.
    pub host: Option<String>,
    /// The port; that of the scheme if one is written, else the request's own.
    pub port: Option<u16>,
    /// The path, with captures as in [`Rewrite`]; the request's own unless written.
    pub path: Option<String>,
    /// 301, 302, 303, 307 or 308; 302 unless written.
    pub status: StatusCode,
}

/// A copy of requests, sent and forgotten.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where to.
    pub service: ServiceRef,
    /// Of requests.
    pub share: Share,
}

/// What is answered when the breaker is open, on timeout, and when there is no connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// 200 unless written.
    pub status: StatusCode,
    /// `text/plain; charset=utf-8` unless written.
    pub content_type: http::HeaderValue,
    /// UTF-8; `{name}` stands for what `{name}` of the route's template took.
    pub body: String,
}

/// What a route's own values are written over.
#[derive(Clone, Copy)]
pub(crate) struct Base<'a> {
    pub(crate) timeout: Timeouts,
    pub(crate) retry: &'a Retry,
}

impl Route {
    pub(crate) fn read_list(at: &At<'_>, base: Base<'_>) -> Vec<Self> {
        let items = at.nodes(MAX_ROUTES);
        items.iter().map(|at| Self::read(at, base)).collect()
    }

    fn read(at: &At<'_>, base: Base<'_>) -> Self {
        let fields = at.fields(&[
            "match", "split", "rewrite", "redirect", "headers", "timeout", "retry", "mirror",
            "fault", "fallback",
        ]);
        let matches = fields
            .get("match")
            .map(|at| matches(&at))
            .unwrap_or_default();
        let route = Self {
            split: fields
                .get("split")
                .map(|at| Split::read_list(&at))
                .unwrap_or_default(),
            rewrite: fields.get("rewrite").map(|at| Rewrite::read(&at, &matches)),
            redirect: fields
                .get("redirect")
                .map(|at| Redirect::read(&at, &matches)),
            headers: fields
                .get("headers")
                .map(|at| HeaderEdits::read(&at))
                .unwrap_or_default(),
            timeout: fields
                .get("timeout")
                .map(|at| Timeouts::read(&at, base.timeout)),
            retry: fields.get("retry").map(|at| Retry::read(&at, base.retry)),
            mirror: fields.get("mirror").and_then(|at| Mirror::read(&at)),
            fault: fields.get("fault").map(|at| Fault::read(&at)),
            fallback: fields.get("fallback").map(|at| Fallback::read(&at)),
            matches,
        };
        check_redirect(at, &fields, &route);
        route
    }
}

/// One match, or several of which one must hold.
fn matches(at: &At<'_>) -> Vec<RequestMatch> {
    at.nodes(MAX_ROUTES)
        .iter()
        .map(RequestMatch::read)
        .collect()
}

/// What would never come to pass behind a redirection.
fn check_redirect(at: &At<'_>, fields: &Fields<'_>, route: &Route) {
    let sent = ["split", "rewrite", "mirror", "retry", "timeout", "fallback"];
    if let Some(key) = sent
        .iter()
        .find(|key| route.redirect.is_some() && fields.has(key))
    {
        at.complain(format!(
            "has a redirect, so {key} does nothing; leave one of them out"
        ));
    }
}

impl ServiceRef {
    /// Parses `orders`, `orders.shop` or a host outside the cluster (`api.example.com`), each with or without `:8080`; a short
    /// name is in the namespace of `scope`.
    ///
    /// # Errors
    /// Says how a service is named.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, String> {
        let (whole, port) = match text.split_once(':') {
            Some((whole, port)) => (whole, Some(own::port(port)?)),
            None => (text, None),
        };
        let port = port.and_then(NonZeroU16::new);
        if whole.split('.').count() > 2 {
            return Self::host(whole, port);
        }
        let (name, namespace) = whole.split_once('.').unwrap_or((whole, &scope.namespace));
        let fits = |label: &str| is_name(label) && !label.contains('.');
        if !fits(name) || !fits(namespace) {
            return Err("is no service; write orders, orders.shop or orders.shop:8080".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
            port,
        })
    }

    /// `orders.shop.svc`, `orders.shop.svc.cluster.local`, and hosts that are in no namespace.
    fn host(text: &str, port: Option<NonZeroU16>) -> Result<Self, String> {
        let host = HostPattern::parse(text)?;
        if host.wildcard {
            return Err("is a pattern, not one service".to_owned());
        }
        let whole = host.name.strip_suffix(".cluster.local");
        let cluster = whole.unwrap_or(&host.name).strip_suffix(".svc");
        Ok(match cluster.and_then(|cluster| cluster.split_once('.')) {
            Some((name, namespace)) if !namespace.contains('.') => Self {
                name: name.to_owned(),
                namespace: Some(namespace.to_owned()),
                port,
            },
            _ => Self {
                name: host.name,
                namespace: None,
                port,
            },
        })
    }
}

impl Split {
    fn read_list(at: &At<'_>) -> Vec<Self> {
        let items = at.items(MAX_SPLIT).into_iter();
        let split: Vec<Self> = items.filter_map(|item| Self::read(&item)).collect();
        if !split.is_empty() && split.iter().all(|part| part.weight == 0) {
            at.complain("has no weight above 0");
        }
        split
    }

    fn read(item: &Item<'_>) -> Option<Self> {
        let Item::Node(at) = item else {
            let service = item.parse(|text| ServiceRef::parse(text, item.at().scope()))?;
            return Some(Self { service, weight: 1 });
        };
        let fields = at.fields_or("service", &["service", "weight"]);
        let service = fields
            .must("service")?
            .parse(|text| ServiceRef::parse(text, at.scope()))?;
        let weight = fields
            .get("weight")
            .and_then(|at| at.number(0, MAX_WEIGHT))
            .unwrap_or(1);
        Some(Self { service, weight })
    }
}

impl Rewrite {
    fn read(at: &At<'_>, matches: &[RequestMatch]) -> Self {
        let fields = at.fields_or("path", &["path", "host"]);
        let host = fields.get("host").and_then(|at| {
            let host = at.parse(HostPattern::parse)?;
            if host.wildcard {
                at.refuse("is no host that can be sent");
            }
            Some(host)
        });
        Self {
            path: fields.get("path").and_then(|at| template(&at, matches)),
            host,
        }
    }
}

/// A path whose captures every pattern of the match makes.
fn template(at: &At<'_>, matches: &[RequestMatch]) -> Option<String> {
    let text = at.text()?;
    if !text.starts_with('/') && !text.starts_with('$') && !text.starts_with('{') {
        at.refuse("does not begin with a slash");
    }
    let paths = matches.iter().flat_map(|one| &one.paths);
    let none = matches.is_empty() || matches.iter().any(|one| one.paths.is_empty());
    for name in matcher::placeholders(text) {
        let made = |pattern: &PathPattern| pattern.makes(name);
        if none || !paths.clone().all(made) {
            at.refuse(format!(
                "uses {name}, which the match does not take from every path"
            ));
        }
    }
    Some(text.to_owned())
}

impl Redirect {
    fn read(at: &At<'_>, matches: &[RequestMatch]) -> Self {
        let fields = at.fields_or("path", &["scheme", "host", "port", "path", "status"]);
        let scheme = [("http", "http"), ("https", "https")];
        let host = |text: &str| match HostPattern::parse(text)? {
            host if host.wildcard => Err("is no host that can be sent".to_owned()),
            host => Ok(host.name),
        };
        let status = |text: &str| match parse_status(text, 301..=308)? {
            status if [301, 302, 303, 307, 308].contains(&status.as_u16()) => Ok(status),
            _ => Err("is not one of 301, 302, 303, 307, 308".to_owned()),
        };
        Self {
            scheme: fields
                .get("scheme")
                .and_then(|at| at.word(&scheme))
                .map(str::to_owned),
            host: fields.get("host").and_then(|at| at.parse(host)),
            port: fields.get("port").and_then(|at| at.parse(own::port)),
            path: fields.get("path").and_then(|at| template(&at, matches)),
            status: fields
                .get("status")
                .and_then(|at| at.parse(status))
                .unwrap_or(StatusCode::FOUND),
        }
    }
}

impl Mirror {
    fn read(at: &At<'_>) -> Option<Self> {
        let fields = at.fields_or("service", &["service", "share"]);
        let service = fields
            .must("service")?
            .parse(|text| ServiceRef::parse(text, at.scope()))?;
        let share = fields
            .get("share")
            .and_then(|at| at.parse(units::parse_share));
        let share = share.unwrap_or(Share::ALL);
        Some(Self { service, share })
    }
}

impl Fallback {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields_or("body", &["status", "content-type", "body"]);
        let status = fields
            .get("status")
            .and_then(|at| at.parse(|text| parse_status(text, 200..=599)));
        let content_type = fields
            .get("content-type")
            .and_then(|at| at.parse(header_value));
        let body = fields.get("body").and_then(|at| match &at.node.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => at.text().map(str::to_owned),
        });
        Self {
            status: status.unwrap_or(StatusCode::OK),
            content_type: content_type
                .unwrap_or(http::HeaderValue::from_static("text/plain; charset=utf-8")),
            body: body.unwrap_or_default(),
        }
    }
}

const MAX_ROUTES: usize = 512;
const MAX_SPLIT: usize = 64;
const MAX_WEIGHT: u64 = 1_000_000;
