//! A service account, as operators write it: `<namespace>/<name>`.

use std::fmt;
use std::str::FromStr;

use weft_policy::spiffe::SpiffeId;

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Where it is.
    pub namespace: String,
    /// What it is called there.
    pub name: String,
}

impl Account {
    /// Returns whose identity `id` is, if it is that of a service account.
    #[must_use]
    pub fn of(id: &SpiffeId) -> Option<Self> {
        Some(Self {
            namespace: id.namespace()?.to_owned(),
            name: id.service_account()?.to_owned(),
        })
    }
}

impl FromStr for Account {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, NotAnAccount> {
        let wrong = || NotAnAccount(text.to_owned());
        let (namespace, name) = text.split_once('/').ok_or_else(wrong)?;
        let is_name = |name: &str| {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
            !name.is_empty() && name.bytes().all(fits)
        };
        match is_name(namespace) && is_name(name) {
            true => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no service account: write <namespace>/<name>")]
pub struct NotAnAccount(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_written_with_its_namespace() {
        let rows = [
            ("istio-system/ztunnel", true),
            ("a/b.c", true),
            ("ztunnel", false),
            ("/ztunnel", false),
            ("a/", false),
            ("a/b/c", false),
            ("A/b", false),
            ("", false),
        ];
        for (text, is) in rows {
            let parsed = text.parse::<Account>();
            assert_eq!(parsed.is_ok(), is, "{text}");
            if let Ok(account) = parsed {
                assert_eq!(account.to_string(), text);
            }
        }
    }
}
