//! Whether to believe the certificate of a peer: the rustls verifiers of both sides, and who a connection's peer is afterwards.
//!
//! In order: the leaf is formed as an identity must be, it is valid now, it chains to a root of the trust domain that it names (and of no
//! other), and it is the identity that was expected. A DNS name is never looked at; identities are compared as parsed values.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tracing::debug;
use webpki::KeyUsage;
use weft_policy::spiffe::SpiffeId;

use crate::bundle::TrustBundles;
use crate::crypto::provider;
use crate::svid::{Svid, SvidError};

/// Who is at the other end of an authenticated connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The identity it has proved.
    pub id: SpiffeId,
    /// When its certificate ends; the connection should not outlive it by long.
    pub not_after: SystemTime,
    /// SHA-256 of its leaf (DER), as `x-forwarded-client-cert` names it.
    pub sha256: [u8; 32],
}

/// Reads the peer from the chain that rustls holds for a connection, fresh or resumed.
///
/// The chain of a resumed connection was verified when the session began and its roots cannot have changed (sessions end with the
/// [`crate::identity::Identity`]), but time has passed: so the leaf's validity is checked here again.
///
/// # Errors
/// If there is no certificate, it is not valid at `now`, or is no workload identity.
pub fn peer_of(chain: Option<&[CertificateDer<'_>]>, now: SystemTime) -> Result<Peer, VerifyError> {
    let leaf = chain
        .and_then(<[_]>::first)
        .ok_or(VerifyError::NoCertificate)?;
    let svid = Svid::read(leaf)?;
    check_validity(&svid, now)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.as_ref());
    Ok(Peer {
        id: svid.id,
        not_after: svid.not_after,
        sha256,
    })
}

/// Why the certificate of a peer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The peer sent none.
    #[error("no certificate")]
    NoCertificate,
    /// Not formed as a workload identity must be.
    #[error("the certificate {0}")]
    Svid(#[from] SvidError),
    /// Its validity has not begun.
    #[error("the certificate of {id} is not valid for another {ahead:?}, check the clocks")]
    NotYetValid {
        /// Whose it is.
        id: SpiffeId,
        /// How long until it is valid.
        ahead: Duration,
    },
    /// Its validity is over.
    #[error("the certificate of {id} expired {ago:?} ago")]
    Expired {
        /// Whose it is.
        id: SpiffeId,
        /// How long it has been over.
        ago: Duration,
    },
    /// We have no root of the trust domain it names.
    #[error("no roots are known of the trust domain of {id}")]
    UnknownTrustDomain {
        /// Whose it is.
        id: SpiffeId,
    },
    /// It does not chain to a root of the trust domain it names.
    #[error("the certificate of {id} chains to no root of its trust domain")]
    UnknownRoot {
        /// Whose it is.
        id: SpiffeId,
    },
    /// Some certificate of its chain is not acceptable.
    #[error("the chain of {id} is refused: {error}")]
    Chain {
        /// Whose it is.
        id: SpiffeId,
        /// What is wrong.
        error: webpki::Error,
    },
    /// A believable peer, but another one than was called.
    #[error("the peer is {got}, expected {want}")]
    WrongIdentity {
        /// Who it is.
        got: SpiffeId,
        /// Who was called.
        want: SpiffeId,
    },
}

impl VerifyError {
    /// Returns the metric label of the error, one of a fixed few.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Svid(SvidError::Encoding) => "bad_encoding",
            Self::Svid(SvidError::Ca) => "ca_leaf",
            Self::Svid(SvidError::KeyUsage | SvidError::ExtendedKeyUsage) => "bad_key_usage",
            Self::Svid(SvidError::NoUri) => "no_uri_san",
            Self::Svid(SvidError::SeveralUris { .. }) => "two_uri_sans",
            Self::Svid(SvidError::Identity(_)) => "bad_identity",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::UnknownRoot { .. } => "unknown_root",
            Self::Chain { .. } => "bad_chain",
            Self::WrongIdentity { .. } => "wrong_identity",
        }
    }

    /// Packs the error for rustls in a way that [`handshake_failure_reason`] finds it again.
    fn into_rustls(self) -> rustls::Error {
        debug!(error = %self, "certificate refused");
        match self {
            // With these two the peer gets an alert that tells it what to mend.
            Self::UnknownRoot { .. } => CertificateError::UnknownIssuer.into(),
            Self::Expired { .. } => CertificateError::Expired.into(),
            other => CertificateError::Other(OtherError(Arc::new(other))).into(),
        }
    }
}

