//! Overlays as Kustomize applies them, as far as ours go: JSON patches (RFC 6902) for objects by kind and label.

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::{self, File};

/// How large an installation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Overlay {
    /// Two replicas of each part
    #[default]
    Base,
    /// Three replicas, apart from each other
    Ha,
    /// One replica that says more, for a laptop
    Dev,
}

impl Overlay {
    /// As it is typed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Ha => "ha",
            Self::Dev => "dev",
        }
    }
}

/// What an overlay's `kustomization.yaml` says. Another key would be passed over here and not by Kustomize, so there may be none.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "resources")]
    _base: Vec<String>,
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    target: Target,
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Target {
    kind: String,
    /// `name=value`.
    label_selector: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: Op,
    path: String,
    #[serde(default)]
    value: Value,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Add,
    Replace,
    Remove,
    Test,
}

/// Changes the objects of the base as the overlay says.
///
/// # Errors
/// None that a test has not found.
pub(super) fn patch(objects: &mut [Value], overlay: Overlay) -> anyhow::Result<()> {
    match overlay {
        Overlay::Base => Ok(()),
        Overlay::Ha => patch_all(objects, &files::HA),
        Overlay::Dev => patch_all(objects, &files::DEV),
    }
}

fn patch_all(objects: &mut [Value], [kustomization, rest @ ..]: &[File; 2]) -> anyhow::Result<()> {
    let kustomization: Kustomization = serde_saphyr::from_str(kustomization.1)?;
    for patch in kustomization.patches {
        let file = rest.iter().find(|(name, _)| *name == patch.path);
        let (name, text) = file.with_context(|| format!("find {}", patch.path))?;
        let operations: Vec<Operation> = serde_saphyr::from_str(text)?;
        for object in objects.iter_mut().filter(|object| patch.target.is(object)) {
            for operation in &operations {
                let applied = operation.apply(object);
                applied.with_context(|| format!("{name}: {}", operation.path))?;
            }
        }
    }
    Ok(())
}

impl Target {
    fn is(&self, object: &Value) -> bool {
        let Some((label, value)) = self.label_selector.split_once('=') else {
            return false;
        };
        let labels = object.pointer("/metadata/labels");
        object.get("kind").is_some_and(|kind| *kind == self.kind)
            && labels
                .and_then(|labels| labels.get(label))
                .is_some_and(|found| found == value)
    }
}

impl Operation {
    /// RFC 6902, section 4.
    fn apply(&self, object: &mut Value) -> anyhow::Result<()> {
        let (parent, last) = self.path.rsplit_once('/').context("a path begins with /")?;
        // RFC 6901, section 4.
        let last = last.replace("~1", "/").replace("~0", "~");
        let parent = object
            .pointer_mut(parent)
            .context("there is no such place")?;
        match parent {
            Value::Object(map) => self.in_map(map, last),
            Value::Array(list) => self.in_list(list, &last),
            _ => bail!("nothing can be under a scalar"),
        }
    }

    fn in_map(&self, map: &mut serde_json::Map<String, Value>, key: String) -> anyhow::Result<()> {
        let there = map.contains_key(&key);
        match self.op {
            Op::Add => drop(map.insert(key, self.value.clone())),
            Op::Replace if there => drop(map.insert(key, self.value.clone())),
            Op::Remove if there => drop(map.remove(&key)),
            Op::Test => ensure!(map.get(&key) == Some(&self.value), "it is another value"),
            Op::Replace | Op::Remove => bail!("it is not there"),
        }
        Ok(())
    }

    fn in_list(&self, list: &mut Vec<Value>, index: &str) -> anyhow::Result<()> {
        if index == "-" {
            ensure!(
                matches!(self.op, Op::Add),
                "only something new is at the end"
            );
            list.push(self.value.clone());
            return Ok(());
        }
        let index: usize = index.parse().context("a place in a list is a number")?;
        ensure!(index < list.len(), "the list is shorter");
        match self.op {
            Op::Add => list.insert(index, self.value.clone()),
            Op::Remove => drop(list.remove(index)),
            Op::Replace => list
                .splice(index..=index, [self.value.clone()])
                .for_each(drop),
            Op::Test => ensure!(list.get(index) == Some(&self.value), "it is another value"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut object: Value, operation: Value) -> Result<Value, String> {
        let operation: Operation = serde_json::from_value(operation).unwrap();
        let applied = operation.apply(&mut object).map(|()| object);
        applied.map_err(|error| error.to_string())
    }

    #[test]
    fn operations_do_what_rfc_6902_says() {
        let rows = [
            (
                json!({"op": "add", "path": "/a", "value": 1}),
                json!({"a": 1, "l": [1, 2]}),
            ),
            (
                json!({"op": "add", "path": "/l/-", "value": 3}),
                json!({"l": [1, 2, 3]}),
            ),
            (
                json!({"op": "add", "path": "/l/0", "value": 3}),
                json!({"l": [3, 1, 2]}),
            ),
            (
                json!({"op": "replace", "path": "/l/1", "value": 3}),
                json!({"l": [1, 3]}),
            ),
            (json!({"op": "remove", "path": "/l/0"}), json!({"l": [2]})),
            (
                json!({"op": "add", "path": "/x~1y", "value": 1}),
                json!({"l": [1, 2], "x/y": 1}),
            ),
            (
                json!({"op": "test", "path": "/l/0", "value": 1}),
                json!({"l": [1, 2]}),
            ),
        ];
        for (operation, want) in rows {
            let name = operation.to_string();
            assert_eq!(patched(json!({"l": [1, 2]}), operation), Ok(want), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let rows = [
            json!({"op": "replace", "path": "/a", "value": 1}),
            json!({"op": "remove", "path": "/a"}),
            json!({"op": "test", "path": "/l/0", "value": 2}),
            json!({"op": "add", "path": "/l/7", "value": 2}),
            json!({"op": "add", "path": "/a/b", "value": 2}),
        ];
        for operation in rows {
            let name = operation.to_string();
            assert!(patched(json!({"l": [1, 2]}), operation).is_err(), "{name}");
        }
    }
}
