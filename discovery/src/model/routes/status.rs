//! What is told back to who wrote a route: `status.parents` of the Services among its parents.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::spec::Spec;
use crate::cluster::{Key, Route, RouteRef, Service};

/// What `status.parents` should hold of ours, without times.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Which route.
    pub name: RouteRef,
    /// Its generation that was read.
    pub generation: i64,
    /// An entry a parent that is a Service.
    pub parents: Vec<Value>,
}

/// Judges a route; `None` if none of its parents is a Service.
pub(crate) fn verdict(
    name: &RouteRef,
    route: &Route,
    services: &HashMap<Key, Service>,
) -> Option<Verdict> {
    let spec = Spec::read(&route.spec).ok()?;
    let own = &name.key.namespace;
    let refs = spec.parent_refs.iter().filter(|parent| parent.is_service());
    let resolved = resolved(&spec, own, services);
    let parents: Vec<Value> = refs
        .map(|parent| {
            let service = services.get(&parent.key(own));
            let port = |service: &&Service| parent.port.is_none_or(|port| service.ports.iter().any(|one| one.port == port));
            let accepted = match service.filter(port) {
                Some(service) if service.external => ("False", "NoMatchingParent", "the Service is a name elsewhere"),
                Some(_) => ("True", "Accepted", "callers' proxies act by it"),
                None => ("False", "NoMatchingParent", "there is no such Service or port"),
            };
            let fields = [
                ("group", Some(json!(""))),
                ("kind", Some(json!("Service"))),
                ("name", Some(json!(parent.name))),
                ("namespace", parent.namespace.as_ref().map(|name| json!(name))),
                ("port", parent.port.map(|port| json!(port))),
            ];
            let fields = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            let reference = Value::Object(fields.collect());
            json!({
                "parentRef": reference,
                "controllerName": CONTROLLER,
                "conditions": [condition("Accepted", accepted, route.generation), condition("ResolvedRefs", resolved, route.generation)],
            })
        })
        .collect();
    (!parents.is_empty()).then(|| Verdict {
        name: name.clone(),
        generation: route.generation,
        parents,
    })
}

fn resolved(
    spec: &Spec,
    own: &str,
    services: &HashMap<Key, Service>,
) -> (&'static str, &'static str, &'static str) {
    for backend in spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
        if !backend.is_service() {
            return ("False", "InvalidKind", "a backend is no Service");
        }
        let service = services.get(&backend.key(own));
        let there = service.is_some_and(|service| {
            service
                .ports
                .iter()
                .any(|one| Some(one.port) == backend.port)
        });
        if !there {
            return (
                "False",
                "BackendNotFound",
                "a backend is no Service, or has no such port",
            );
        }
    }
    ("True", "ResolvedRefs", "all backends are there")
}

fn condition(kind: &str, (status, reason, message): (&str, &str, &str), generation: i64) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation,
    })
}

/// Whose entries of `status.parents` are ours.
pub const CONTROLLER: &str = "weft.dev/mesh";
