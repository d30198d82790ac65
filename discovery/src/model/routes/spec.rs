//! What we read of the `spec` of an HTTPRoute or GRPCRoute (gateway.networking.k8s.io/v1).

use serde::Deserialize;
use serde_json::Value;

use crate::cluster::Key;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParentRef {
    #[serde(default = "gateway")]
    pub(super) group: String,
    #[serde(default = "gateway_kind")]
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) filters: Vec<Filter>,
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) timeouts: Option<Timeouts>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Match {
    pub(super) path: Option<Condition>,
    /// Of an HTTPRoute a text, of a GRPCRoute an object.
    pub(super) method: Option<Value>,
    pub(super) headers: Vec<Condition>,
    pub(super) query_params: Vec<Condition>,
}

/// A condition on a path, a header or a parameter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// A condition on a gRPC method.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GrpcMethod {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Filter {
    pub(super) request_header_modifier: Option<Edits>,
    pub(super) response_header_modifier: Option<Edits>,
    pub(super) request_redirect: Option<Redirect>,
    #[serde(rename = "urlRewrite")]
    pub(super) url_rewrite: Option<Rewrite>,
    pub(super) request_mirror: Option<Mirror>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    pub(super) set: Vec<Pair>,
    pub(super) add: Vec<Pair>,
    pub(super) remove: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Redirect {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathEdit>,
    pub(super) port: Option<u16>,
    pub(super) status_code: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rewrite {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathEdit>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PathEdit {
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Mirror {
    pub(super) backend_ref: BackendRef,
    pub(super) percent: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
    pub(super) weight: Option<u32>,
    pub(super) filters: Vec<Filter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Timeouts {
    pub(super) request: Option<String>,
    pub(super) backend_request: Option<String>,
}

impl Spec {
    pub(super) fn read(spec: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(spec)
    }

    /// The Services among its parents, and the port where one is named.
    pub(super) fn services(&self, own: &str) -> impl Iterator<Item = (Key, Option<u16>)> {
        let services = self.parent_refs.iter().filter(|parent| parent.is_service());
        services.map(move |parent| (parent.key(own), parent.port))
    }
}

impl ParentRef {
    pub(super) fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }

    pub(super) fn key(&self, own: &str) -> Key {
        Key::new(self.namespace.as_deref().unwrap_or(own), &self.name)
    }
}

impl BackendRef {
    pub(super) fn is_service(&self) -> bool {
        self.group.as_deref().is_none_or(str::is_empty)
            && self.kind.as_deref().is_none_or(|kind| kind == "Service")
    }

    pub(super) fn key(&self, own: &str) -> Key {
        Key::new(self.namespace.as_deref().unwrap_or(own), &self.name)
    }
}

fn gateway() -> String {
    "gateway.networking.k8s.io".to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}
