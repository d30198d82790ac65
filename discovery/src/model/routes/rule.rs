//! One rule of a route as entries of `routes`, one a match, each with its place in the order of the Gateway API.

use std::cmp::Reverse;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::spec::{BackendRef, Condition, Edits, Filter, GrpcMethod, Match, PathEdit, Rule};
use crate::cluster::Key;

/// An entry of `routes` and its place.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) order: Order,
    pub(super) route: Value,
}

/// "Precedence must be given to the match with the most specific path", then method, headers, query; then the oldest route, then by name
/// (HTTPRouteRule.matches). Smaller comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// Exact paths, prefixes by length, the rest.
    path: (u8, Reverse<usize>),
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    route: Option<Key>,
    rule: usize,
    /// Of one match: what must be looked at first.
    part: usize,
}

/// What is known of services that rules send to.
pub(super) struct Backends<'a> {
    /// The route's own.
    pub(super) namespace: &'a str,
    pub(super) exists: &'a dyn Fn(&Key, u16) -> bool,
}

impl Line {
    /// The same as a part of a route.
    pub(super) fn of(mut self, created: i64, route: &Key) -> Self {
        self.order.created = created;
        self.order.route = Some(route.clone());
        self
    }
}

/// How a match reads a path, and what of it an edit can use.
struct Path {
    /// `None` is all paths.
    pattern: Option<String>,
    /// Of a prefix, without its last slash.
    prefix: Option<String>,
    order: (u8, Reverse<usize>),
}

impl Rule {
    pub(super) fn lines(&self, grpc: bool, backends: &Backends<'_>, index: usize) -> Vec<Line> {
        let any = [Match::default()];
        let matches = if self.matches.is_empty() {
            &any[..]
        } else {
            &self.matches
        };
        let lines = matches
            .iter()
            .flat_map(|one| self.of_match(one, grpc, backends));
        let placed = lines.enumerate().map(|(part, mut line)| {
            line.order.rule = index;
            line.order.part = part;
            line
        });
        placed.collect()
    }

    fn of_match(&self, one: &Match, grpc: bool, backends: &Backends<'_>) -> Vec<Line> {
        let path = if grpc { grpc_path(one) } else { http_path(one) };
        let method = one
            .method
            .as_ref()
            .filter(|_| !grpc)
            .and_then(Value::as_str);
        let order = Order {
            path: path.order,
            method: Reverse(method.is_some()),
            headers: Reverse(one.headers.len()),
            query: Reverse(one.query_params.len()),
            ..Order::default()
        };
        let line = |pattern: Option<&str>, edited: Option<String>| {
            let mut matched = Map::new();
            if let Some(pattern) = pattern {
                matched.insert("path".to_owned(), json!(pattern));
            }
            if let Some(method) = method {
                matched.insert("method".to_owned(), json!(method));
            }
            for (key, conditions) in [("headers", &one.headers), ("query", &one.query_params)] {
                if !conditions.is_empty() {
                    let pairs = conditions
                        .iter()
                        .map(|one| (one.name.clone(), json!(value(one))));
                    matched.insert(key.to_owned(), Value::Object(pairs.collect()));
                }
            }
            let mut route = self.action(edited.as_deref(), backends);
            if !matched.is_empty() {
                route.insert("match".to_owned(), Value::Object(matched));
            }
            Line {
                order: order.clone(),
                route: Value::Object(route),
            }
        };
        let edit = self.filters.iter().find_map(Filter::path);
        let full = edit.and_then(|edit| edit.replace_full_path.clone());
        let prefix = edit.and_then(|edit| edit.replace_prefix_match.clone());
        match (prefix, &path.prefix) {
            (Some(next), Some(prefix)) => {
                let next = next.trim_end_matches('/');
                let below = line(Some(&format!("{prefix}/*")), Some(format!("{next}/$1")));
                let itself = match next {
                    "" => "/".to_owned(),
                    next => next.to_owned(),
                };
                let itself = (!prefix.is_empty()).then(|| line(Some(prefix), Some(itself)));
                itself.into_iter().chain([below]).collect()
            }
            _ => vec![line(path.pattern.as_deref(), full)],
        }
    }

