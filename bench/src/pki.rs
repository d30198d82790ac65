//! The certificates of a run: one root, and a leaf for each proxy that carries a SPIFFE ID and a DNS name, so that Weft and
//! its peers verify each other with the very same files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// One proxy's identity as files.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// Holds `tls.crt`, `tls.key`, `ca.crt` (what Kubernetes and Weft expect) and `tls.pem` (certificate and key in one).
    pub dir: PathBuf,
    pub spiffe_id: String,
    pub dns_name: String,
}

/// Both identities of a chain.
#[derive(Clone, Debug)]
pub(crate) struct Pki {
    /// The proxy next to the client.
    pub first: Leaf,
    /// The proxy next to the app.
    pub second: Leaf,
}

impl Pki {
    /// Writes a fresh root and both leafs below `dir`.
    pub(crate) fn create(dir: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = parameters("weft bench root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self {
            first: Leaf::create(dir, "client", &root, &issuer)?,
            second: Leaf::create(dir, "app", &root, &issuer)?,
        })
    }
}

impl Leaf {
    fn create(
        dir: &Path,
        name: &str,
        root: &str,
        issuer: &Issuer<'_, KeyPair>,
    ) -> anyhow::Result<Self> {
        let leaf = Self {
            dir: dir.join(name),
            spiffe_id: format!("spiffe://cluster.local/ns/bench/sa/{name}"),
            dns_name: format!("{name}.bench"),
        };
        let mut params = parameters(name);
        params.subject_alt_names = vec![
            SanType::URI(leaf.spiffe_id.as_str().try_into()?),
            SanType::DnsName(leaf.dns_name.as_str().try_into()?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?.pem();
        leaf.write(&certificate, &key.serialize_pem(), root)
            .with_context(|| format!("write {}", leaf.dir.display()))?;
        Ok(leaf)
    }

    fn write(&self, certificate: &str, key: &str, root: &str) -> std::io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        fs::write(self.certificate(), certificate)?;
        fs::write(self.key(), key)?;
        fs::write(self.root(), root)?;
        fs::write(self.combined(), format!("{certificate}{key}"))
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.join("tls.crt")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join("tls.key")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    pub(crate) fn combined(&self) -> PathBuf {
        self.dir.join("tls.pem")
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(5);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
    params
}
