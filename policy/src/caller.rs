//! Callers, as they are written in `allow`, `deny` and rules: `web`, `shop/web`, `shop/*`, a SPIFFE ID, `*`.

use crate::scope::Scope;
use crate::spiffe::{SpiffeId, TrustDomain};

/// One caller or a group of them. Compared as parsed values, never as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// `*`: anyone with an identity.
    Anyone,
    /// `shop/*`: any service account of a namespace of one trust domain.
    Namespace {
        /// The trust domain, that of the policy's own workload.
        trust_domain: TrustDomain,
        /// The namespace.
        namespace: String,
    },
    /// Exactly this identity.
    Is(SpiffeId),
}

impl Caller {
    /// Parses a caller as it is written in a policy of `scope`.
    ///
    /// # Errors
    /// Says what a caller looks like.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Anyone);
        }
        if text.contains("://") {
            return SpiffeId::parse(text)
                .map(Self::Is)
                .map_err(|error| format!("is no SPIFFE ID: {error}"));
        }
        let (namespace, account) = text.split_once('/').unwrap_or((&scope.namespace, text));
        let name = |name: &str| is_name(name);
        if name(namespace) && account == "*" {
            return Ok(Self::Namespace {
                trust_domain: scope.trust_domain.clone(),
                namespace: namespace.to_owned(),
            });
        }
        if !name(namespace) || !name(account) {
            return Err(
                "is no caller; write web, shop/web, shop/*, spiffe://domain/ns/shop/sa/web or *"
                    .to_owned(),
            );
        }
        let id = SpiffeId::workload(&scope.trust_domain, namespace, account);
        id.map(Self::Is).map_err(|error| error.to_string())
    }

    /// Whether `identity` is meant.
    #[must_use]
    pub fn matches(&self, identity: &SpiffeId) -> bool {
        match self {
            Self::Anyone => true,
            Self::Namespace {
                trust_domain,
                namespace,
            } => {
                identity.trust_domain() == *trust_domain && identity.namespace() == Some(namespace)
            }
            Self::Is(wanted) => wanted == identity,
        }
    }
}

/// Whether Kubernetes would take it as the name of a namespace, a service account or a service (RFC 1123, and dots).
pub(crate) fn is_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 253
        && bytes.iter().all(|&c| inner(c))
        && edge(bytes.first())
        && edge(bytes.last())
}
