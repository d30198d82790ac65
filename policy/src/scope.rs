//! Where a policy is said: what its short names are short for.

use crate::spiffe::TrustDomain;

/// The workload that a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Of its identity.
    pub trust_domain: TrustDomain,
    /// Of it and of the names that are written without one.
    pub namespace: String,
}
