//! The difference between two objects as a JSON Patch (RFC 6902).
//!
//! Both come from the same type, so that what the type does not know is in neither and stays as it is. Lists whose items have names, as
//! containers, volumes and variables do, differ by name; items may be added, and none changes its place.

use serde::Serialize;
use serde_json::{Map, Value};

/// One step of a patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    op: &'static str,
    /// A JSON Pointer (RFC 6901).
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

/// Returns what makes `after` of `before`; nothing where they are equal.
#[must_use]
pub fn difference(before: &Value, after: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    compare("", before, after, &mut operations);
    operations
}

fn compare(path: &str, before: &Value, after: &Value, operations: &mut Vec<Operation>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => members(path, before, after, operations),
        (Value::Array(before), Value::Array(after)) if named(before, after) => {
            items(path, before, after, operations);
        }
        _ => operations.push(set(path.to_owned(), after)),
    }
}

fn members(
    path: &str,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    operations: &mut Vec<Operation>,
) {
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        operations.push(Operation {
            op: "remove",
            path: below(path, key),
            value: None,
        });
    }
    for (key, value) in after {
        let path = below(path, key);
        match before.get(key) {
            Some(old) => compare(&path, old, value, operations),
            None => operations.push(set(path, value)),
        }
    }
}

/// "If the target location specifies an object member that does exist, that member's value is replaced" (RFC 6902 section 4.1).
fn set(path: String, value: &Value) -> Operation {
    Operation {
        op: "add",
        path,
        value: Some(value.clone()),
    }
}

/// In the order of `after`: what stands before an item is there already when its turn comes.
fn items(path: &str, before: &[Value], after: &[Value], operations: &mut Vec<Operation>) {
    let mut old = before.iter().peekable();
    for (index, item) in after.iter().enumerate() {
        let path = format!("{path}/{index}");
        match old.next_if(|old| name(old) == name(item)) {
            Some(old) => compare(&path, old, item, operations),
            None => operations.push(set(path, item)),
        }
    }
}

/// Whether all of `before` are in `after`, by name and in the same order.
fn named(before: &[Value], after: &[Value]) -> bool {
    let mut left = before.iter().peekable();
    for item in after {
        if name(item).is_none() {
            return false;
        }
        let _same = left.next_if(|old| name(old) == name(item));
    }
    left.peek().is_none()
}

fn name(item: &Value) -> Option<&str> {
    item.get("name")?.as_str()
}

/// RFC 6901 section 3: "the characters '~' and '/' have special meanings".
fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Does to `document` what `operations` say, each under `prefix`.
///
/// # Errors
/// The path that leads nowhere.
pub fn apply(
    document: &mut Value,
    prefix: &str,
    operations: &[Operation],
) -> Result<(), NoSuchPlace> {
    for Operation { path, value, .. } in operations {
        let path = format!("{prefix}{path}");
        apply_one(document, &path, value.as_ref()).ok_or(NoSuchPlace { path })?;
    }
    Ok(())
}

fn apply_one(document: &mut Value, path: &str, value: Option<&Value>) -> Option<()> {
    let (parent, key) = path.rsplit_once('/')?;
    let key = key.replace("~1", "/").replace("~0", "~");
    match (document.pointer_mut(parent)?, value) {
        (Value::Object(members), Some(value)) => drop(members.insert(key, value.clone())),
        (Value::Object(members), None) => drop(members.remove(&key)?),
        (Value::Array(items), Some(value)) => {
            let index = key.parse().ok().filter(|index| *index <= items.len())?;
            items.insert(index, value.clone());
        }
        _ => return None,
    }
    Some(())
}

/// A path that a patch names and the object does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no place {path}")]
pub struct NoSuchPlace {
    path: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patch(before: &Value, after: &Value) -> Value {
        let operations = difference(before, after);
        let mut patched = before.clone();
        apply(&mut patched, "", &operations).unwrap();
        assert_eq!(&patched, after, "{operations:?}");
        serde_json::to_value(operations).unwrap()
    }

    #[test]
    fn a_patch_says_only_what_differs() {
        let rows = [
            (json!({"a": 1}), json!({"a": 1}), json!([])),
            (
                json!({"metadata": {}}),
                json!({"metadata": {"annotations": {"a/b~c": "d"}}}),
                json!([{"op": "add", "path": "/metadata/annotations", "value": {"a/b~c": "d"}}]),
            ),
            (
                json!({"annotations": {"x": "y"}}),
                json!({"annotations": {"x": "y", "a/b~c": "d"}}),
                json!([{"op": "add", "path": "/annotations/a~1b~0c", "value": "d"}]),
            ),
            (
                json!({"list": [{"name": "app", "probe": {"tcp": 1}}]}),
                json!({"list": [{"name": "proxy"}, {"name": "app", "probe": {"http": 2}}, {"name": "end"}]}),
                json!([
                    {"op": "add", "path": "/list/0", "value": {"name": "proxy"}},
                    {"op": "remove", "path": "/list/1/probe/tcp"},
                    {"op": "add", "path": "/list/1/probe/http", "value": 2},
                    {"op": "add", "path": "/list/2", "value": {"name": "end"}},
                ]),
            ),
            (
                json!({"grace": 30, "args": ["a"]}),
                json!({"grace": 35, "args": ["a", "b"]}),
                json!([
                    {"op": "add", "path": "/args", "value": ["a", "b"]},
                    {"op": "add", "path": "/grace", "value": 35},
                ]),
            ),
        ];
        for (before, after, want) in rows {
            assert_eq!(patch(&before, &after), want, "{after}");
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_named() {
        let operations = difference(&json!({"a": {}}), &json!({"a": {"b": 1}}));
        let error = apply(&mut json!({}), "/spec", &operations).unwrap_err();
        assert_eq!(error.to_string(), "there is no place /spec/a/b");
    }
}
