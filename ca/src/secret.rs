//! The issuer in a Secret of Kubernetes: made once, whatever the number of replicas, and read again when it changes.
//!
//! All replicas ask for it to be created, the API server does so for one, and everybody reads what is there afterwards. Somebody else may have
//! made it: cert-manager (`tls.crt`, `tls.key`, `ca.crt`), or who plugs his own authority into Istio (`ca-cert.pem` and its kin).

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;
use tracing::{info, warn};
use weft_certs::bundle::{certificate_to_pem, certificates_from_pem};
use weft_policy::spiffe::TrustDomain;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::issuer::{Issuer, IssuerError};
use crate::keep::Stranger;
use crate::store::Material;

/// A Secret by its name.
#[derive(Clone)]
pub(crate) struct SecretStore {
    api: Api<Secret>,
    name: String,
    /// The ConfigMap of our own namespace with the roots, if there is to be one: it tells whether there was a root before.
    told: Option<(Api<ConfigMap>, String)>,
}

impl SecretStore {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, told: Option<&str>) -> Self {
        let told = told.map(|told| (Api::namespaced(client.clone(), namespace), told.to_owned()));
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            told,
        }
    }

    /// Reads the Secret; makes it, with a new root, if there is none.
    ///
    /// # Errors
    /// If the API server does not answer or refuses, or what is there is no issuer.
    pub(crate) async fn read_or_make(&self, domain: &TrustDomain) -> Result<Secret, SecretError> {
        if let Some(secret) = self.read().await? {
            return Ok(secret);
        }
        self.may_make().await?;
        let issuer = Issuer::generate(domain).map_err(SecretError::Make)?;
        match self.create(&secret_of(&self.name, &issuer)).await? {
            Created::ByUs => info!(secret = self.name, %domain, "root created"),
            Created::BySomebody => info!(secret = self.name, "another replica created the root"),
        }
        // Whoever made it.
        self.read().await?.ok_or(SecretError::Gone)
    }

    /// A Secret of another name is somebody else's to make. And where roots were told already there was one: a second root would divide the mesh.
    async fn may_make(&self) -> Result<(), SecretError> {
        if self.name != US {
            return Err(SecretError::NotOurs);
        }
        let Some((maps, name)) = &self.told else {
            return Ok(());
        };
        let map = in_time(maps.get_opt(name)).await?;
        let told = map.and_then(|map| map.data);
        match told.is_some_and(|told| !told.is_empty()) {
            true => Err(SecretError::Lost),
            false => Ok(()),
        }
    }

    /// Reads the Secret.
    ///
    /// # Errors
    /// If the API server does not answer or refuses.
    pub(crate) async fn read(&self) -> Result<Option<Secret>, SecretError> {
        in_time(self.api.get_opt(&self.name)).await
    }

    /// Makes a Secret that was deleted as it was: without it the next replica that starts would make another root.
    ///
    /// # Errors
    /// As [`SecretStore::read`], and if it was not we who made it: then others see to it.
    pub(crate) async fn put_back(&self, was: &Secret) -> Result<(), SecretError> {
        let label = was.metadata.labels.as_ref();
        if label
            .and_then(|labels| labels.get(MANAGED_BY))
            .is_none_or(|by| by != US)
        {
            return Err(SecretError::Gone);
        }
        let mut secret = was.clone();
        secret.metadata = ObjectMeta {
            name: was.metadata.name.clone(),
            labels: was.metadata.labels.clone(),
            annotations: was.metadata.annotations.clone(),
            ..ObjectMeta::default()
        };
        if let Created::ByUs = self.create(&secret).await? {
            warn!(secret = self.name, "the Secret was deleted, it is put back");
        }
        Ok(())
    }

    async fn create(&self, secret: &Secret) -> Result<Created, SecretError> {
        match in_time(self.api.create(&PostParams::default(), secret)).await {
            Ok(_) => Ok(Created::ByUs),
            Err(SecretError::Call(error)) => match *error {
                kube::Error::Api(status) if status.code == 409 => Ok(Created::BySomebody),
                error => Err(SecretError::Call(Box::new(error))),
            },
            Err(error) => Err(error),
        }
    }

    /// Tells whenever the Secret may have changed.
    pub(crate) fn changes(&self) -> BoxStream<'static, ()> {
        let named = watch_config().fields(&format!("metadata.name={}", self.name));
        told(watcher(self.api.clone(), named), "Secret")
            .map(drop)
            .boxed()
    }
}

enum Created {
    ByUs,
    BySomebody,
}

/// A stream of events without the errors, which are logged and cured by it.
pub(crate) fn told<K: Send + 'static>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    kind: &'static str,
) -> impl Stream<Item = watcher::Event<K>> + Send + 'static {
    events
        .default_backoff()
        .filter_map(move |event| async move {
            event
                .inspect_err(|error| warn!(kind, %error, "watch failed, what is known stays"))
                .ok()
        })
}

/// A watch that says nothing for half a minute is ended by the server and by us, and begun anew where it was.
pub(crate) fn watch_config() -> watcher::Config {
    watcher::Config::default()
        .timeout(WATCH_SECONDS)
        .page_size(500)
}

