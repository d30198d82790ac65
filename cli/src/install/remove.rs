//! `weft uninstall`: what is to be deleted, and who would miss it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::upgrade::KINDS;
use super::{UninstallArgs, files, id, yaml};
use crate::kubectl::Kubectl;
use crate::objects::{Namespace, Pod, label, text};

/// What is to be deleted, and what there is to say about it.
#[derive(Debug)]
pub(crate) struct Removal {
    /// For people.
    pub(crate) warnings: String,
    /// For `kubectl delete -f -`.
    pub(crate) manifests: String,
}

/// Lists what is ours, by name: what `install` makes, the webhook first, and the roots that the authority has left in namespaces.
///
/// # Errors
/// None that a test has not found. What a cluster does not show is a warning.
pub(crate) async fn uninstall(args: &UninstallArgs) -> anyhow::Result<Removal> {
    let ours = ours()?;
    let mut doomed: Vec<Value> = ours.iter().rev().map(bare).collect();
    let kubectl = Kubectl::new(&args.cluster);
    let (pods, labelled, named) = (
        ["pods", ALL],
        [KINDS, ALL, "--selector=app.kubernetes.io/part-of=weft"],
        [
            "configmaps",
            ALL,
            "--field-selector=metadata.name=weft-ca-root",
        ],
    );
    let (namespaces, pods, labelled, named) = tokio::join!(
        kubectl.get(&["namespaces"]),
        kubectl.get(&pods),
        kubectl.get(&labelled),
        kubectl.get(&named),
    );
    let mut warnings = match (namespaces, pods) {
        (Ok(namespaces), Ok(pods)) => meshed(&namespaces, &pods),
        (Err(error), _) | (_, Err(error)) => {
            format!("warning: who still has a proxy could not be seen: {error}\n")
        }
    };
    match (labelled, named) {
        (Ok(labelled), Ok(named)) => {
            let found = Found::among(&ours, labelled, named);
            doomed.extend(found.roots.iter().map(bare));
            warnings.push_str(&found.others());
        }
        (Err(error), _) | (_, Err(error)) => {
            let _infallible = writeln!(
                warnings,
                "warning: the roots that weft-ca has left in namespaces could not be looked for, and stay: {error}"
            );
        }
    }
    warnings.push_str(KEY);
    Ok(Removal {
        warnings,
        manifests: yaml::documents(&doomed),
    })
}

/// What any version has made by name, the webhook last.
fn ours() -> anyhow::Result<Vec<Value>> {
    let mut ours = files::base()?;
    let before_webhook = ours.len().saturating_sub(1);
    ours.splice(before_webhook..before_webhook, files::ztunnel()?);
    Ok(ours)
}

/// What is outside of weft-system, with which everything in it goes.
#[derive(Debug, Default)]
struct Found {
    /// ConfigMaps that the authority has written.
    roots: Vec<Value>,
    /// What only looks like ours.
    others: Vec<String>,
}

impl Found {
    fn among(ours: &[Value], labelled: Vec<Value>, named: Vec<Value>) -> Self {
        let mut found = Self::default();
        for object in labelled.into_iter().chain(named) {
            let known = |id_of: &String| ours.iter().any(|one| id(one) == *id_of);
            let name = id(&object);
            if text(&object, "/metadata/namespace") == "weft-system" || known(&name) {
                continue;
            }
            if text(&object, "/kind") == "ConfigMap" && label(&object, MANAGER) == Some("weft-ca") {
                if !found.roots.iter().any(|one| id(one) == name) {
                    found.roots.push(object);
                }
            } else if !found.others.contains(&name) {
                found.others.push(name);
            }
        }
        found
    }

    fn others(&self) -> String {
        let mut text = String::new();
        for other in &self.others {
            let _infallible = writeln!(
                text,
                "warning: {other} looks like a part of weft, and no version made it: it stays"
            );
        }
        text
    }
}

