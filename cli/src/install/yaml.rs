//! Objects as YAML that people can read: blocks, and quotes where a bare word would be read as something else.

use std::fmt::Write as _;

use serde_json::Value;

/// Several documents, apart from each other.
pub(super) fn documents(objects: &[Value]) -> String {
    let mut text = String::new();
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        block(&mut text, object, 0);
    }
    text
}

/// Writes what stands on lines of its own.
fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _infallible = write!(text, "{:indent$}{}:", "", scalar(key));
                // A list may stand as far left as its key.
                let inner = if value.is_array() { indent } else { indent + 2 };
                after_key(text, value, inner);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let mut item = String::new();
                block(&mut item, value, indent + 2);
                let _infallible = write!(text, "{:indent$}- {}", "", item.trim_start());
            }
        }
        value => {
            text.push_str(&one_line(value));
            text.push('\n');
        }
    }
}

fn after_key(text: &mut String, value: &Value, indent: usize) {
    let map = value.as_object().is_some_and(|map| !map.is_empty());
    let list = value.as_array().is_some_and(|list| !list.is_empty());
    text.push(if map || list { '\n' } else { ' ' });
    block(text, value, indent);
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        value => value.to_string(),
    }
}

/// A bare word where nobody can take it for anything else; otherwise as JSON, which YAML includes.
fn scalar(text: &str) -> String {
    let first = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    let plain = |one: char| one.is_ascii_alphanumeric() || "_./-".contains(one);
    // YAML 1.1, which Kubernetes reads, has many words for two values.
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if first && text.chars().all(plain) && !reserved.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let object = json!({
            "kind": "A", "empty": {}, "none": [], "null": null, "n": 3, "f": 0.5, "yes": true,
            "words": ["on", "No", "1", "1.5", "~", "", "-", "a: b", "#x", "it's", "two\nlines", "https://a:1/b", "12e3"],
            "deep": [{}, [], {"a": [{"b": 1, "c": [[1, 2], []]}], "d": {"weft.dev/x": "y"}}],
        });
        let text = documents(&[object.clone(), json!({"kind": "B"})]);
        let read: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(read, [object, json!({"kind": "B"})], "{text}");
    }

    #[test]
    fn it_looks_as_people_write_it() {
        let object =
            json!({"spec": {"ports": [{"name": "a", "port": 80}], "args": ["x"]}, "on": "on"});
        let want = "\"on\": \"on\"\nspec:\n  args:\n  - x\n  ports:\n  - name: a\n    port: 80\n";
        assert_eq!(documents(&[object]), want);
    }
}
