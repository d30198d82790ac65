//! Follows what the issuer is made from, in files or in a Secret, and makes it anew when that changes.
//!
//! Whatever is wrong with a change, the issuer stays as it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret;
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
    ) -> Result<Option<(Material, Issuer)>, StoreError> {
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
    ) -> Result<Option<(Material, Issuer)>, SecretError> {
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
        self.last = secret;
        Ok(Some((read, issuer)))
    }
}

/// Why an issuer stays as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Files(#[from] StoreError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

const PATIENCE: Duration = Duration::from_secs(45);
const RETRY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(30);
