//! `weft upgrade`: the objects of this version with the choices of before, and what that changes in the cluster.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::Value;

use super::carried::Carried;
use super::values::{Choices, RECORD};
use super::{UpgradeArgs, difference, domain, id, objects, yaml};
use crate::kubectl::{Kubectl, items};
use crate::objects::label;

/// What an upgrade does.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What changes, for people.
    pub(crate) changes: String,
    /// The objects, for `kubectl apply -f -`.
    pub(crate) manifests: String,
}

/// Asks the API server what it would make of the objects, and compares that with what is there.
///
/// # Errors
/// The cluster does not answer, nothing is installed there, or it refuses the objects.
pub(crate) async fn upgrade(args: &UpgradeArgs) -> anyhow::Result<Plan> {
    let kubectl = Kubectl::new(&args.cluster);
    let namespace = kubectl.get(&["namespace", NAMESPACE]).await?;
    if namespace.is_empty() {
        anyhow::bail!(
            "nothing is installed: there is no namespace {NAMESPACE}. Begin with: weft install | kubectl apply -f -"
        );
    }
    let record = kubectl
        .get(&["configmap", RECORD, "--namespace", NAMESPACE])
        .await?;
    let before = record.first().map(Choices::written_down).transpose()?;
    let before = before.unwrap_or_default();
    let choices = args.choices.clone().over(before.clone());
    let wanted = objects(&choices)?;
    let manifests = yaml::documents(&wanted);
    let there = there(&kubectl, &manifests).await?;
    domain::stays(&there, &wanted)?;
    let planned = kubectl
        .told(
            &["apply", "--dry-run=server", "--output=json", "--filename=-"],
            &manifests,
        )
        .await
        .context("ask the API server what it would make of the new objects")?;
    let planned = items(serde_json::from_str(&planned).context("read kubectl's answer")?);
    let labelled = [
        "--all-namespaces",
        "--selector=app.kubernetes.io/part-of=weft",
    ];
    let ours = kubectl
        .get(&[&[KINDS], labelled.as_slice()].concat())
        .await?;
    let carried = Carried {
        given: &args.choices,
        before: &before,
        there: &there,
    };
    Ok(Plan {
        changes: carried.told() + &left(&ours, &planned) + &changes(&there, &planned),
        manifests,
    })
}

/// What an earlier version had and this one has not: applying the new objects leaves it where it is.
fn left(ours: &[Value], planned: &[Value]) -> String {
    let mut text = String::new();
    for object in ours {
        // The authority makes these, wherever they are needed.
        let roots = label(object, "app.kubernetes.io/managed-by") == Some("weft-ca");
        if !roots && !planned.iter().any(|one| id(one) == id(object)) {
            let _infallible = writeln!(
                text,
                "{}: is no longer a part of it; delete it afterwards",
                id(object)
            );
        }
    }
    text
}

async fn there(kubectl: &Kubectl, manifests: &str) -> anyhow::Result<Vec<Value>> {
    let words = ["get", "--ignore-not-found", "--output=json", "--filename=-"];
    let text = kubectl.told(&words, manifests).await?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    Ok(items(
        serde_json::from_str(&text).context("read kubectl's answer")?,
    ))
}

fn changes(there: &[Value], planned: &[Value]) -> String {
    let mut text = String::new();
    let (mut new, mut changed) = (0_usize, 0_usize);
    for object in planned {
        let name = id(object);
        let Some(old) = there.iter().find(|old| id(old) == name) else {
            new += 1;
            let _infallible = writeln!(text, "{name}: new");
            continue;
        };
        let difference = difference::between(old, object);
        if !difference.is_empty() {
            changed += 1;
            let _infallible = write!(text, "{name}: changes\n{difference}");
        }
    }
    let same = planned.len().saturating_sub(new + changed);
    let _infallible = writeln!(
        text,
        "{} objects: {new} new, {changed} change, {same} stay as they are",
        planned.len()
    );
    text
}

const NAMESPACE: &str = "weft-system";
/// The kinds that a version may have had.
pub(super) const KINDS: &str = "serviceaccounts,configmaps,services,deployments.apps,poddisruptionbudgets.policy,networkpolicies.networking.k8s.io,\
    roles.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io,clusterroles.rbac.authorization.k8s.io,\
    clusterrolebindings.rbac.authorization.k8s.io,priorityclasses.scheduling.k8s.io,mutatingwebhookconfigurations.admissionregistration.k8s.io";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_told_object_by_object_with_a_sum() {
        let object =
            |name: &str, value: u8| json!({"kind": "A", "metadata": {"name": name}, "spec": value});
        let there = [object("a", 1), object("b", 1)];
        let planned = [object("a", 1), object("b", 2), object("c", 1)];
        let want = "A b: changes\n  - spec: 1\n  + spec: 2\nA c: new\n3 objects: 1 new, 1 change, 1 stay as they are\n";
        assert_eq!(changes(&there, &planned), want);
    }

    #[test]
    fn what_is_no_longer_a_part_of_it_is_told() {
        let object = |name: &str| json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "weft-system"}});
        let mut roots = object("weft-ca-root");
        roots["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "weft-ca"});
        let ours = [object("a"), object("old"), roots];
        let want = "ConfigMap weft-system/old: is no longer a part of it; delete it afterwards\n";
        assert_eq!(left(&ours, &[object("a")]), want);
    }
}
