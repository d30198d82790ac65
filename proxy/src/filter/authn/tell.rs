//! Claims as headers, for the app (`claims-to-headers`).

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::filter::claims::Claims;
use crate::http::headers::remove_lookalikes;

/// The headers of a token: claims that are not there, or that no header can carry, are left out.
pub(super) fn headers(
    claims: &Claims,
    rules: &[(String, HeaderName)],
) -> Vec<(HeaderName, HeaderValue)> {
    let header = |(claim, name): &(String, HeaderName)| {
        let text = text(claims.get(claim)?)?;
        // A value with a line break is none.
        let value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
        Some((name.clone(), value))
    };
    rules.iter().filter_map(header).collect()
}

/// Removes the caller's own copies, also as they look to apps that take `_` for `-`.
pub(super) fn remove_copies(headers: &mut HeaderMap, told: &[HeaderName]) {
    for name in told {
        headers.remove(name);
    }
    remove_lookalikes(headers, told);
}

pub(super) fn tell(headers: &mut HeaderMap, told: &[(HeaderName, HeaderValue)]) {
    for (name, value) in told {
        headers.insert(name.clone(), value.clone());
    }
}

/// Texts, numbers and truths as they are; a list of them with commas, unless one has a comma of its own.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(item).collect();
            Some(texts?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

fn item(value: &Value) -> Option<String> {
    match value {
        Value::Array(_) => None,
        other => text(other).filter(|text| !text.contains(',')),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn claims_become_headers_where_they_can() {
        let claims = serde_json::json!({
            "sub": "ann", "age": 30, "ok": true, "roles": ["a", "b"], "name": "李雷",
            "list": ["a,b"], "deep": [["a"]], "map": {"x": "y"}, "none": null, "split": "a\r\nx-admin: 1",
        });
        let claims = Claims(Arc::new(claims.as_object().unwrap().clone()));
        let rows: [(&str, Option<&str>); 11] = [
            ("sub", Some("ann")),
            ("age", Some("30")),
            ("ok", Some("true")),
            ("roles", Some("a,b")),
            ("name", Some("李雷")),
            ("map.x", Some("y")),
            ("list", None),
            ("deep", None),
            ("map", None),
            ("none", None),
            ("split", None),
        ];
        let name = HeaderName::from_static("x-claim");
        for (claim, want) in rows {
            let told = headers(&claims, &[(claim.to_owned(), name.clone())]);
            let value = told.first().map(|(_, value)| value.as_bytes());
            assert_eq!(value, want.map(str::as_bytes), "{claim}");
        }
    }

    #[test]
    fn the_callers_own_copies_go() {
        let told = [HeaderName::from_static("x-user-id")];
        let mut map = HeaderMap::new();
        for name in ["x-user-id", "x_user_id", "x-user_id", "x-user", "user_id"] {
            map.append(name, HeaderValue::from_static("1"));
            map.append(name, HeaderValue::from_static("2"));
        }
        remove_copies(&mut map, &told);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["user_id", "x-user"]);
    }
}
