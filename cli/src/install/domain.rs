//! The trust domain, which an upgrade does not change: every identity names it.

use serde_json::Value;

use super::id;
use crate::objects::variable;

/// What would change for every proxy that runs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the trust domain would change from {old} to {new}, and every identity names it. Proxies that run would go on under {old}: those that start \
     anew would refuse them and be refused by them, they would get no new certificate and hear no more of weft-discovery, and rules \
     that name spiffe://{old}/ would no longer match.\n  \
     To stay: weft upgrade --trust-domain {old}\n  \
     To change it: docs/kubernetes.md, Another trust domain"
)]
pub(super) struct DomainChanges {
    old: String,
    new: String,
}

/// Compares what is there with what is to be.
///
/// # Errors
/// A part would get another trust domain.
pub(super) fn stays(there: &[Value], wanted: &[Value]) -> Result<(), DomainChanges> {
    for new in wanted {
        let old = there.iter().find(|old| id(old) == id(new));
        let old = old.and_then(|old| variable(old, DOMAIN));
        if let (Some(old), Some(new)) = (old, variable(new, DOMAIN))
            && old != new
        {
            return Err(DomainChanges {
                old: old.to_owned(),
                new: new.to_owned(),
            });
        }
    }
    Ok(())
}

const DOMAIN: &str = "WEFT_TRUST_DOMAIN";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::objects;
    use crate::install::tests::choices;

    #[test]
    fn another_trust_domain_is_refused() {
        let of = |words: &[&str]| objects(&choices(words)).unwrap();
        let (here, there) = (of(&[]), of(&["--trust-domain", "mesh.test"]));
        assert_eq!(stays(&there, &there), Ok(()));
        assert_eq!(stays(&[], &here), Ok(()));
        let refused = stays(&there, &here).unwrap_err().to_string();
        assert!(
            refused.contains("from mesh.test to cluster.local"),
            "{refused}"
        );
        assert!(
            refused.contains("weft upgrade --trust-domain mesh.test\n"),
            "{refused}"
        );
    }
}
