//! What a leaf says of itself, by the rules of X.509-SVID sections 2 to 5.
//!
//! Used for our own leafs before we present them and for those of peers before anybody looks at their chain. Whether a leaf is to be
//! believed is decided in [`crate::verify`].

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use weft_policy::spiffe::{SpiffeId, SpiffeIdError};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage};
use x509_parser::prelude::FromDer;

/// The facts of a leaf that is formed as a workload identity must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    /// The one URI among its names.
    pub id: SpiffeId,
    /// Begin of its validity (RFC 5280 section 4.1.2.5), in whole seconds.
    pub not_before: SystemTime,
    /// End of its validity, inclusive.
    pub not_after: SystemTime,
}

impl Svid {
    /// Reads a leaf.
    ///
    /// # Errors
    /// Says which rule the certificate breaks. Validity in time is not looked at.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, SvidError> {
        let (rest, certificate) = X509Certificate::from_der(der).or(Err(SvidError::Encoding))?;
        if !rest.is_empty() {
            return Err(SvidError::Encoding);
        }
        check_not_a_ca(&certificate)?;
        check_key_usage(&certificate)?;
        let id = SpiffeId::parse(only_uri(&certificate)?).map_err(SvidError::Identity)?;
        let validity = certificate.validity();
        Ok(Self {
            id,
            not_before: system_time(validity.not_before.timestamp()),
            not_after: system_time(validity.not_after.timestamp()),
        })
    }
}

/// The rule of X.509-SVID that a leaf breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// Not a certificate, or one with an extension that is broken or there twice.
    #[error("cannot be parsed")]
    Encoding,
    /// "Leaf certificates MUST set the cA field to false" (section 4.1).
    #[error("is that of an authority")]
    Ca,
    /// Section 4.3: `digitalSignature` set, `keyCertSign` and `cRLSign` not.
    #[error("must not be used for signatures, or may sign certificates")]
    KeyUsage,
    /// Section 4.4: "fields id-kp-serverAuth and id-kp-clientAuth MUST be set".
    #[error("is not meant for both servers and clients")]
    ExtendedKeyUsage,
    /// Only other kinds of names, or none; a DNS name is no identity.
    #[error("has no URI among its names")]
    NoUri,
    /// "An X.509 SVID MUST contain exactly one URI SAN" (section 2).
    #[error("has {count} URIs among its names, one is allowed")]
    SeveralUris {
        /// How many.
        count: usize,
    },
    /// A URI that is no SPIFFE ID, or has no path.
    #[error("has a URI that is no workload identity")]
    Identity(#[source] SpiffeIdError),
}

fn check_not_a_ca(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    match certificate
        .basic_constraints()
        .or(Err(SvidError::Encoding))?
    {
        Some(constraints) if constraints.value.ca => Err(SvidError::Ca),
        _ => Ok(()),
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let usage = certificate.key_usage().or(Err(SvidError::Encoding))?;
    let fits =
        |usage: &KeyUsage| usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign();
    if !usage.is_some_and(|usage| fits(usage.value)) {
        return Err(SvidError::KeyUsage);
    }
    let extended = certificate
        .extended_key_usage()
        .or(Err(SvidError::Encoding))?;
    let fits = |usage: &ExtendedKeyUsage<'_>| usage.server_auth && usage.client_auth;
    match extended {
        Some(usage) if !fits(usage.value) => Err(SvidError::ExtendedKeyUsage),
        _ => Ok(()),
    }
}

fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, SvidError> {
    let names = certificate
        .subject_alternative_name()
        .or(Err(SvidError::Encoding))?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    // A name that cannot be read could be a second URI.
    if names
        .iter()
        .any(|name| matches!(name, GeneralName::Invalid(..)))
    {
        return Err(SvidError::Encoding);
    }
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let first = uris.next().ok_or(SvidError::NoUri)?;
    match uris.count() {
        0 => Ok(first),
        more => Err(SvidError::SeveralUris { count: more + 1 }),
    }
}

/// Seconds since 1970; what lies before is 1970.
pub(crate) fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
