//! Follows what the issuer is made from, in files or in a Secret, and makes it anew when that changes.
//!
//! Whatever is wrong with a change, the issuer stays as it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, sleep};
use tracing::warn;
use weft_policy::spiffe::TrustDomain;

use crate::issuer::Issuer;
use crate::secret::{SecretError, SecretStore, material};
use crate::store::{Material, Store, StoreError, publish};

/// What the issuer is made from.
pub(crate) struct Keeper {
    domain: TrustDomain,
    material: Material,
    place: Place,
}

enum Place {
    Files(Files),
    Secret(Box<Kept>),
}

/// The issuer's files, looked at for changes.
struct Files {
    store: Store,
    /// Where `ca.crt` is written for others.
    publish: Option<PathBuf>,
    /// What was there at the last look, if that was something new.
    seen: Option<Material>,
}

/// A Secret, watched.
struct Kept {
    store: SecretStore,
    last: Secret,
    changes: BoxStream<'static, ()>,
    /// When it is read again, whatever the watch says; at once after it has said something.
    due: Instant,
}

impl Keeper {
    /// Reads an issuer from files.
    ///
    /// # Errors
    /// If it cannot be read or used.
    pub(crate) fn of_files(
        store: Store,
        domain: TrustDomain,
        publish: Option<PathBuf>,
    ) -> Result<(Self, Issuer), StoreError> {
        let material = store.read(&domain)?;
        let issuer = store.issuer(&material, &domain)?;
        let files = Files {
            store,
            publish,
            seen: None,
        };
        files.publish(&issuer)?;
        let place = Place::Files(files);
        let keeper = Self {
            domain,
            material,
            place,
        };
        Ok((keeper, issuer))
    }

    /// Reads an issuer from a Secret. The API server may be away, or somebody about to fill the Secret: it is tried for a while.
    ///
    /// # Errors
    /// If it cannot be read or used for [`PATIENCE`].
    pub(crate) async fn of_secret(
        store: SecretStore,
        domain: TrustDomain,
    ) -> Result<(Self, Issuer), SecretError> {
        let begun = Instant::now();
        let (last, material, issuer) = loop {
            match first(&store, &domain).await {
                Ok(read) => break read,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error),
                Err(error) => {
                    warn!(%error, cause = ?std::error::Error::source(&error), "no issuer yet");
                    sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
                }
            }
        };
        let place = Place::Secret(Box::new(Kept {
            changes: store.changes(),
            store,
            last,
            due: Instant::now() + LOOK,
        }));
        let keeper = Self {
            domain,
            material,
            place,
        };
        Ok((keeper, issuer))
    }

    /// Returns the issuer anew if what it is made from has changed.
    ///
    /// # Errors
    /// If it cannot be read or used.
    pub(crate) async fn changed(&mut self) -> Result<Option<Issuer>, KeepError> {
        let read = match &mut self.place {
            Place::Files(files) => files.changed(&self.material, &self.domain)?,
            Place::Secret(kept) => kept.changed(&self.material, &self.domain).await?,
        };
        Ok(read.map(|(material, issuer)| {
            self.material = material;
            issuer
        }))
    }

    /// Waits until it is time to look again: after `interval`, or when there is news.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn wait(&mut self, interval: Duration) {
        match &mut self.place {
            Place::Files(_) => sleep(interval).await,
            Place::Secret(kept) => {
                tokio::select! {
                    () = sleep(interval) => {}
                    Some(()) = kept.changes.next() => kept.due = Instant::now(),
                }
            }
        }
    }
}

async fn first(
    store: &SecretStore,
    domain: &TrustDomain,
) -> Result<(Secret, Material, Issuer), SecretError> {
    let secret = store.read_or_make(domain).await?;
    let material = material(&secret)?;
    let issuer = material.issuer(domain).map_err(SecretError::Issuer)?;
    Ok((secret, material, issuer))
}

impl Files {
    fn publish(&self, issuer: &Issuer) -> Result<(), StoreError> {
        self.publish
            .as_deref()
            .map_or(Ok(()), |dir: &Path| publish(dir, issuer))
    }

