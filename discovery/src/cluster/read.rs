//! From objects as the API server has them to the fields that we keep.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_api::workload::AppProtocol;

use super::{
    Condition, Key, Notes, Owner, OwnerRef, Pod, Service, ServicePort, Slice, SliceEndpoint,
};

/// The name of an object in a namespace.
#[must_use]
pub fn key(meta: &ObjectMeta) -> Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Key::new(&text(&meta.namespace), &text(&meta.name))
}

/// Our annotations.
#[must_use]
pub fn notes(meta: &ObjectMeta) -> Notes {
    let annotations = meta.annotations.iter().flatten();
    let ours = annotations.filter(|(name, _)| name.starts_with(PREFIX));
    Notes {
        annotations: ours
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        version: meta.resource_version.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// A Service.
#[must_use]
pub fn service(object: &v1::Service) -> Service {
    let spec = object.spec.clone().unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let several = spec.cluster_ips.unwrap_or_default();
    let one = spec.cluster_ip.into_iter().filter(|_| several.is_empty());
    let addresses = several.iter().cloned().chain(one);
    let spread = spec.traffic_distribution.as_deref();
    let topology = annotation(&object.metadata, "service.kubernetes.io/topology-mode");
    let ports = spec.ports.unwrap_or_default();
    let tcp = ports
        .iter()
        .filter(|port| port.protocol.as_deref().is_none_or(|name| name == "TCP"));
    Service {
        // `None` is how a headless service says that it has none.
        addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
        external: kind == "ExternalName",
        ports: tcp.filter_map(service_port).collect(),
        same_zone: matches!(
            spread,
            Some("PreferClose" | "PreferSameZone" | "PreferSameNode")
        ) || topology.is_some_and(|mode| mode.eq_ignore_ascii_case("auto")),
        notes: notes(&object.metadata),
    }
}

fn service_port(port: &v1::ServicePort) -> Option<ServicePort> {
    let name = port.name.clone().unwrap_or_default();
    Some(ServicePort {
        port: u16::try_from(port.port).ok()?,
        protocol: protocol(port.app_protocol.as_deref(), &name),
        name,
    })
}

/// `appProtocol` (KEP-3726) counts, then the name's prefix, as Istio has it.
fn protocol(app: Option<&str>, name: &str) -> AppProtocol {
    let known = |word: &str| match word {
        "http" | "kubernetes.io/ws" => Some(AppProtocol::Http11),
        "http2" | "h2c" | "kubernetes.io/h2c" => Some(AppProtocol::Http2),
        "grpc" => Some(AppProtocol::Grpc),
        "tcp" | "mongo" | "mysql" | "redis" | "postgresql" => Some(AppProtocol::Tcp),
        "tls" | "https" | "kubernetes.io/wss" => Some(AppProtocol::Tls),
        _ => None,
    };
    let prefix = name.split('-').next().unwrap_or_default();
    let said = app.map(|app| known(&app.to_ascii_lowercase()));
    said.unwrap_or_else(|| known(prefix))
        .unwrap_or(AppProtocol::Unknown)
}

/// An EndpointSlice; `None` if it is of no service, or not of addresses.
#[must_use]
pub fn slice(object: &EndpointSlice) -> Option<Slice> {
    let labels = object.metadata.labels.as_ref()?;
    let service = labels.get("kubernetes.io/service-name")?;
    let own = key(&object.metadata);
    if object.address_type == "FQDN" {
        return None;
    }
    let ports = object.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|name| name == "TCP"));
    let ports = tcp.filter_map(|port| {
        Some((
            port.name.clone().unwrap_or_default(),
            u16::try_from(port.port?).ok()?,
        ))
    });
    let endpoints = object.endpoints.iter();
    Some(Slice {
        service: Key::new(&own.namespace, service),
        ports: ports.collect(),
        endpoints: endpoints
            .map(|one| slice_endpoint(one, &own.namespace))
            .collect(),
    })
}

fn slice_endpoint(one: &Endpoint, namespace: &str) -> SliceEndpoint {
    let pod = one
        .target_ref
        .as_ref()
        .filter(|target| target.kind.as_deref() == Some("Pod"));
    let hints = one
        .hints
        .as_ref()
        .and_then(|hints| hints.for_zones.as_ref());
    SliceEndpoint {
        addresses: one
            .addresses
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        condition: condition(one),
        pod: pod.and_then(|pod| Some(Key::new(namespace, pod.name.as_deref()?))),
        zone: one.zone.clone(),
        hints: hints
            .into_iter()
            .flatten()
            .map(|zone| zone.name.clone())
            .collect(),
    }
}

/// What is not said counts as ready (EndpointConditions, "nil should be interpreted as true").
fn condition(one: &Endpoint) -> Condition {
    let conditions = one.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (ready, serving && conditions.terminating.unwrap_or(false)) {
        (true, _) => Condition::Ready,
        (false, true) => Condition::Ending,
        (false, false) => Condition::Unready,
    }
}

/// A Pod.
#[must_use]
pub fn pod(object: &v1::Pod) -> Pod {
    let meta = &object.metadata;
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let several = status.and_then(|status| status.pod_ips.as_ref());
    let addresses: Vec<IpAddr> = several
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok())
        .collect();
    let owner = owner_of(meta);
    let account = spec.and_then(|spec| spec.service_account_name.clone());
    let phase = status.and_then(|status| status.phase.as_deref());
    let (canonical_name, canonical_revision) = canonical(meta, owner.as_ref());
    Pod {
        addresses,
        account: account
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        node: spec
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default(),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        meshed: spec.is_some_and(has_proxy),
        over: matches!(phase, Some("Succeeded" | "Failed")),
        owner,
        canonical_name,
        canonical_revision,
        created: created(meta),
        notes: notes(meta),
    }
}

/// When an object was made, in seconds of Unix time.
#[must_use]
pub fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_second())
}

/// Native sidecars are init containers.
fn has_proxy(spec: &v1::PodSpec) -> bool {
    let inits = spec.init_containers.iter().flatten();
    spec.containers
        .iter()
        .chain(inits)
        .any(|one| one.name == PROXY)
}

/// As Istio's telemetry has them.
fn canonical(meta: &ObjectMeta, owner: Option<&OwnerRef>) -> (String, String) {
    let labels: BTreeMap<String, String> = meta.labels.clone().unwrap_or_default();
    let first = |names: &[&str]| names.iter().find_map(|name| labels.get(*name).cloned());
    let name = first(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]);
    let revision = first(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ]);
    let owner = owner.map(|owner| owner.key.name.to_string());
    let own = meta.name.clone().unwrap_or_default();
    (
        name.or(owner).unwrap_or(own),
        revision.unwrap_or_else(|| "latest".to_owned()),
    )
}

/// What makes pods, by its metadata alone.
#[must_use]
pub fn owner(meta: &ObjectMeta) -> Owner {
    Owner {
        owner: owner_of(meta),
        notes: notes(meta),
    }
}

fn owner_of(meta: &ObjectMeta) -> Option<OwnerRef> {
    let owners = meta.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    let owner = controllers.next()?;
    Some(OwnerRef {
        kind: owner.kind.as_str().into(),
        key: Key::new(meta.namespace.as_deref().unwrap_or_default(), &owner.name),
    })
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let annotations = meta.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

/// What our annotations begin with.
const PREFIX: &str = "weft.dev/";
/// What the injector calls the proxy's container.
const PROXY: &str = "weft-proxy";
