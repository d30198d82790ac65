//! HTTPRoute and GRPCRoute with Services as parents (Gateway API, GAMMA) as `routes` of such a service.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use weft_api::weft;

use crate::cluster::{Key, Route, RouteRef, Service};

/// A reference to a parent, as much of it as we read.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParentRef {
    #[serde(default = "gateway")]
    group: String,
    #[serde(default = "gateway_kind")]
    kind: String,
    namespace: Option<String>,
    name: String,
    port: Option<u16>,
}

fn gateway() -> String {
    "gateway.networking.k8s.io".to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

/// The services that a route is for.
pub(crate) fn parents(name: &RouteRef, route: &Route) -> Vec<Key> {
    let refs = parent_refs(name, route);
    refs.into_iter().map(|(key, _)| key).collect()
}

/// The services that a route is for, and their port where it names one.
fn parent_refs(name: &RouteRef, route: &Route) -> Vec<(Key, Option<u16>)> {
    let refs = route.spec.get("parentRefs").cloned().unwrap_or_default();
    let refs: Vec<ParentRef> = serde_json::from_value(refs).unwrap_or_default();
    let services = refs
        .into_iter()
        .filter(|parent| parent.group.is_empty() && parent.kind == "Service");
    let key = |parent: ParentRef| {
        let namespace = parent.namespace.as_deref().unwrap_or(&name.key.namespace);
        (Key::new(namespace, &parent.name), parent.port)
    };
    services.map(key).collect()
}

/// The layers of routes of a service: its own namespace's for everybody, and those of other namespaces for their own callers.
pub(super) fn of_service(
    _service: &Key,
    _routes: &HashMap<RouteRef, Route>,
    _services: &HashMap<Key, Service>,
) -> (Vec<weft::Layer>, BTreeMap<String, Vec<weft::Layer>>) {
    (Vec::new(), BTreeMap::new())
}
