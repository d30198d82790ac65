//! Certificate requests: how a workload asks for a leaf, and what an authority takes from such a request.
//!
//! What it takes is the public key. Names in a request prove nothing: they come from the authenticated caller (see [`crate::ca`]).

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_policy::spiffe::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::bundle::certificates_from_pem;
use crate::error::CertError;
use crate::leaf::Leaf;

/// A new key and the request for a leaf of it.
pub struct Request {
    key: KeyPair,
    pem: String,
}

impl Request {
    /// Makes an ECDSA P-256 key and a request with `id` as its only name and an empty subject: cert-manager's istio-csr refuses any more.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(id: &SpiffeId) -> Result<Self, CertError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        let pem = params.serialize_request(&key)?.pem()?;
        Ok(Self { key, pem })
    }

    /// Returns the request as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the key as PEM (PKCS#8), for files that only its owner can read.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Joins the key with the chain that came for it, PEM elements with the leaf first.
    ///
    /// # Errors
    /// If the chain is broken, its leaf is no workload identity or is of another key.
    pub fn into_leaf(self, chain: &[String]) -> Result<Leaf, CertError> {
        let mut certificates = Vec::new();
        for element in chain {
            certificates.extend(certificates_from_pem(element)?);
        }
        Leaf::new(certificates, private_key(&self.key))
    }
}

pub(crate) fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

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
