//! Edits a head as policy says: remove, set, add. What must not be touched was refused when the policy was read.

use http::HeaderMap;
use weft_policy::headers::Edits;

/// Makes the edits.
pub(crate) fn edit(edits: &Edits, headers: &mut HeaderMap) {
    for name in &edits.remove {
        headers.remove(name);
    }
    // The same name may be set to several values: the first one clears, the others join it.
    for (name, _) in &edits.set {
        headers.remove(name);
    }
    for (name, value) in edits.set.iter().chain(&edits.add) {
        headers.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderValue)> {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let edits = Edits {
            remove: vec![
                HeaderName::from_static("x-gone"),
                HeaderName::from_static("x-new"),
            ],
            set: pairs(&[("x-set", "a"), ("x-set", "b"), ("x-new", "1")]),
            add: pairs(&[("x-more", "2"), ("x-set", "c")]),
        };
        let mut headers: HeaderMap = pairs(&[
            ("x-gone", "1"),
            ("x-set", "old"),
            ("x-set", "older"),
            ("x-more", "1"),
            ("x-kept", "1"),
        ])
        .into_iter()
        .collect();
        edit(&edits, &mut headers);
        let values = |name: &str| {
            headers
                .get_all(name)
                .iter()
                .map(|value| value.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(values("x-gone"), [""; 0]);
        assert_eq!(values("x-set"), ["a", "b", "c"]);
        assert_eq!(values("x-new"), ["1"]);
        assert_eq!(values("x-more"), ["1", "2"]);
        assert_eq!(values("x-kept"), ["1"]);
    }
}
