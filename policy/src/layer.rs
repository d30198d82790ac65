//! Layers: who said what. A layer is a document, what kind of thing said it, and which one.
//!
//! Maps merge key by key, scalars and lists replace, `null` returns to the default. Two exceptions, because a pod must not undo
//! what its namespace secured: `deny` adds up, and `mtls: strict` stays (POLICY.md, "Where it is said").

use std::fmt;

use crate::annotations;
use crate::node::{Kind, Node};
use crate::problem::Problem;
use crate::read::Part;
use crate::route::ServiceRef;
use crate::scope::Scope;
use crate::{CALLS_KEYS, Calls, POD_KEYS, Policy, short};

use self::merged::Merged;

mod merged;
pub mod snapshot;
#[cfg(test)]
mod tests;

/// What said something, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    /// The ConfigMap `weft-defaults`.
    Mesh,
    /// Annotations of the Namespace.
    Namespace,
    /// Annotations of the Deployment, StatefulSet or DaemonSet.
    Workload,
    /// A policy file.
    File,
    /// Annotations of the pod.
    Pod,
    /// Annotations of the Service: only keys of the callers' side.
    Service,
    /// HTTPRoutes and GRPCRoutes of the Service.
    Route,
    /// `to.<service>` in the caller's own policy.
    Caller,
}

impl LayerKind {
    const ALL: [Self; 8] = [
        Self::Mesh,
        Self::Namespace,
        Self::Workload,
        Self::File,
        Self::Pod,
        Self::Service,
        Self::Route,
        Self::Caller,
    ];

    /// As `weft explain` prints it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Namespace => "namespace",
            Self::Workload => "workload",
            Self::File => "file",
            Self::Pod => "pod",
            Self::Service => "service",
            Self::Route => "route",
            Self::Caller => "caller",
        }
    }

    /// The kind that [`Self::as_str`] gives `text` for.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A document that was found good by itself, and who said it.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// What said it.
    pub kind: LayerKind,
    /// Which one: `shop/orders`, or a file.
    pub object: String,
    document: Node,
}

impl Layer {
    /// Reads a YAML document, or the JSON that [`Layer::json`] writes.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn from_document(
        kind: LayerKind,
        object: impl Into<String>,
        text: &str,
        scope: &Scope,
    ) -> Result<Self, Vec<Problem>> {
        let node = Node::parse(text).map_err(|error| vec![Problem::of_text(&error)])?;
        Self::new(kind, object.into(), node, scope)
    }

    /// Reads the annotations of an object; those of others are passed over.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn from_annotations<'a>(
        kind: LayerKind,
        object: impl Into<String>,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
        scope: &Scope,
    ) -> Result<Self, Vec<Problem>> {
        let node = annotations::document(annotations)?;
        Self::new(kind, object.into(), node, scope)
    }

    /// Takes a document that was read as part of something else.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn new(
        kind: LayerKind,
        object: String,
        document: Node,
        scope: &Scope,
    ) -> Result<Self, Vec<Problem>> {
        let read = Policy::read(&document, scope, Part::Layer);
        let mut problems = read.err().unwrap_or_default();
        problems.extend(match kind {
            LayerKind::Service => only_calls(&document),
            LayerKind::File => nothing_of_pods(&document),
            LayerKind::Workload => nothing_of_starts(&document),
            LayerKind::Mesh
            | LayerKind::Namespace
            | LayerKind::Pod
            | LayerKind::Route
            | LayerKind::Caller => Vec::new(),
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let document = short::expanded(document);
        Ok(Self {
            kind,
            object,
            document,
        })
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.document.kind, Kind::Map(entries) if entries.is_empty())
    }

    /// The part that is about how callers call the service, to be sent to them.
    #[must_use]
    pub fn calls(&self) -> Self {
        let mut document = self.document.clone();
        if let Kind::Map(entries) = &mut document.kind {
            entries.retain(|(key, _)| CALLS_KEYS.contains(&key.as_str()));
        }
        Self {
            document,
            ..self.clone()
        }
    }

    /// The document as JSON, all scalars as strings.
    #[must_use]
    pub fn json(&self) -> String {
        self.document.json()
    }
}