    /// All but the match; `path` is what the path becomes.
    fn action(&self, path: Option<&str>, backends: &Backends<'_>) -> Map<String, Value> {
        let mut route = Map::new();
        // Filters of a lone backend are those of the rule.
        let own = match self.backend_refs.as_slice() {
            [only] => only.filters.as_slice(),
            _ => &[],
        };
        let mut headers = Map::new();
        for filter in self.filters.iter().chain(own) {
            for (key, edits) in [
                ("request", &filter.request_header_modifier),
                ("response", &filter.response_header_modifier),
            ] {
                if let Some(edits) = edits {
                    join(headers.entry(key).or_insert_with(|| json!({})), edits);
                }
            }
            if let Some(mirror) = &filter.request_mirror
                && let Some(service) = destination(&mirror.backend_ref, backends)
            {
                let share = format!("{}%", mirror.percent.unwrap_or(100));
                route.insert(
                    "mirror".to_owned(),
                    json!({"service": service, "share": share}),
                );
            }
        }
        if !headers.is_empty() {
            route.insert("headers".to_owned(), Value::Object(headers));
        }
        if let Some(redirect) = self
            .filters
            .iter()
            .find_map(|filter| filter.request_redirect.as_ref())
        {
            let fields = [
                ("scheme", redirect.scheme.clone()),
                ("host", redirect.hostname.clone()),
                ("port", redirect.port.map(|port| port.to_string())),
                ("path", path.map(str::to_owned)),
                (
                    "status",
                    Some(redirect.status_code.unwrap_or(302).to_string()),
                ),
            ];
            route.insert("redirect".to_owned(), object(fields));
            route.remove("mirror");
            return route;
        }
        let host = self
            .filters
            .iter()
            .find_map(|filter| filter.url_rewrite.as_ref()?.hostname.clone());
        if path.is_some() || host.is_some() {
            route.insert(
                "rewrite".to_owned(),
                object([("path", path.map(str::to_owned)), ("host", host)]),
            );
        }
        if let Some(timeouts) = &self.timeouts {
            // "0s" is none.
            let said = |text: &Option<String>| {
                text.clone()
                    .filter(|text| text.trim_start_matches('0') != "s")
            };
            let fields = [
                ("request", said(&timeouts.request)),
                ("try", said(&timeouts.backend_request)),
            ];
            if fields.iter().any(|(_, value)| value.is_some()) {
                route.insert("timeout".to_owned(), object(fields));
            }
        }
        self.send(&mut route, backends);
        route
    }

    /// Where to; the share of what is not there is answered with 500.
    fn send(&self, route: &mut Map<String, Value>, backends: &Backends<'_>) {
        let parts = self
            .backend_refs
            .iter()
            .map(|one| (one.weight.unwrap_or(1), destination(one, backends)));
        let parts: Vec<(u32, Option<String>)> = parts.filter(|(weight, _)| *weight > 0).collect();
        let total: u32 = parts.iter().map(|(weight, _)| weight).sum();
        let missing: u32 = parts
            .iter()
            .filter(|(_, to)| to.is_none())
            .map(|(weight, _)| weight)
            .sum();
        if missing == total {
            route.insert("fault".to_owned(), json!({"abort": {"status": "500"}}));
            return;
        }
        if missing > 0 {
            let share = f64::from(missing) * 100.0 / f64::from(total);
            route.insert(
                "fault".to_owned(),
                json!({"abort": {"status": "500", "share": format!("{share:.2}%")}}),
            );
        }
        let there = parts.iter().filter_map(|(weight, to)| {
            Some(json!({"service": to.as_ref()?, "weight": weight.to_string()}))
        });
        route.insert("split".to_owned(), there.collect());
    }
}

impl Filter {
    fn path(&self) -> Option<&PathEdit> {
        let redirect = self
            .request_redirect
            .as_ref()
            .and_then(|one| one.path.as_ref());
        redirect.or_else(|| self.url_rewrite.as_ref()?.path.as_ref())
    }
}