/// Reads the issuer of a Secret, whichever of the known forms it has.
///
/// # Errors
/// If it has none of them, or only a part.
pub(crate) fn material(secret: &Secret) -> Result<Material, SecretError> {
    let text = |key: &'static str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        let text = std::str::from_utf8(&bytes.0).ok()?.trim();
        (!text.is_empty()).then(|| format!("{text}\n"))
    };
    let required = |key: &'static str| text(key).ok_or(SecretError::Missing { key });
    let further = |key: &'static str| text(key).unwrap_or_default();
    let sequence = secret.metadata.annotations.as_ref();
    let sequence = sequence.and_then(|annotations| annotations.get(SEQUENCE)?.parse().ok());
    if text(ISTIO[0]).is_some() && text("tls.crt").is_some() {
        return Err(SecretError::TwoForms);
    }
    if text(ISTIO[0]).is_some() {
        return Ok(Material {
            chain: without_repetition(&format!("{}{}", required(ISTIO[0])?, further(ISTIO[2])))?,
            key: required(ISTIO[1])?,
            roots: required(ISTIO[3])?,
            sequence,
        });
    }
    let chain = required("tls.crt")?;
    let roots = match text("ca.crt") {
        Some(roots) => roots,
        None => self_signed(&chain).ok_or(SecretError::Missing { key: "ca.crt" })?,
    };
    Ok(Material {
        chain,
        key: required("tls.key")?,
        roots: format!("{roots}{}{}", further("next.crt"), further("previous.crt")),
        sequence,
    })
}

/// Istio's `cert-chain.pem` may begin with `ca-cert.pem` or not.
fn without_repetition(pem: &str) -> Result<String, SecretError> {
    let mut certificates = certificates_from_pem(pem).map_err(SecretError::Pem)?;
    let mut seen = Vec::new();
    certificates.retain(|certificate| {
        let new = !seen.contains(certificate);
        seen.push(certificate.clone());
        new
    });
    Ok(certificates
        .iter()
        .map(|certificate| certificate_to_pem(certificate))
        .collect())
}

/// The certificate of a chain that nobody else has signed: its root.
fn self_signed(chain: &str) -> Option<String> {
    let certificates = certificates_from_pem(chain).ok()?;
    let is_root = |der: &&CertificateDer<'static>| {
        let parsed = X509Certificate::from_der(der);
        parsed.is_ok_and(|(_, certificate)| certificate.issuer() == certificate.subject())
    };
    let root = certificates.iter().find(is_root)?;
    Some(certificate_to_pem(root))
}

fn secret_of(name: &str, issuer: &Issuer) -> Secret {
    let root = issuer.bundle().to_pem();
    let key = issuer.signer().key().serialize_pem();
    let pairs = |pairs: &[(&str, &str)]| {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    };
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(pairs(&[
                ("app.kubernetes.io/name", name),
                ("app.kubernetes.io/part-of", "weft"),
                (MANAGED_BY, US),
            ])),
            annotations: Some(pairs(&[(SEQUENCE, "1")])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        string_data: Some(pairs(&[
            ("tls.crt", &root),
            ("tls.key", &key),
            ("ca.crt", &root),
        ])),
        ..Secret::default()
    }
}

/// Waits for an answer, but not for ever.
pub(crate) async fn in_time<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, SecretError> {
    match timeout(TIME_LIMIT, call).await {
        Ok(answer) => answer.map_err(|error| SecretError::Call(Box::new(error))),
        Err(_) => Err(SecretError::Slow),
    }
}

/// Why there is no issuer in a Secret, or none that can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("no answer of the API server within {TIME_LIMIT:?}")]
    Slow,
    #[error("the API server refused, or cannot be reached")]
    Call(#[source] Box<kube::Error>),
    #[error("the Secret is gone")]
    Gone,
    #[error(
        "the Secret is gone, though the ConfigMap with the roots says that there was one: put it back from a copy, or \
         delete that ConfigMap to give the mesh another root"
    )]
    Lost,
    #[error("the Secret is not there, and only one that is called weft-ca is made here")]
    NotOurs,
    #[error(
        "the Secret has both tls.crt and ca-cert.pem: which of them signs is not to be guessed"
    )]
    TwoForms,
    #[error("the Secret has no {key}")]
    Missing { key: &'static str },
    #[error("the Secret's certificates cannot be read")]
    Pem(#[source] weft_certs::error::CertError),
    #[error("no root could be made")]
    Make(#[source] IssuerError),
    #[error("the Secret's issuer cannot be used")]
    Issuer(#[source] IssuerError),
    #[error(transparent)]
    Stranger(Stranger),
}

/// Certificate, key, chain and root of an authority that is plugged into Istio, in its Secret `cacerts`.
const ISTIO: [&str; 4] = [
    "ca-cert.pem",
    "ca-key.pem",
    "cert-chain.pem",
    "root-cert.pem",
];
/// Counts the changes of the trusted roots; `weft rotate-root` adds one.
const SEQUENCE: &str = "weft.dev/bundle-sequence";
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// What we are called as the owner of objects and fields.
pub(crate) const US: &str = "weft-ca";
const TIME_LIMIT: Duration = Duration::from_secs(5);
const WATCH_SECONDS: u32 = 25;
/// How long a connection to the API server may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);

#[cfg(test)]
mod tests;