fn only_calls(document: &Node) -> Vec<Problem> {
    let reason = format!(
        "a Service says only how its callers call it ({}); write this on the pod or the workload",
        CALLS_KEYS.join(", ")
    );
    refuse_keys(document, |key| !CALLS_KEYS.contains(&key), &reason)
}

/// A file is read by a proxy that runs already.
fn nothing_of_pods(document: &Node) -> Vec<Problem> {
    let reason =
        "says how a pod is put together, which no proxy does; write it on the pod's template";
    refuse_keys(document, |key| POD_KEYS.contains(&key), reason)
}

/// The injector sees a pod, its namespace and the mesh's own policy.
fn nothing_of_starts(document: &Node) -> Vec<Problem> {
    let reason = "is read when a pod starts; write it on the pod's template";
    refuse_keys(document, |key| POD_KEYS.contains(&key), reason)
}

fn refuse_keys(document: &Node, is_foreign: impl Fn(&str) -> bool, reason: &str) -> Vec<Problem> {
    let Kind::Map(entries) = &document.kind else {
        return Vec::new();
    };
    let foreign = entries.iter().filter(|(key, _)| is_foreign(key));
    let problem = |(key, node): &(String, Node)| Problem {
        path: key.clone(),
        value: None,
        reason: reason.to_owned(),
        line: node.line,
    };
    foreign.map(problem).collect()
}

/// All layers merged.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Effective {
    /// What acts.
    pub policy: Policy,
    /// Every value that is not its default, and who said it.
    pub values: Vec<Value>,
    /// What a layer said and must not say; what acts is the safer thing.
    pub problems: Vec<Problem>,
}

/// One value that acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// `retry.attempts`.
    pub path: String,
    /// On one line; secrets are left out.
    pub value: String,
    /// What said it.
    pub layer: LayerKind,
    /// Which one.
    pub object: String,
}

impl Effective {
    /// Merges `layers`, the weakest first.
    ///
    /// # Errors
    /// All that is wrong with the whole, though each layer is right by itself.
    pub fn merge(layers: &[Layer], scope: &Scope) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut merged = Merged::default();
        for (index, layer) in layers.iter().enumerate() {
            merged.lay(&layer.document, index, &mut problems);
        }
        let policy = Policy::read(&merged.node(), scope, Part::Whole)?;
        Ok(Self {
            policy,
            values: merged.values(layers),
            problems,
        })
    }
}

/// How one caller calls one service.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct EffectiveCalls {
    /// What acts.
    pub calls: Calls,
    /// Every value that is not its default, and who said it.
    pub values: Vec<Value>,
}

impl EffectiveCalls {
    /// Merges what `service` asks of its callers, and over it what the caller says under `to` in its `own` layers.
    ///
    /// Short names in the service's layers are those of its namespace, in the caller's of `scope`.
    ///
    /// # Errors
    /// All that is wrong with the whole.
    pub fn merge(
        service: &ServiceRef,
        layers: &[Layer],
        own: &[Layer],
        scope: &Scope,
    ) -> Result<Self, Vec<Problem>> {
        let asked = layers.iter().map(Layer::calls);
        let own = own.iter().filter_map(|layer| layer.about(service, scope));
        let all: Vec<Layer> = asked.chain(own).collect();
        let mut merged = Merged::default();
        for (index, layer) in all.iter().enumerate() {
            merged.lay(&layer.document, index, &mut Vec::new());
        }
        let scope = match (merged.layer_of("routes"), &service.namespace) {
            // The only key with names of services in it.
            (Some(index), Some(namespace)) if index < layers.len() => &Scope {
                namespace: namespace.clone(),
                ..scope.clone()
            },
            _ => scope,
        };
        Ok(Self {
            calls: Calls::read_node(&merged.node(), scope)?,
            values: merged.values(&all),
        })
    }
}

impl Layer {
    /// What it says under `to` of `service`.
    fn about(&self, service: &ServiceRef, scope: &Scope) -> Option<Self> {
        let Kind::Map(entries) = &self.document.get("to")?.kind else {
            return None;
        };
        let meant = |name: &str| ServiceRef::parse(name, scope).is_ok_and(|name| name == *service);
        let (_, document) = entries.iter().find(|(name, _)| meant(name))?;
        Some(Self {
            kind: LayerKind::Caller,
            object: self.object.clone(),
            document: document.clone(),
        })
    }
}
