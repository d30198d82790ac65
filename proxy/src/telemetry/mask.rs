//! What is never written of a request, in logs, spans and dumps alike: secrets by their names.
//!
//! Headers are not written at all but for a few that are no secrets, and these can be masked too. Of a query the names stay,
//! and of the values those whose names do not sound like a secret's.

use std::borrow::Cow;

use weft_policy::secrets;

/// Names whose values are not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mask {
    /// Those of policy, in lower case.
    names: Vec<String>,
}

impl Mask {
    /// Masks `names` of headers and query parameters over what is always masked.
    pub(crate) fn new(names: &[String]) -> Self {
        Self {
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        }
    }

    /// The value of a header, or what stands for it.
    pub(super) fn header<'a>(&self, name: &str, value: Cow<'a, str>) -> Cow<'a, str> {
        match self.names.iter().any(|own| own == name) {
            true => MASKED.into(),
            false => value,
        }
    }

    /// A query with the values of secrets masked.
    pub(super) fn query(&self, query: &str) -> String {
        let mut text = String::with_capacity(query.len());
        // Some apps separate by `;` too.
        for part in query.split_inclusive(['&', ';']) {
            let pair = part.trim_end_matches(['&', ';']);
            match pair.split_once('=') {
                Some((name, _)) if self.hides(name) => {
                    text.extend([name, "=", MASKED]);
                }
                // A word alone may be a token.
                None if pair.len() > LONGEST_WORD => text.push_str(MASKED),
                Some(_) | None => text.push_str(pair),
            }
            text.push_str(part.get(pair.len()..).unwrap_or_default());
        }
        text
    }

    fn hides(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        // What is encoded may say anything.
        name.contains('%') || secrets::sounds_like_one(&name) || self.names.contains(&name)
    }
}

/// Stands for a value.
const MASKED: &str = "***";
/// A query parameter without a value is a flag, as a rule.
const LONGEST_WORD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_masked() {
        let mask = Mask::new(&["Customer".to_owned(), "user-agent".to_owned()]);
        let rows = [
            ("page=2&sort=name", "page=2&sort=name"),
            ("access_token=abc&page=2", "access_token=***&page=2"),
            ("API_KEY=abc", "API_KEY=***"),
            ("a=1&customer=7", "a=1&customer=***"),
            ("%74oken=abc", "%74oken=***"),
            ("flag", "flag"),
            ("a=1;token=x&b=2", "a=1;token=***&b=2"),
            ("eyJhbGciOiJFUzI1NiJ9.e30.x", "***"),
            ("", ""),
            ("&&=", "&&="),
        ];
        for (query, want) in rows {
            assert_eq!(mask.query(query), want, "{query}");
        }
        assert_eq!(mask.header("user-agent", "curl".into()), "***");
        assert_eq!(mask.header("host", "a".into()), "a");
    }
}
