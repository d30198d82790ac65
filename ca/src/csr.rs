//! What the authority takes from a certificate request: its public key, once its sender has shown to hold it.
//!
//! Names in a request prove nothing: they come from the authenticated caller (see [`crate::token`]).

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SubjectPublicKeyInfo};
use weft_policy::spiffe::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Returns the public key of a request that `id` has sent, if it is one we sign.
///
/// # Errors
/// If the request is broken or not signed by its own key, the key is weak, or it asks for a name that is not `id`.
pub fn checked_key(pem: &str, id: &SpiffeId) -> Result<SubjectPublicKeyInfo, CsrError> {
    let block = pem::parse(pem).or(Err(CsrError::Encoding))?;
    if !matches!(
        block.tag(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
    ) {
        return Err(CsrError::Encoding);
    }
    let parsed = X509CertificationRequest::from_der(block.contents());
    let (rest, request) = parsed.or(Err(CsrError::Encoding))?;
    if !rest.is_empty() {
        return Err(CsrError::Encoding);
    }
    let key = strong_key(&request)?;
    request.verify_signature().or(Err(CsrError::Signature))?;
    check_names(&request, id)?;
    Ok(key)
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Not one PKCS#10 request in PEM.
    #[error("the request cannot be parsed")]
    Encoding,
    /// Its sender has not shown to hold the key.
    #[error("the request is not signed by its own key")]
    Signature,
    /// A kind of key that we do not sign.
    #[error("the key is not ECDSA P-256, P-384 or RSA")]
    UnknownKey,
    /// RSA that is too short to be safe or too long to be cheap.
    #[error("the RSA key has {bits} bits, 2048 to 8192 are accepted")]
    RsaSize {
        /// Bits of its modulus.
        bits: usize,
    },
    /// A name that is not the caller's.
    #[error("the request asks for the name {name}, which is not {id}")]
    ForeignName {
        /// What was asked for.
        name: String,
        /// Who asks.
        id: SpiffeId,
    },
}

fn strong_key(request: &X509CertificationRequest<'_>) -> Result<SubjectPublicKeyInfo, CsrError> {
    let info = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(info.raw).or(Err(CsrError::UnknownKey))?;
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) => match rsa.key_size() {
            2048..=8192 => Ok(key),
            bits => Err(CsrError::RsaSize { bits }),
        },
        Ok(PublicKey::EC(_)) if is_accepted_curve(&key) => Ok(key),
        _ => Err(CsrError::UnknownKey),
    }
}

fn is_accepted_curve(key: &SubjectPublicKeyInfo) -> bool {
    [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384].contains(&key.algorithm())
}

fn check_names(request: &X509CertificationRequest<'_>, id: &SpiffeId) -> Result<(), CsrError> {
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                check_name(name, id)?;
            }
        }
    }
    Ok(())
}

fn check_name(name: &GeneralName<'_>, id: &SpiffeId) -> Result<(), CsrError> {
    match name {
        GeneralName::URI(uri) if SpiffeId::parse(uri).as_ref() == Ok(id) => Ok(()),
        other => Err(CsrError::ForeignName {
            name: other.to_string(),
            id: id.clone(),
        }),
    }
}
