//! The authority: signs leafs for identities that somebody else has authenticated.
//!
//! An [`Issuer`] is a self-made root, or a root or intermediate that was given to us. Where it is kept is the matter of
//! [`crate::store`], who may ask it that of [`crate::token`].

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use weft_certs::bundle::{Bundle, certificate_to_pem, certificates_from_pem, not_after};
use weft_certs::csr::private_key;
use weft_certs::error::CertError;
use weft_certs::leaf::Leaf;
use weft_policy::spiffe::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

mod constraints;

/// Signs for one trust domain.
pub struct Issuer {
    domain: TrustDomain,
    signer: rcgen::Issuer<'static, KeyPair>,
    /// From the issuer's own certificate towards the root, without the root: what a leaf is sent with.
    chain: Vec<CertificateDer<'static>>,
    /// What verifies: the root of the chain, and the others that overlap with it.
    bundle: Bundle,
    /// That one of the roots which leafs of ours chain to.
    root: CertificateDer<'static>,
    /// The first end of all that a leaf of ours depends on.
    not_after: SystemTime,
}

impl Issuer {
    /// Makes a new self-signed root for ten years.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate(domain: &TrustDomain) -> Result<Self, IssuerError> {
        Self::generate_for(domain, ROOT_LIFETIME, SystemTime::now())
    }

    /// Makes a new self-signed root that ends `lifetime` after `now`.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate_for(
        domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, IssuerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params(domain, now, now + lifetime)?;
        let root = params.self_signed(&key)?.der().clone();
        let bundle = Bundle::new(vec![root.clone()])?;
        Self::new(domain.clone(), vec![root], key, bundle, now)
    }

    /// Takes an existing authority: its certificate with any intermediates (issuer first), its key, and the roots, all PEM.
    ///
    /// # Errors
    /// If anything is broken or does not belong together, the issuer has ended, or a URI name constraint forbids what we do.
    pub fn from_pem(
        domain: &TrustDomain,
        chain: &str,
        key: &str,
        roots: &str,
    ) -> Result<Self, IssuerError> {
        // Other blocks may stand before the key: certificates, or the parameters that openssl writes.
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).or(Err(CertError::Missing {
            what: "usable private key",
        }))?;
        let key = KeyPair::try_from(&key)?;
        let bundle = Bundle::from_pem(roots)?;
        let chain = certificates_from_pem(chain)?;
        Self::new(domain.clone(), chain, key, bundle, SystemTime::now())
    }

    /// Makes an intermediate authority below this one.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn intermediate(&self, lifetime: Duration, now: SystemTime) -> Result<Self, IssuerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let end = (now + lifetime).min(self.not_after);
        let own = authority_params(&self.domain, now, end)?.signed_by(&key, &self.signer)?;
        let mut chain = vec![own.der().clone()];
        chain.extend_from_slice(&self.chain);
        Self::new(self.domain.clone(), chain, key, self.bundle.clone(), now)
    }

    fn new(
        domain: TrustDomain,
        mut chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        bundle: Bundle,
        now: SystemTime,
    ) -> Result<Self, IssuerError> {
        let own = chain
            .first()
            .ok_or(CertError::Missing {
                what: "certificate",
            })?
            .clone();
        check_issuer(&own, &key)?;
        constraints::check(chain.iter().chain(bundle.roots()))?;
        chain.retain(|certificate| !bundle.roots().contains(certificate));
        let signer = rcgen::Issuer::from_ca_cert_der(&own, key)?;
        let dependencies = chain.iter().chain([&own]);
        let not_after = dependencies.filter_map(not_after).min().unwrap_or(now);
        let mut issuer = Self {
            domain,
            signer,
            chain,
            root: own.clone(),
            bundle,
            not_after,
        };
        issuer.prove(now)?;
        Ok(issuer)
    }

    /// Signs and verifies a leaf for nobody, so that an issuer which no proxy would believe is found out before it signs for anybody.
    fn prove(&mut self, now: SystemTime) -> Result<(), IssuerError> {
        if self.not_after <= now {
            return Err(IssuerError::Expired { at: self.not_after });
        }
        let id = SpiffeId::workload(&self.domain, "weft", "probe").map_err(IssuerError::Domain)?;
        let leaf = self.issue(&id, Duration::from_secs(60), now)?;
        let (end_entity, intermediates) = leaf.chain().split_first().ok_or(CertError::Missing {
            what: "certificate",
        })?;
        let time = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let time = UnixTime::since_unix_epoch(time);
        let usage = webpki::KeyUsage::server_auth();
        let root = self.bundle.verify(end_entity, intermediates, time, usage);
        let root = root.map_err(IssuerError::Proof)?.clone();
        let end = not_after(&root);
        self.not_after = end.map_or(self.not_after, |end| end.min(self.not_after));
        self.bundle = first_in(&self.bundle, &root)?;
        self.root = root;
        Ok(())
    }

    /// Signs a leaf for `id`, whose holder has proved to have `key`; it begins [`BACKDATE`] before `now` and ends `lifetime` after it,
    /// but not after its signer.
    ///
    /// # Errors
    /// If the signer has ended or signing fails.
    pub fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, IssuerError> {
        self.sign_named(&Subject { id, names: &[] }, key, lifetime, now)
    }

    /// The same, for one who is also called by DNS names, such as a webhook.
    ///
    /// # Errors
    /// As [`Issuer::sign`], and if a name cannot be written into a certificate.
    pub fn sign_named(
        &self,
        subject: &Subject<'_>,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, IssuerError> {
        let mut params = self.leaf_params(lifetime, now)?;
        params.subject_alt_names = vec![SanType::URI(subject.id.as_str().try_into()?)];
        for name in subject.names {
            params.subject_alt_names.push(alt_name(name)?);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(params.signed_by(key, &self.signer)?.der().clone())
    }

    /// Makes a key and a leaf for `id`, for programs that run beside the authority and for tests.
    ///
    /// # Errors
    /// As [`Issuer::sign`].
    pub fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Leaf, IssuerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = self.sign(id, &key, lifetime, now)?;
        Ok(Leaf::new(self.chain_of(leaf), private_key(&key))?)
    }

    /// Makes the certificate of a server that is called by name, such as the authority itself: no identity, not for clients.
    ///
    /// # Errors
    /// As [`Issuer::sign`], and if a name cannot be written into a certificate.
    pub fn issue_server(
        &self,
        names: &[ServerName<'_>],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IssuerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = self.leaf_params(lifetime, now)?;
        for name in names {
            params.subject_alt_names.push(alt_name(name)?);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.signer)?.der().clone();
        Ok((self.chain_of(leaf), private_key(&key)))
    }

    /// Returns the answer to a request as Istio's API orders it: the leaf, each intermediate, then all roots in one last element.
    #[must_use]
    pub fn response(&self, leaf: &CertificateDer<'static>) -> Vec<String> {
        let chain = [leaf]
            .into_iter()
            .chain(&self.chain)
            .map(certificate_to_pem);
        chain.chain([self.bundle.to_pem()]).collect()
    }

    /// Returns the trust domain that is signed for.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Returns the roots that leafs of this issuer are verified by.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Returns that root which leafs of this issuer chain to.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Returns when the issuer, or what it depends on, ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Returns the signer itself, with which tests make certificates that an authority never would.
    #[must_use]
    pub fn signer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.signer
    }

    /// Returns the certificates that are sent with a leaf.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    fn chain_of(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        [leaf]
            .into_iter()
            .chain(self.chain.iter().cloned())
            .collect()
    }

    fn leaf_params(
        &self,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<CertificateParams, IssuerError> {
        if self.not_after <= now {
            return Err(IssuerError::Expired { at: self.not_after });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(serial()?);
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + lifetime).min(self.not_after).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        Ok(params)
    }
}

