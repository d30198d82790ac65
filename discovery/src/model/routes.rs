//! HTTPRoute and GRPCRoute with Services as parents (Gateway API, GAMMA) as `routes` of such a service.
//!
//! A route of the service's own namespace is for all callers, one of another namespace for that namespace's callers, who then see no other.
//! Matches of all routes are sorted as the Gateway API wants it; a request that none fits is answered with 404 or UNIMPLEMENTED. How one
//! rule is written is in `routes/rule.rs`, what is told back in `routes/status.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use weft_api::weft;
use weft_policy::layer::{Layer, LayerKind};
use weft_policy::scope::Scope;

use self::rule::{Backends, Line};
use self::spec::Spec;
use super::Names;
use crate::cluster::{Key, Route, RouteRef, Service};

mod rule;
mod spec;
pub mod status;

/// The services that a route is for.
pub(crate) fn parents(name: &RouteRef, route: &Route) -> Vec<Key> {
    let spec = Spec::read(&route.spec).unwrap_or_default();
    spec.services(&name.key.namespace)
        .map(|(key, _)| key)
        .collect()
}

/// The services that a route sends to.
pub(super) fn backends(name: &RouteRef, route: &Route) -> BTreeSet<Key> {
    let spec = Spec::read(&route.spec).unwrap_or_default();
    let refs = spec.rules.iter().flat_map(|rule| &rule.backend_refs);
    refs.map(|one| one.key(&name.key.namespace)).collect()
}

/// The layers of routes of a service: its own namespace's for everybody, and those of other namespaces for their own callers.
pub(super) fn of_service(
    service: &Key,
    attached: &[(&RouteRef, &Route)],
    services: &HashMap<Key, Service>,
    names: &Names,
) -> (Vec<weft::Layer>, BTreeMap<String, Vec<weft::Layer>>) {
    let mut by_namespace: BTreeMap<&str, Vec<(&RouteRef, &Route)>> = BTreeMap::new();
    for (name, route) in attached {
        by_namespace
            .entry(&name.key.namespace)
            .or_default()
            .push((name, route));
    }
    let own = by_namespace.remove(&*service.namespace).unwrap_or_default();
    let consumers = by_namespace.into_iter().map(|(namespace, routes)| {
        (
            namespace.to_owned(),
            layers(service, &routes, services, names),
        )
    });
    (layers(service, &own, services, names), consumers.collect())
}

/// One layer for all ports, and one for each port that a route names.
fn layers(
    service: &Key,
    routes: &[(&RouteRef, &Route)],
    services: &HashMap<Key, Service>,
    names: &Names,
) -> Vec<weft::Layer> {
    let parent = |name: &RouteRef, route: &Route| {
        let spec = Spec::read(&route.spec).ok()?;
        let ports = spec
            .services(&name.key.namespace)
            .filter(|(key, _)| key == service);
        let ports: BTreeSet<u16> = ports.map(|(_, port)| port.unwrap_or(0)).collect();
        Some((spec, ports))
    };
    let read: Vec<_> = routes
        .iter()
        .filter_map(|(name, route)| Some((*name, *route, parent(name, route)?)))
        .collect();
    let ports: BTreeSet<u16> = read
        .iter()
        .flat_map(|(_, _, (_, ports))| ports.iter().copied())
        .collect();
    let layer = |port: u16| {
        let of_port = read
            .iter()
            .filter(|(_, _, (_, ports))| ports.contains(&0) || ports.contains(&port));
        let attached: Vec<_> = of_port
            .map(|(name, route, (spec, _))| Attached { name, route, spec })
            .collect();
        layer(service, port, &attached, services, names)
    };
    ports.into_iter().filter_map(layer).collect()
}

/// A route that is for the port in question.
struct Attached<'a> {
    name: &'a RouteRef,
    route: &'a Route,
    spec: &'a Spec,
}

fn layer(
    service: &Key,
    port: u16,
    attached: &[Attached<'_>],
    services: &HashMap<Key, Service>,
    names: &Names,
) -> Option<weft::Layer> {
    // "GRPCRoute > HTTPRoute" on one port (GEP-1294).
    let grpc = attached.iter().any(|one| one.name.kind == GRPC_ROUTE);
    let counted = attached
        .iter()
        .filter(|one| (one.name.kind == GRPC_ROUTE) == grpc);
    let exists = |key: &Key, port: u16| {
        let service = services.get(key);
        service.is_some_and(|service| service.ports.iter().any(|one| one.port == port))
    };
    let mut lines: Vec<Line> = Vec::new();
    let mut objects = Vec::new();
    for Attached { name, route, spec } in counted {
        let backends = Backends {
            namespace: &name.key.namespace,
            exists: &exists,
        };
        let of_route = spec
            .rules
            .iter()
            .enumerate()
            .flat_map(|(index, rule)| rule.lines(grpc, &backends, index));
        let of_route = of_route.map(|line| line.of(route.created, &name.key));
        let of_route: Vec<Line> = of_route.collect();
        // One that cannot be written spoils no other.
        if !of_route.is_empty() && is_good(service, &of_route, names) {
            lines.extend(of_route);
            objects.push(format!("{} {}", name.kind, name.key));
        }
    }
    if lines.is_empty() {
        return None;
    }
    lines.sort_by(|one, other| one.order.cmp(&other.order));
    let nobodys = if grpc { "unimplemented" } else { "404" };
    let mut routes: Vec<Value> = lines.into_iter().map(|line| line.route).collect();
    routes.push(json!({"fault": {"abort": {"status": nobodys}}}));
    let document = json!({ "routes": routes }).to_string();
    Some(weft::Layer {
        kind: LayerKind::Route.as_str().to_owned(),
        object: objects.join(", "),
        version: format!("{:016x}", crate::board::digest(document.as_bytes())),
        document,
        port: port.into(),
    })
}

/// Whether the lines make a document that proxies will take.
fn is_good(service: &Key, lines: &[Line], names: &Names) -> bool {
    let routes: Vec<&Value> = lines.iter().map(|line| &line.route).collect();
    let scope = Scope {
        trust_domain: names.trust_domain.clone(),
        namespace: service.namespace.as_ref().to_owned(),
    };
    let document = json!({ "routes": routes }).to_string();
    let read = Layer::from_document(LayerKind::Route, "", &document, &scope);
    if let Err(problems) = &read {
        tracing::warn!(%service, ?problems, "a route cannot be written as policy");
    }
    read.is_ok()
}

pub(crate) const HTTP_ROUTE: &str = "HTTPRoute";
pub(crate) const GRPC_ROUTE: &str = "GRPCRoute";

#[cfg(test)]
mod tests;