    /// Takes what was the same in two looks: files may be written bit by bit.
    fn changed(
        &mut self,
        known: &Material,
        domain: &TrustDomain,
    ) -> Result<Option<(Material, Issuer)>, KeepError> {
        let material = self.store.read(domain)?;
        if material == *known {
            self.seen = None;
            return Ok(None);
        }
        if self.seen.as_ref() != Some(&material) {
            self.seen = Some(material);
            return Ok(None);
        }
        let issuer = self.store.issuer(&material, domain)?;
        no_stranger(&known.roots(), &issuer)?;
        self.publish(&issuer)?;
        Ok(Some((material, issuer)))
    }
}

impl Kept {
    /// A Secret is written as a whole. One that is gone is put back, and never means another root.
    async fn changed(
        &mut self,
        known: &Material,
        domain: &TrustDomain,
    ) -> Result<Option<(Material, Issuer)>, KeepError> {
        if Instant::now() < self.due {
            return Ok(None);
        }
        // Soon again, unless all goes well.
        self.due = Instant::now() + RETRY;
        let Some(secret) = self.store.read().await? else {
            self.store.put_back(&self.last).await?;
            return Ok(None);
        };
        self.due = Instant::now() + LOOK;
        let read = material(&secret)?;
        if read == *known {
            self.last = secret;
            return Ok(None);
        }
        let issuer = read.issuer(domain).map_err(SecretError::Issuer)?;
        no_stranger(&known.roots(), &issuer).map_err(SecretError::Stranger)?;
        self.last = secret;
        Ok(Some((read, issuer)))
    }
}

/// Makes sure that the mesh can go over to `issuer`: one of its roots is `known`.
///
/// # Errors
/// None is.
pub(crate) fn no_stranger(
    known: &[CertificateDer<'static>],
    issuer: &Issuer,
) -> Result<(), Stranger> {
    let roots = issuer.bundle().roots();
    match roots.iter().any(|root| known.contains(root)) {
        true => Ok(()),
        false => Err(Stranger),
    }
}

/// An issuer that nobody in the mesh knows.
#[derive(Debug, thiserror::Error)]
#[error(
    "none of the new roots is one that the mesh trusts now, so its proxies would be cut off from each other: add the new root \
     beside the old one first (weft rotate-root, or next.crt), or restart weft-ca to take it as it is"
)]
pub(crate) struct Stranger;

/// Why an issuer stays as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Files(#[from] StoreError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Stranger(#[from] Stranger),
}

const PATIENCE: Duration = Duration::from_secs(45);
const RETRY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn put(dir: &TempDir, issuer: &Issuer, roots: &[&Issuer]) {
        let own = issuer.bundle().to_pem();
        let roots: String = roots.iter().map(|one| one.bundle().to_pem()).collect();
        fs::write(dir.path().join("tls.crt"), own).unwrap();
        fs::write(
            dir.path().join("tls.key"),
            issuer.signer().key().serialize_pem(),
        )
        .unwrap();
        fs::write(dir.path().join("ca.crt"), roots).unwrap();
    }

    #[tokio::test]
    async fn another_root_is_taken_only_beside_one_that_is_known() {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let [old, new] = [(); 2].map(|()| Issuer::generate(&domain).unwrap());
        let dir = TempDir::new().unwrap();
        put(&dir, &old, &[&old]);
        let store = Store::Given(dir.path().to_owned());
        let (mut keeper, _) = Keeper::of_files(store, domain, None).unwrap();

        put(&dir, &new, &[&new]);
        assert!(keeper.changed().await.unwrap().is_none(), "seen once");
        let refused = keeper.changed().await;
        assert!(matches!(refused, Err(KeepError::Stranger(_))));

        for roots in [&[&old, &new][..], &[&new]] {
            put(&dir, &new, roots);
            assert!(keeper.changed().await.unwrap().is_none(), "seen once");
            let taken = keeper.changed().await.unwrap().unwrap();
            assert_eq!(taken.bundle().roots().len(), roots.len());
        }
    }
}
