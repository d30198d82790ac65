//! Name constraints of an issuer that was given to us.
//!
//! rustls-webpki accepts no chain with a URI name constraint (since RUSTSEC-2026-0098), so a mesh under one would have no handshake that
//! works. And a constraint on DNS names only binds no identity at all, which whoever set it may not expect.

use rustls_pki_types::CertificateDer;
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, NameConstraints};
use x509_parser::prelude::FromDer;

use crate::issuer::IssuerError;

/// Refuses any URI name constraint in the chain, and warns of those that do not reach identities.
pub(super) fn check<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> Result<(), IssuerError> {
    for certificate in certificates {
        let parsed = X509Certificate::from_der(certificate);
        let (_, certificate) = parsed.or(Err(IssuerError::NotAnAuthority))?;
        let constraints = certificate
            .name_constraints()
            .or(Err(IssuerError::NotAnAuthority))?;
        let Some(constraints) = constraints else {
            continue;
        };
        let mut rest = Vec::new();
        for (kind, base) in subtrees(constraints.value) {
            let constraint = format!("{kind};{base}");
            match base {
                GeneralName::URI(_) => return Err(IssuerError::UriConstraint { constraint }),
                _ => rest.push(constraint),
            }
        }
        let subject = certificate.subject();
        warn!(%subject, constraints = ?rest, "name constraints do not reach identities");
    }
    Ok(())
}

fn subtrees<'a>(
    constraints: &'a NameConstraints<'a>,
) -> impl Iterator<Item = (&'static str, &'a GeneralName<'a>)> {
    let permitted = constraints.permitted_subtrees.iter().flatten();
    let excluded = constraints.excluded_subtrees.iter().flatten();
    let permitted = permitted.map(|tree| ("permitted", &tree.base));
    permitted.chain(excluded.map(|tree| ("excluded", &tree.base)))
}
