//! `weft upgrade`: the objects of this version with the choices of before, and what that changes in the cluster.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::Value;

use super::values::{Choices, RECORD};
use super::{UpgradeArgs, difference, id, objects, yaml};
use crate::kubectl::{Kubectl, items};

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
    let choices = args.choices.clone().over(before.unwrap_or_default());
    let wanted = objects(&choices)?;
    let manifests = yaml::documents(&wanted);
    let there = there(&kubectl, &manifests).await?;
    let planned = kubectl
        .told(
            &["apply", "--dry-run=server", "--output=json", "--filename=-"],
            &manifests,
        )
        .await
        .context("ask the API server what it would make of the new objects")?;
    let planned = items(serde_json::from_str(&planned).context("read kubectl's answer")?);
    Ok(Plan {
        changes: changes(&there, &planned),
        manifests,
    })
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
}
