//! A certificate authority in the test's process, and the files and identities it gives, the bad ones too.

use std::fmt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weft_ca::issuer::Issuer;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::identity::Identity;
use weft_certs::leaf::Leaf;
use weft_policy::spiffe::{SpiffeId, TrustDomain};

/// Signs for the trust domain `cluster.local`.
pub struct Ca {
    issuer: Issuer,
}

/// A certificate as an authority should never make one, or as it makes them every day.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// URIs among its names.
    pub uris: Vec<String>,
    /// Begin, counted from now, of its validity.
    pub age: Duration,
    /// How long it is valid from then.
    pub lifetime: Duration,
}

impl Wanted {
    /// A good leaf of `account`.
    pub fn good(account: &str) -> Self {
        Self {
            uris: vec![id(account).to_string()],
            age: Duration::from_secs(60),
            lifetime: HOUR,
        }
    }

    /// Also names `account`.
    #[must_use]
    pub fn and(mut self, account: &str) -> Self {
        self.uris.push(id(account).to_string());
        self
    }

    /// Ended a minute ago.
    #[must_use]
    pub fn expired(self) -> Self {
        Self {
            age: HOUR,
            lifetime: HOUR - Duration::from_secs(60),
            ..self
        }
    }
}

/// The files of an identity, as PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// `tls.crt`.
    pub chain: String,
    /// `tls.key`.
    pub key: String,
    /// `ca.crt`.
    pub roots: String,
}

impl Files {
    /// Puts the files into `folder` as Kubernetes does: all change at once when a symbolic link is exchanged.
    pub fn put(&self, folder: &Path) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let version = format!("..version-{number}");
        std::fs::create_dir_all(folder.join(&version)).unwrap();
        for (name, text) in [
            ("tls.crt", &self.chain),
            ("tls.key", &self.key),
            ("ca.crt", &self.roots),
        ] {
            std::fs::write(folder.join(&version).join(name), text).unwrap();
            let link = folder.join(name);
            if !link.is_symlink() {
                symlink(format!("..data/{name}"), link).unwrap();
            }
        }
        let next = folder.join(format!("..next-{number}"));
        symlink(&version, &next).unwrap();
        std::fs::rename(next, folder.join("..data")).unwrap();
    }

    /// Reads the files as an identity for a client or server of the test itself.
    pub fn identity(&self) -> Identity {
        let leaf = Leaf::from_pem(&self.chain, &self.key).unwrap();
        let trust = TrustBundles::of(domain(), Bundle::from_pem(&self.roots).unwrap());
        Identity::new(Arc::new(leaf), Arc::new(trust)).unwrap()
    }

    /// Trusts the roots of `other` too.
    #[must_use]
    pub fn trusting(mut self, other: &Ca) -> Self {
        self.roots.push_str(&other.roots());
        self
    }
}

impl Ca {
    /// Makes a root.
    pub fn new() -> Self {
        Self {
            issuer: Issuer::generate(&domain()).unwrap(),
        }
    }

    /// Makes the files of `account`.
    pub fn files(&self, account: &str) -> Files {
        let key = KeyPair::generate().unwrap();
        let leaf = self
            .issuer
            .sign(&id(account), &key, HOUR, SystemTime::now())
            .unwrap();
        let mut chain = self.issuer.response(&leaf);
        let roots = chain.pop().unwrap();
        Files {
            chain: chain.concat(),
            key: key.serialize_pem(),
            roots,
        }
    }

    /// Returns the roots as PEM.
    pub fn roots(&self) -> String {
        self.issuer.bundle().to_pem()
    }

    /// Returns whom a member of this mesh trusts.
    pub fn trust(&self) -> TrustBundles {
        TrustBundles::of(domain(), self.issuer.bundle().clone())
    }

    /// Makes any certificate, and its key.
    pub fn sign(&self, wanted: &Wanted) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let begin = SystemTime::now() - wanted.age;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = begin.into();
        params.not_after = (begin + wanted.lifetime).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().unwrap());
        params.subject_alt_names = wanted.uris.iter().map(uri).collect();
        let leaf = params.signed_by(&key, self.issuer.signer()).unwrap();
        let chain = [leaf.der().clone()]
            .into_iter()
            .chain(self.issuer.chain().iter().cloned())
            .collect();
        (chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({})", self.issuer.domain())
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the identity that `account` has in the namespace `default`.
pub fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&domain(), "default", account).unwrap()
}

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);
