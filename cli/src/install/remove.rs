//! `weft uninstall`: what is to be deleted, and who would miss it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{UninstallArgs, files, yaml};
use crate::kubectl::Kubectl;
use crate::objects::{Namespace, Pod, text};

/// What is to be deleted, and what there is to say about it.
#[derive(Debug)]
pub(crate) struct Removal {
    /// For people.
    pub(crate) warnings: String,
    /// For `kubectl delete -f -`.
    pub(crate) manifests: String,
}

/// Lists what `install` has made and what the authority has left in namespaces, the webhook first.
///
/// # Errors
/// None that a test has not found. A cluster that does not answer is a warning.
pub(crate) async fn uninstall(args: &UninstallArgs) -> anyhow::Result<Removal> {
    let mut doomed: Vec<Value> = files::base()?.iter().rev().map(bare).collect();
    let kubectl = Kubectl::new(&args.cluster);
    let warnings = match look(&kubectl).await {
        Ok((bundles, warnings)) => {
            // Those of weft-system go with it.
            let left = bundles
                .iter()
                .filter(|one| text(one, "/metadata/namespace") != "weft-system");
            doomed.extend(left.map(bare));
            warnings
        }
        Err(error) => format!("warning: who still has a proxy could not be seen: {error}\n"),
    };
    Ok(Removal {
        warnings,
        manifests: yaml::documents(&doomed),
    })
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

async fn look(kubectl: &Kubectl) -> anyhow::Result<(Vec<Value>, String)> {
    let namespaces = kubectl.get(&["namespaces"]).await?;
    let pods = kubectl.get(&["pods", "--all-namespaces"]).await?;
    let bundles = kubectl
        .get(&[
            "configmaps",
            "--all-namespaces",
            "--field-selector=metadata.name=weft-ca-root",
        ])
        .await?;
    Ok((bundles, warnings(&namespaces, &pods)))
}

fn warnings(namespaces: &[Value], pods: &[Value]) -> String {
    let mut meshed: BTreeMap<&str, usize> = BTreeMap::new();
    for namespace in namespaces
        .iter()
        .map(Namespace)
        .filter(|namespace| namespace.injects())
    {
        meshed.insert(namespace.name(), 0);
    }
    for pod in pods
        .iter()
        .map(Pod)
        .filter(|pod| pod.proxy().is_some() && !pod.finished())
    {
        *meshed.entry(pod.namespace()).or_default() += 1;
    }
    let mut text = String::new();
    for (namespace, pods) in &meshed {
        let _infallible = writeln!(
            text,
            "warning: namespace {namespace} is still in the mesh, {pods} pods with a proxy"
        );
    }
    if !meshed.is_empty() {
        text.push_str(
            "  Their pods go on until their certificates end, a day at most, and new ones cannot start. First take away the label\n  \
             (kubectl label namespace NAME weft.dev/inject-), those of pods too, and restart the workloads.\n",
        );
    }
    text.push_str("warning: the root's key (Secret weft-system/weft-ca) goes with the namespace; a later installation begins with a new root\n");
    text
}

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
        let text = warnings(&namespaces, &pods);
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
    fn the_webhook_goes_first_and_the_namespace_last() {
        let doomed: Vec<Value> = files::base().unwrap().iter().rev().map(bare).collect();
        assert_eq!(doomed[0]["kind"], "MutatingWebhookConfiguration");
        assert_eq!(
            doomed[doomed.len() - 1],
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "weft-system"}})
        );
    }
}