/// Returns the metric label of a failed handshake: [`VerifyError::reason`] if we refused the peer's certificate, `refused_…` if the peer
/// refused ours, else what went wrong in the protocol.
///
/// Under TLS 1.3 a client learns of a refusal only with its first read, so the error of that read may be given here too.
#[must_use]
pub fn handshake_failure_reason(error: &io::Error) -> &'static str {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(error) => tls_reason(error),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed",
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
            io::ErrorKind::TimedOut => "timeout",
            _ => "io",
        },
    }
}

fn tls_reason(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_reason(error),
        rustls::Error::NoCertificatesPresented => "no_certificate",
        rustls::Error::AlertReceived(alert) => alert_reason(*alert),
        rustls::Error::PeerIncompatible(_) => "incompatible",
        rustls::Error::NoApplicationProtocol => "no_alpn",
        rustls::Error::PeerMisbehaved(_) => "misbehaved",
        rustls::Error::InvalidMessage(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. }
        | rustls::Error::DecryptError
        | rustls::Error::PeerSentOversizedRecord => "malformed",
        _ => "tls",
    }
}

fn certificate_reason(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::UnknownIssuer => "unknown_root",
        CertificateError::Expired => "expired",
        CertificateError::BadEncoding => "bad_encoding",
        CertificateError::BadSignature => "bad_signature",
        CertificateError::Other(OtherError(other)) => other
            .downcast_ref()
            .map_or("bad_certificate", VerifyError::reason),
        _ => "bad_certificate",
    }
}

fn alert_reason(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => "refused_unknown_root",
        AlertDescription::CertificateExpired => "refused_expired",
        AlertDescription::CertificateRequired => "refused_no_certificate",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "refused_certificate",
        AlertDescription::NoApplicationProtocol => "no_alpn",
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => "incompatible",
        _ => "alert",
    }
}

/// Believes whoever the bundles vouch for; used on both sides of a handshake.
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Arc<TrustBundles>,
    peer: Expected,
}

#[derive(Debug)]
enum Expected {
    /// Any client in a trust domain we know; what it may do is decided later.
    Client,
    /// The same, or one that shows nothing and proves who it is in another way.
    ClientOrNobody,
    /// The one server that was called.
    Server(SpiffeId),
}

impl Verifier {
    pub(crate) fn of_clients(trust: Arc<TrustBundles>) -> Self {
        Self {
            trust,
            peer: Expected::Client,
        }
    }

    pub(crate) fn of_clients_or_nobody(trust: Arc<TrustBundles>) -> Self {
        Self {
            trust,
            peer: Expected::ClientOrNobody,
        }
    }

    pub(crate) fn of_server(trust: Arc<TrustBundles>, expected: SpiffeId) -> Self {
        Self {
            trust,
            peer: Expected::Server(expected),
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let svid = Svid::read(leaf)?;
        check_validity(
            &svid,
            SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs()),
        )?;
        self.check_chain(&svid.id, leaf, intermediates, now)?;
        match &self.peer {
            Expected::Server(want) if *want != svid.id => Err(VerifyError::WrongIdentity {
                got: svid.id,
                want: want.clone(),
            }),
            Expected::Server(_) | Expected::Client | Expected::ClientOrNobody => Ok(()),
        }
    }

    /// "The bundle of the trust domain" that the leaf names is the only one that counts (X.509-SVID section 5).
    fn check_chain(
        &self,
        id: &SpiffeId,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let id = id.clone();
        let Some(bundle) = self.trust.bundle(&id.trust_domain()) else {
            return Err(VerifyError::UnknownTrustDomain { id });
        };
        let usage = match &self.peer {
            Expected::Client | Expected::ClientOrNobody => KeyUsage::client_auth(),
            Expected::Server(_) => KeyUsage::server_auth(),
        };
        match bundle.verify(leaf, intermediates, now, usage) {
            Ok(_) => Ok(()),
            Err(webpki::Error::UnknownIssuer) => Err(VerifyError::UnknownRoot { id }),
            Err(error) => Err(VerifyError::Chain { id, error }),
        }
    }
}

fn check_validity(svid: &Svid, now: SystemTime) -> Result<(), VerifyError> {
    if let Ok(ahead) = svid.not_before.duration_since(now)
        && !ahead.is_zero()
    {
        return Err(VerifyError::NotYetValid {
            id: svid.id.clone(),
            ahead,
        });
    }
    match now.duration_since(svid.not_after) {
        Ok(ago) if !ago.is_zero() => Err(VerifyError::Expired {
            id: svid.id.clone(),
            ago,
        }),
        _ => Ok(()),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)
            .map_err(VerifyError::into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !matches!(self.peer, Expected::ClientOrNobody)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: every proxy has one leaf only, so there is nothing for it to choose.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)
            .map_err(VerifyError::into_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
