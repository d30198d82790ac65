//! The claims of a verified token, for the filters after `jwt`: they find them in the request's extensions, where one of them asks for any.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

/// The payload of a token whose signature, issuer and times hold (RFC 7519 section 4).
#[derive(Clone, Debug)]
pub(crate) struct Claims(pub(crate) Arc<Map<String, Value>>);

impl Claims {
    /// The claim of that name, or else the one that a dotted path leads to: names with dots in them are common.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(path) {
            return Some(value);
        }
        let (first, rest) = path.split_once('.')?;
        rest.split('.')
            .try_fold(self.0.get(first)?, |value, name| value.get(name))
    }

    /// The same as text: strings as they are, all else as JSON.
    pub(crate) fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        Some(match self.get(path)? {
            Value::String(text) => Cow::Borrowed(text),
            other => Cow::Owned(other.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_by_its_name_and_by_its_path() {
        let Value::Object(map) =
            serde_json::json!({"sub": "ann", "a.b": 1, "a": {"b": 2, "c": {"d": true}}})
        else {
            unreachable!()
        };
        let claims = Claims(Arc::new(map));
        let rows = [
            ("sub", Some("ann")),
            ("a.b", Some("1")),
            ("a.c.d", Some("true")),
            ("a.x", None),
            ("x", None),
            ("sub.x", None),
        ];
        for (path, want) in rows {
            assert_eq!(claims.text(path).as_deref(), want, "{path}");
        }
    }
}