/// Its names, which is all that a deletion needs.
fn bare(object: &Value) -> Value {
    let mut metadata = json!({"name": text(object, "/metadata/name")});
    if let (Value::Object(metadata), Some(namespace)) =
        (&mut metadata, object.pointer("/metadata/namespace"))
    {
        metadata.insert("namespace".to_owned(), namespace.clone());
    }
    json!({"apiVersion": text(object, "/apiVersion"), "kind": text(object, "/kind"), "metadata": metadata})
}

/// Who is still in the mesh.
fn meshed(namespaces: &[Value], pods: &[Value]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for namespace in namespaces
        .iter()
        .map(Namespace)
        .filter(|namespace| namespace.injects())
    {
        counts.insert(namespace.name(), 0);
    }
    for pod in pods
        .iter()
        .map(Pod)
        .filter(|pod| pod.proxy().is_some() && !pod.finished())
    {
        *counts.entry(pod.namespace()).or_default() += 1;
    }
    let mut text = String::new();
    for (namespace, pods) in &counts {
        let _infallible = writeln!(
            text,
            "warning: namespace {namespace} is still in the mesh, {pods} pods with a proxy"
        );
    }
    if !counts.is_empty() {
        text.push_str(
            "  Their pods go on until their certificates end, a day at most, and new ones cannot start. First take away the label\n  \
             (kubectl label namespace NAME weft.dev/inject-), those of pods too, and restart the workloads.\n",
        );
    }
    text
}

const ALL: &str = "--all-namespaces";
const MANAGER: &str = "app.kubernetes.io/managed-by";
const KEY: &str = "warning: the root's key (Secret weft-system/weft-ca) goes with the namespace; a later installation begins with a new root\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_are_still_in_the_mesh_are_told() {
        let namespaces = [
            json!({"metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}}}),
            json!({"metadata": {"name": "plain"}}),
            json!({"metadata": {"name": "other"}}),
        ];
        let pods = [
            json!({"metadata": {"name": "a", "namespace": "other"}, "spec": {"initContainers": [{"name": "weft-proxy"}]}}),
        ];
        let text = meshed(&namespaces, &pods);
        assert!(
            text.contains("namespace shop is still in the mesh, 0 pods"),
            "{text}"
        );
        assert!(
            text.contains("namespace other is still in the mesh, 1 pods"),
            "{text}"
        );
        assert!(!text.contains("plain"), "{text}");
    }

    #[test]
    fn of_what_looks_like_ours_only_what_is_ours_goes() {
        let ours = ours().unwrap();
        let object = |kind: &str, namespace: Option<&str>, name: &str, manager: &str| json!({"kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": {MANAGER: manager}}});
        let labelled = vec![
            object("ClusterRole", None, "weft-ca-pods", ""),
            object("ClusterRole", None, "weft-viewer", ""),
            object("ConfigMap", Some("weft-system"), "weft-ca-root", "weft-ca"),
            object("ConfigMap", Some("shop"), "weft-ca-root", "weft-ca"),
            object("ConfigMap", Some("shop"), "dashboards", ""),
        ];
        let named = vec![
            object("ConfigMap", Some("shop"), "weft-ca-root", "weft-ca"),
            object("ConfigMap", Some("bank"), "weft-ca-root", "trust-manager"),
        ];
        let found = Found::among(&ours, labelled, named);
        let roots: Vec<String> = found.roots.iter().map(id).collect();
        assert_eq!(roots, ["ConfigMap shop/weft-ca-root"]);
        assert_eq!(
            found.others,
            [
                "ClusterRole weft-viewer",
                "ConfigMap shop/dashboards",
                "ConfigMap bank/weft-ca-root"
            ]
        );
    }

    #[test]
    fn the_webhook_goes_first_and_the_namespace_last() {
        let doomed: Vec<Value> = ours().unwrap().iter().rev().map(bare).collect();
        assert!(
            doomed
                .iter()
                .any(|one| id(one) == "ClusterRoleBinding weft-ca-pods")
        );
        assert_eq!(doomed[0]["kind"], "MutatingWebhookConfiguration");
        assert_eq!(
            doomed[doomed.len() - 1],
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "weft-system"}})
        );
    }
}
