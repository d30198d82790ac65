//! Callers, as they are written in `allow`, `deny` and rules: `web`, `shop/web`, `shop/*`, a SPIFFE ID, `*`.

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
