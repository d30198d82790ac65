//! Makes the roots known in the cluster: a ConfigMap in our own namespace and in every one of the mesh, kept as it should be.
//!
//! All replicas do this, and do not fight: whoever sees something else than expected first reads the issuer's Secret anew, so that all write
//! the same, and writes only what differs. A ConfigMap that is rewritten again and again is left alone for longer and longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use weft_policy::spiffe::TrustDomain;

use self::texts::Texts;
use crate::keep::no_stranger;
use crate::secret::{SecretError, SecretStore, US, in_time, material, told, watch_config};
use crate::server::Authority;

mod texts;

/// Where the roots are written to, and where they come from.
pub(crate) struct Bundle {
    pub(crate) client: Client,
    /// Of the ConfigMaps.
    pub(crate) name: String,
    /// Ours; always written to.
    pub(crate) namespace: String,
    pub(crate) domain: TrustDomain,
    /// What is true, if it is in a Secret; otherwise what we sign with is.
    pub(crate) secret: Option<SecretStore>,
    pub(crate) authority: Arc<Authority>,
}

/// What is known of the cluster.
#[derive(Default)]
struct Known {
    /// The namespaces of the mesh, and whether they are about to go.
    namespaces: BTreeMap<String, Going>,
    /// By namespace.
    maps: BTreeMap<String, Map>,
    /// What came since a new list of namespaces began: until it is complete, the old one holds, with what is about to go.
    fresh_namespaces: BTreeSet<String>,
    /// What came since a new list of ConfigMaps began.
    fresh_maps: BTreeSet<String>,
    /// Whether the ConfigMaps were listed once: before, nobody knows what differs.
    listed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
    No,
    Yes,
}

/// A ConfigMap as it is.
#[derive(Clone, Default, PartialEq, Eq)]
struct Map {
    pem: String,
    json: String,
    /// Whether we wrote it once: then it is kept right, whatever becomes of the namespace's label.
    ours: bool,
}

/// How often a ConfigMap was written lately, and when next.
struct Pace {
    writes: u32,
    last: Instant,
}

impl Bundle {
    /// Runs until it is dropped. `changed` tells of another issuer.
    pub(crate) async fn run(self, mut changed: watch::Receiver<u64>) {
        let mut namespaces = std::pin::pin!(self.namespaces());
        let mut maps = std::pin::pin!(self.maps());
        let mut known = Known::default();
        let mut paces = BTreeMap::new();
        let mut texts = self.texts().await;
        let mut look = Instant::now() + SETTLE;
        loop {
            tokio::select! {
                Some(event) = namespaces.next() => known.namespace(event),
                Some(event) = maps.next() => known.map(event),
                Ok(()) = changed.changed() => texts = self.texts().await,
                () = sleep_until(look) => {
                    let next = match known.listed {
                        true => self.put_right(&known, &mut texts, &mut paces).await,
                        false => None,
                    };
                    look = next.unwrap_or_else(|| Instant::now() + LOOK);
                    continue;
                }
            }
            // Events come in bursts, and what one of them says is often answered by the next.
            look = look.min(Instant::now() + SETTLE);
        }
    }

    fn namespaces(&self) -> impl Stream<Item = Event<PartialObjectMeta<Namespace>>> + use<> {
        let api = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        told(watcher(api, watch_config().labels(LABEL)), "Namespace")
    }

    fn maps(&self) -> impl Stream<Item = Event<ConfigMap>> + use<> {
        let api = Api::<ConfigMap>::all(self.client.clone());
        let named = watch_config().fields(&format!("metadata.name={}", self.name));
        told(watcher(api, named), "ConfigMap")
    }

    /// What should be there: what is true now, or else what we sign with.
    async fn texts(&self) -> Texts {
        match self.true_texts().await {
            Ok(Some(texts)) => texts,
            Ok(None) => Texts::of(self.authority.issuer.load().bundle(), None),
            Err(error) => {
                warn!(%error, cause = ?std::error::Error::source(&error), "Secret not read");
                Texts::of(self.authority.issuer.load().bundle(), None)
            }
        }
    }

    async fn true_texts(&self) -> Result<Option<Texts>, SecretError> {
        let Some(store) = &self.secret else {
            return Ok(None);
        };
        let secret = store.read().await?.ok_or(SecretError::Gone)?;
        let material = material(&secret)?;
        let issuer = material.issuer(&self.domain).map_err(SecretError::Issuer)?;
        let known = self.authority.issuer.load();
        no_stranger(known.bundle().roots(), &issuer).map_err(SecretError::Stranger)?;
        Ok(Some(Texts::of(issuer.bundle(), material.sequence)))
    }

    /// Writes what differs and may be written now; tells when to look again, if something is left.
    async fn put_right(
        &self,
        known: &Known,
        texts: &mut Texts,
        paces: &mut BTreeMap<String, Pace>,
    ) -> Option<Instant> {
        if known.wrong(&self.namespace, texts).is_empty() {
            return None;
        }
        match self.true_texts().await {
            Ok(Some(now)) => *texts = now,
            Ok(None) => {}
            Err(error @ (SecretError::Slow | SecretError::Call(_))) => {
                warn!(%error, cause = ?std::error::Error::source(&error), "roots not written yet");
                return Some(Instant::now() + RETRY.mul_f64(1.0 + fastrand::f64()));
            }
            // What cannot be used there is not what we sign with.
            Err(_unusable) => *texts = Texts::of(self.authority.issuer.load().bundle(), None),
        }
        let wrong = known.wrong(&self.namespace, texts);
        paces.retain(|_, pace| pace.last.elapsed() < FORGET);
        let now = Instant::now();
        let is_due = |name: &String| paces.get(name).is_none_or(|pace| pace.due() <= now);
        let (due, later): (Vec<_>, Vec<_>) = wrong.into_iter().partition(is_due);
        for name in &due {
            let pace = paces.entry(name.clone());
            pace.or_insert(Pace::new(now)).written(now);
        }
        let texts = &*texts;
        let writes = due.iter().map(|name| self.write(name, texts));
        stream::iter(writes)
            .buffer_unordered(AT_ONCE)
            .for_each(|()| async {})
            .await;
        // What was written comes back as an event; what was not is due again.
        let waiting = due.iter().chain(&later);
        waiting
            .filter_map(|name| paces.get(name).map(Pace::due))
            .min()
    }