/// The roots with `root` before all others: who reads them knows what is signed under.
fn first_in(bundle: &Bundle, root: &CertificateDer<'static>) -> Result<Bundle, CertError> {
    let others = bundle.roots().iter().filter(|other| *other != root);
    Bundle::new([root].into_iter().chain(others).cloned().collect())
}

/// Whose leaf it is.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What its holder is.
    pub id: &'a SpiffeId,
    /// What its holder is called by those who know no identities.
    pub names: &'a [ServerName<'static>],
}

fn alt_name(name: &ServerName<'_>) -> Result<SanType, IssuerError> {
    Ok(match name {
        ServerName::IpAddress(address) => SanType::IpAddress((*address).into()),
        name => SanType::DnsName(name.to_str().as_ref().try_into()?),
    })
}

/// Why an authority cannot be used, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Certificates or keys that are missing or broken.
    #[error("the issuer's certificates or key cannot be read")]
    Material(#[from] CertError),
    /// A certificate that is not that of an authority.
    #[error("the issuer's certificate must not sign others (it needs cA and keyCertSign)")]
    NotAnAuthority,
    /// A key of another certificate.
    #[error("the issuer's key is not that of its certificate")]
    KeyMismatch,
    /// A constraint under which no leaf can be verified.
    #[error(
        "the issuer's chain has the URI name constraint {constraint}: the TLS library accepts no \
         identity under one, so use an issuer without"
    )]
    UriConstraint {
        /// The constraint, `permitted` or `excluded`, as it is written.
        constraint: String,
    },
    /// An end that has come.
    #[error("the issuer, or what it depends on, has ended at {}", humane(*at))]
    Expired {
        /// When.
        at: SystemTime,
    },
    /// A trust domain whose name is too long for an identity.
    #[error("the trust domain cannot be used")]
    Domain(#[source] weft_policy::spiffe::SpiffeIdError),
    /// A leaf that does not verify.
    #[error("what the issuer signs does not verify by the roots")]
    Proof(#[source] webpki::Error),
    /// A signature that could not be made.
    #[error("cannot sign")]
    Sign(#[from] rcgen::Error),
}

fn check_issuer(own: &CertificateDer<'_>, key: &KeyPair) -> Result<(), IssuerError> {
    let parsed = X509Certificate::from_der(own);
    let (_, certificate) = parsed.or(Err(IssuerError::NotAnAuthority))?;
    let usage = certificate
        .key_usage()
        .or(Err(IssuerError::NotAnAuthority))?;
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !certificate.is_ca() || !may_sign {
        return Err(IssuerError::NotAnAuthority);
    }
    match certificate.public_key().raw == key.subject_public_key_info() {
        true => Ok(()),
        false => Err(IssuerError::KeyMismatch),
    }
}

/// X.509-SVID section 3: an authority SHOULD carry its trust domain as URI, without a path; `keyCertSign` MUST be set.
fn authority_params(
    domain: &TrustDomain,
    now: SystemTime,
    end: SystemTime,
) -> Result<CertificateParams, IssuerError> {
    let mut params = CertificateParams::default();
    let serial = serial()?;
    let tail: String = serial
        .to_bytes()
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "weft");
    // Each authority has its own name, so that a verifier need not try the keys of several.
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{domain} {tail}"));
    params.serial_number = Some(serial);
    params.not_before = (now - AUTHORITY_BACKDATE).into();
    params.not_after = end.into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    Ok(params)
}

/// "Conforming CAs MUST NOT use serialNumber values longer than 20 octets", and it must be positive (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).or(Err(rcgen::Error::RingUnspecified))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn humane(time: SystemTime) -> String {
    time::OffsetDateTime::from(time).to_string()
}

/// How long before its making a leaf is already valid, for clocks that are behind ours.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
const AUTHORITY_BACKDATE: Duration = Duration::from_secs(60 * 60);
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests;
