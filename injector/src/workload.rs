//! What makes pods: where its template is, and what its pods are called.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Where an object of `kind` has its pods' template, as a JSON Pointer; a pod is its own.
#[must_use]
pub fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// What a pod is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// In what is told to people: `pod orders-7d9f`, `deployment orders`.
    pub shown: String,
    /// In telemetry, as Istio's has it.
    pub(crate) workload: Option<String>,
    /// Of the workload.
    pub(crate) version: Option<String>,
    /// Nobody calls a pod that runs to its end, so it need not wait for late callers.
    pub(crate) runs_to_end: bool,
}

impl Name {
    /// Of a pod, which may have no name yet.
    #[must_use]
    pub fn of_pod(meta: &ObjectMeta) -> Self {
        let named = meta.name.clone().filter(|name| !name.is_empty());
        let generated = || meta.generate_name.as_ref().map(|name| format!("{name}*"));
        let name = named
            .or_else(generated)
            .unwrap_or_else(|| "without a name".to_owned());
        let owner = meta
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let by_owner = owner.map(|owner| match owner.kind.as_str() {
            "ReplicaSet" => {
                without_hash(&owner.name, label(meta, &["pod-template-hash"]).as_deref())
            }
            _ => owner.name.clone(),
        });
        Self {
            shown: format!("pod {name}"),
            workload: workload(meta).or(by_owner),
            version: version(meta),
            runs_to_end: owner.is_some_and(|owner| runs_to_end(&owner.kind)),
        }
    }

    /// Of the pods that an object of `kind` makes by a template.
    #[must_use]
    pub fn of_template(kind: &str, name: &str, template: &ObjectMeta) -> Self {
        Self {
            shown: format!("{} {name}", kind.to_lowercase()),
            workload: workload(template).or_else(|| Some(name.to_owned())),
            version: version(template),
            runs_to_end: runs_to_end(kind),
        }
    }
}

fn runs_to_end(kind: &str) -> bool {
    matches!(kind, "Job" | "CronJob")
}

fn workload(meta: &ObjectMeta) -> Option<String> {
    label(
        meta,
        &[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ],
    )
}

fn version(meta: &ObjectMeta) -> Option<String> {
    label(
        meta,
        &[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ],
    )
}

fn label(meta: &ObjectMeta, names: &[&str]) -> Option<String> {
    let labels = meta.labels.as_ref()?;
    names.iter().find_map(|name| labels.get(*name)).cloned()
}

/// A Deployment's ReplicaSet is called after it and the hash of its template.
fn without_hash(name: &str, hash: Option<&str>) -> String {
    let bare = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    bare.unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_called_by_its_labels_or_its_owner() {
        let owner = |kind: &str, name: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true}]);
        let rows = [
            (json!({}), None, None, false),
            (
                json!({"labels": {"app": "orders", "version": "v2"}, "ownerReferences": owner("ReplicaSet", "x-1")}),
                Some("orders"),
                Some("v2"),
                false,
            ),
            (
                json!({"labels": {"pod-template-hash": "7d9f"}, "ownerReferences": owner("ReplicaSet", "orders-7d9f")}),
                Some("orders"),
                None,
                false,
            ),
            (
                json!({"ownerReferences": owner("Job", "night")}),
                Some("night"),
                None,
                true,
            ),
        ];
        for (meta, workload, version, runs_to_end) in rows {
            let text = meta.to_string();
            let name = Name::of_pod(&serde_json::from_value(meta).unwrap());
            assert_eq!(name.workload.as_deref(), workload, "{text}");
            assert_eq!(name.version.as_deref(), version, "{text}");
            assert_eq!(name.runs_to_end, runs_to_end, "{text}");
        }
    }
}