/// `orders.shop:80`, if there is such a port of such a service.
fn destination(one: &BackendRef, backends: &Backends<'_>) -> Option<String> {
    let (key, port) = (one.key(backends.namespace), one.port?);
    let there = one.is_service() && (backends.exists)(&key, port);
    there.then(|| format!("{}.{}:{port}", key.name, key.namespace))
}

fn http_path(one: &Match) -> Path {
    let all = Path {
        pattern: None,
        prefix: Some(String::new()),
        order: (1, Reverse(0)),
    };
    let Some(condition) = &one.path else {
        return all;
    };
    let value = condition.value.clone().unwrap_or_else(|| "/".to_owned());
    let length = Reverse(value.len());
    match condition.kind.as_deref().unwrap_or("PathPrefix") {
        "Exact" => Path {
            pattern: Some(literal(&value)),
            prefix: None,
            order: (0, length),
        },
        "RegularExpression" => Path {
            pattern: Some(format!("regex:{value}")),
            prefix: None,
            order: (2, length),
        },
        _ => match value.trim_end_matches('/') {
            "" => all,
            prefix => Path {
                pattern: Some(format!("{prefix}/*")),
                prefix: Some(prefix.to_owned()),
                order: (1, Reverse(prefix.len())),
            },
        },
    }
}

/// A gRPC call is a POST to `/service/method`.
fn grpc_path(one: &Match) -> Path {
    let method = one
        .method
        .as_ref()
        .and_then(|method| GrpcMethod::deserialize(method).ok())
        .unwrap_or_default();
    let regex = method.kind.as_deref() == Some("RegularExpression");
    let length = method.service.as_ref().map_or(0, String::len)
        + method.method.as_ref().map_or(0, String::len);
    let pattern = match (method.service, method.method) {
        (None, None) => None,
        (Some(service), Some(method)) if !regex => Some(format!("/{service}/{method}")),
        (Some(service), None) if !regex => Some(format!("/{service}/*")),
        (None, Some(method)) if !regex => Some(format!("regex:/[^/]+/{}", escaped(&method))),
        (service, method) => {
            let any = || "[^/]+".to_owned();
            Some(format!(
                "regex:/(?:{})/(?:{})",
                service.unwrap_or_else(any),
                method.unwrap_or_else(any)
            ))
        }
    };
    Path {
        pattern,
        prefix: None,
        order: (u8::from(regex) * 2, Reverse(length)),
    }
}

/// The condition on a value, as policy writes it.
fn value(condition: &Condition) -> String {
    let value = condition.value.as_deref().unwrap_or_default();
    match condition.kind.as_deref() {
        Some("RegularExpression") => format!("regex:{value}"),
        _ if value.contains('*') || value.starts_with("regex:") => {
            format!("regex:{}", escaped(value))
        }
        _ => value.to_owned(),
    }
}

/// A path that means itself.
fn literal(path: &str) -> String {
    match path.contains(['*', '{', '}']) {
        true => format!("regex:{}", escaped(path)),
        false => path.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    text.chars()
        .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]))
        .collect()
}

fn join(into: &mut Value, edits: &Edits) {
    let Value::Object(into) = into else { return };
    for (key, pairs) in [("set", &edits.set), ("add", &edits.add)] {
        if pairs.is_empty() {
            continue;
        }
        if let Value::Object(map) = into.entry(key).or_insert_with(|| json!({})) {
            map.extend(
                pairs
                    .iter()
                    .map(|pair| (pair.name.clone(), json!(pair.value))),
            );
        }
    }
    if !edits.remove.is_empty()
        && let Value::Array(list) = into.entry("remove").or_insert_with(|| json!([]))
    {
        list.extend(edits.remove.iter().map(|name| json!(name)));
    }
}

fn object<const N: usize>(fields: [(&str, Option<String>); N]) -> Value {
    let said = fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), json!(value?))));
    Value::Object(said.collect())
}
