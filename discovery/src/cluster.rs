//! The cluster as discovery sees it: of each object the few fields that proxies are told of, or that these follow from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use weft_api::workload::AppProtocol;

pub mod read;

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

impl Key {
    /// Joins the two.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Something happened to an object; `None` is its end.
#[derive(Clone, Debug)]
pub enum Change {
    /// To a Service.
    Service(Key, Option<Service>),
    /// To an EndpointSlice.
    Slice(Key, Option<Slice>),
    /// To a Pod.
    Pod(Key, Option<Pod>),
    /// To a Namespace.
    Namespace(Arc<str>, Option<Notes>),
    /// To what makes pods.
    Owner(OwnerRef, Option<Owner>),
    /// To the mesh's own policy.
    Defaults(Option<Notes>),
    /// To an HTTPRoute or GRPCRoute.
    Route(RouteRef, Option<Route>),
}

/// What an object asks for: its annotations of ours, and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// With their prefix.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Virtual addresses; none for a headless one.
    pub addresses: Vec<IpAddr>,
    /// A name elsewhere: nothing of it is in the mesh.
    pub external: bool,
    /// TCP only.
    pub ports: Vec<ServicePort>,
    /// Traffic is to stay in its zone where it can.
    pub same_zone: bool,
    /// Policy.
    pub notes: Notes,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where there is only one.
    pub name: String,
    /// What callers name.
    pub port: u16,
    /// What is spoken there.
    pub protocol: AppProtocol,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The service that it is part of.
    pub service: Key,
    /// By the name of the service's port.
    pub ports: Vec<(String, u16)>,
    /// Its addresses.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// One, in practice.
    pub addresses: Vec<IpAddr>,
    /// How it is.
    pub condition: Condition,
    /// The pod behind it, if one is.
    pub pod: Option<Key>,
    /// Where it runs.
    pub zone: Option<String>,
    /// Which zones it is meant for, if the topology says so.
    pub hints: Vec<String>,
}

/// What an EndpointSlice says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Wants traffic.
    Ready,
    /// Ends, and can take traffic where nobody else is there (KEP-1669).
    Ending,
    /// Wants none.
    Unready,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Both families; none yet at the start.
    pub addresses: Vec<IpAddr>,
    /// Its service account.
    pub account: String,
    /// Where it runs.
    pub node: String,
    /// Its addresses are the node's.
    pub host_network: bool,
    /// Has a proxy.
    pub meshed: bool,
    /// It ran to its end: its address may be another's.
    pub over: bool,
    /// What made it.
    pub owner: Option<OwnerRef>,
    /// For telemetry.
    pub canonical_name: String,
    /// For telemetry.
    pub canonical_revision: String,
    /// When it was made, in seconds of Unix time: which of two revisions is the newer.
    pub created: i64,
    /// Policy.
    pub notes: Notes,
}

/// The kind and name of what makes pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerRef {
    /// `Deployment`, `ReplicaSet`, ...
    pub kind: Arc<str>,
    /// Which.
    pub key: Key,
}

/// What makes pods, or makes what does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// A ReplicaSet's Deployment, a Job's CronJob.
    pub owner: Option<OwnerRef>,
    /// Policy.
    pub notes: Notes,
}

/// Which route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteRef {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: &'static str,
    /// Which.
    pub key: Key,
}

/// An HTTPRoute or GRPCRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its `spec`, as it stands.
    pub spec: serde_json::Value,
    /// When it was made: the oldest wins.
    pub created: i64,
    /// `metadata.generation`.
    pub generation: i64,
    /// Its version.
    pub notes: Notes,
}