    async fn write(&self, namespace: &str, texts: &Texts) {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "labels": {
                    "app.kubernetes.io/name": self.name,
                    "app.kubernetes.io/part-of": "weft",
                    "app.kubernetes.io/managed-by": US,
                },
            },
            "data": {PEM: texts.pem, JSON: texts.json},
        });
        let params = PatchParams::apply(US).force();
        let written = in_time(api.patch(&self.name, &params, &Patch::Apply(&object))).await;
        let result = if written.is_ok() { "ok" } else { "failed" };
        self.authority.metrics.bundle_written(result);
        match written {
            Ok(_) => info!(namespace, "roots written"),
            Err(error) => {
                warn!(namespace, %error, cause = ?std::error::Error::source(&error), "roots not written");
            }
        }
    }
}

impl Known {
    /// The namespaces in which the roots are not what they should be.
    fn wrong(&self, own: &str, texts: &Texts) -> Vec<String> {
        let going = |name: &&String| self.namespaces.get(*name) == Some(&Going::Yes);
        let ours = self.maps.iter().filter(|(_, map)| map.ours);
        let own = own.to_owned();
        let wanted: BTreeSet<&String> = [&own]
            .into_iter()
            .chain(self.namespaces.keys())
            .chain(ours.map(|(name, _)| name))
            .collect();
        let is_right = |name: &&String| {
            let map = self.maps.get(*name);
            map.is_some_and(|map| texts.are(&map.pem, &map.json))
        };
        let wrong = wanted
            .into_iter()
            .filter(|name| !going(name) && !is_right(name));
        wrong.cloned().collect()
    }

    fn namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        match event {
            Event::Init => self.fresh_namespaces.clear(),
            Event::InitApply(object) => {
                let name = object.metadata.name.clone().unwrap_or_default();
                self.fresh_namespaces.insert(name.clone());
                self.namespaces.insert(name, Going::of(&object));
            }
            Event::Apply(object) => {
                let name = object.metadata.name.clone().unwrap_or_default();
                self.namespaces.insert(name, Going::of(&object));
            }
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                self.namespaces.remove(&name);
            }
            Event::InitDone => {
                let fresh = std::mem::take(&mut self.fresh_namespaces);
                self.namespaces.retain(|name, _| fresh.contains(name));
            }
        }
    }

    fn map(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.fresh_maps.clear(),
            Event::InitApply(object) => {
                let namespace = object.metadata.namespace.clone().unwrap_or_default();
                self.fresh_maps.insert(namespace.clone());
                self.maps.insert(namespace, Map::of(object));
            }
            Event::Apply(object) => {
                let namespace = object.metadata.namespace.clone().unwrap_or_default();
                self.maps.insert(namespace, Map::of(object));
            }
            Event::Delete(object) => {
                let namespace = object.metadata.namespace.unwrap_or_default();
                self.maps.remove(&namespace);
            }
            Event::InitDone => {
                let fresh = std::mem::take(&mut self.fresh_maps);
                self.maps.retain(|namespace, _| fresh.contains(namespace));
                self.listed = true;
            }
        }
    }
}

impl Going {
    fn of(object: &PartialObjectMeta<Namespace>) -> Self {
        match object.metadata.deletion_timestamp {
            Some(_) => Self::Yes,
            None => Self::No,
        }
    }
}

impl Map {
    fn of(object: ConfigMap) -> Self {
        let labels = object.metadata.labels.unwrap_or_default();
        let ours = labels.get("app.kubernetes.io/managed-by");
        let mut data = object.data.unwrap_or_default();
        Self {
            ours: ours.is_some_and(|by| by == US),
            pem: data.remove(PEM).unwrap_or_default(),
            json: data.remove(JSON).unwrap_or_default(),
        }
    }
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            writes: 0,
            last: now,
        }
    }

    fn written(&mut self, now: Instant) {
        self.writes = self.writes.saturating_add(1);
        self.last = now;
    }

    /// A second write may follow soon, each further one later.
    fn due(&self) -> Instant {
        let doublings = self.writes.saturating_sub(1).min(MAX_DOUBLINGS);
        self.last + FIRST_PAUSE * 2_u32.pow(doublings)
    }
}

/// The keys of a ConfigMap.
const PEM: &str = "ca.crt";
const JSON: &str = "bundle.json";
/// A namespace that has this label, whatever its value, has pods of the mesh: where it is `disabled`, a pod may still ask for it.
const LABEL: &str = "weft.dev/inject";
const AT_ONCE: usize = 8;
const RETRY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(60);
/// How long after a first event is waited for those that belong to it.
const SETTLE: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// 32 seconds.
const MAX_DOUBLINGS: u32 = 6;
const FORGET: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests;
