//! What is different between two objects, place by place, as people read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// Lines in the form of a diff, two a change: what goes, what comes. None where the two say the same.
pub(super) fn between(old: &Value, new: &Value) -> String {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten(&stripped(old), String::new(), &mut before);
    flatten(&stripped(new), String::new(), &mut after);
    let mut text = String::new();
    let places: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for place in places {
        let (old, new) = (before.get(place), after.get(place));
        if old == new {
            continue;
        }
        for (sign, value) in [('-', old), ('+', new)] {
            if let Some(value) = value.map(|value| shown(place, value)) {
                let _infallible = writeln!(text, "  {sign} {place}: {value}");
            }
        }
    }
    text
}

/// Headers for a collector are how its access tokens are given; where somebody has written some, they are not written once more.
fn shown<'a>(place: &str, value: &'a str) -> &'a str {
    let secret = place.contains("_HEADERS]") || value.contains("_HEADERS=");
    match secret && !value.contains("_HEADERS=secret:") {
        true => "(not shown)",
        false => value,
    }
}

/// Without what the API server alone writes.
fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(map) = &mut object {
        map.remove("status");
    }
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        for key in [
            "managedFields",
            "resourceVersion",
            "generation",
            "uid",
            "creationTimestamp",
        ] {
            metadata.remove(key);
        }
        let mut bare = false;
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.retain(|key, _| !SERVER_S.contains(&key.as_str()));
            bare = annotations.is_empty();
        }
        if bare {
            metadata.remove("annotations");
        }
    }
    object
}

fn flatten(value: &Value, place: String, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let dot = if place.is_empty() { "" } else { "." };
                flatten(value, format!("{place}{dot}{key}"), out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (index, value) in list.iter().enumerate() {
                // What has a name is the same in another place.
                let name = value.get("name").and_then(Value::as_str);
                let name = name.map_or_else(|| index.to_string(), str::to_owned);
                flatten(value, format!("{place}[{name}]"), out);
            }
        }
        value => drop(out.insert(place, value.to_string())),
    }
}

/// Annotations that are no wish of anybody.
const SERVER_S: [&str; 2] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_that_somebody_wrote_down_are_not_shown() {
        let object = |value: &str| json!({"env": [{"name": "WEFT_PROXY_ENV", "value": value}]});
        let old = object("OTEL_EXPORTER_OTLP_HEADERS=authorization=hunter2");
        let new = object("OTEL_EXPORTER_OTLP_HEADERS=secret:otlp/headers");
        let told = between(&old, &new);
        assert!(
            told.contains("- env[WEFT_PROXY_ENV].value: (not shown)"),
            "{told}"
        );
        assert!(
            told.contains("secret:otlp/headers") && !told.contains("hunter2"),
            "{told}"
        );
    }

    #[test]
    fn changes_are_told_by_place_and_names_find_each_other() {
        let container = |name: &str, image: &str| json!({"name": name, "image": image});
        let object = |containers: Value| {
            json!({"metadata": {"name": "x", "uid": "1", "annotations": {"deployment.kubernetes.io/revision": "3"}},
                "spec": {"containers": containers, "args": ["a"]}, "status": {"ready": true}})
        };
        let old = object(json!([container("a", "x:1"), container("b", "y:1")]));
        let mut new = object(json!([container("b", "y:1"), container("a", "x:2")]));
        new["metadata"]["uid"] = json!("2");
        new["spec"]["args"] = json!(["a", "b"]);
        let want = "  + spec.args[1]: \"b\"\n  - spec.containers[a].image: \"x:1\"\n  + spec.containers[a].image: \"x:2\"\n";
        assert_eq!(between(&old, &new), want);
        assert_eq!(between(&old, &old), "");
    }
}
