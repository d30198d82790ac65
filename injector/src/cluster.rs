//! What the API server says of the mesh: its own policy, Namespaces, and the image that we run. Read and watched; nothing is written here, and no Secret read.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use weft_policy::spiffe::TrustDomain;

use crate::around::{Around, DEFAULTS, Defaults};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::settings::Start;

/// What is known; clones share it.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Option<Client>,
    trust_domain: TrustDomain,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    defaults: Arc<ArcSwap<Defaults>>,
    start: Arc<ArcSwapOption<Start>>,
    image: Arc<ArcSwapOption<String>>,
    /// Whether pods wait for the image to be known.
    image_is_asked: bool,
    /// Whether Namespaces and the mesh's policy have been read once.
    read: Arc<[AtomicBool; 2]>,
}

/// What fills a [`Cluster`].
pub(crate) struct Watches {
    client: Client,
    system: String,
    writer: reflector::store::Writer<PartialObjectMeta<Namespace>>,
    /// `None` asks the API server.
    native: Option<Start>,
    own_pod: Option<String>,
    cluster: Cluster,
    metrics: Metrics,
}

impl Cluster {
    /// Knows nothing and asks nobody.
    pub(crate) fn unknown(trust_domain: TrustDomain) -> Self {
        let (namespaces, _) = reflector::store();
        Self {
            client: None,
            trust_domain,
            namespaces,
            defaults: Arc::default(),
            start: Arc::default(),
            image: Arc::default(),
            image_is_asked: false,
            read: Arc::default(),
        }
    }

    /// Begins to know what `client` shows.
    pub(crate) fn watched(client: Client, config: &Config, metrics: Metrics) -> (Self, Watches) {
        let (namespaces, writer) = reflector::store();
        let cluster = Self {
            client: Some(client.clone()),
            namespaces,
            start: Arc::new(ArcSwapOption::from_pointee(config.native)),
            image_is_asked: config.own_pod.is_some(),
            ..Self::unknown(config.settings.trust_domain.clone())
        };
        let watches = Watches {
            client,
            system: config.system_namespace.clone(),
            writer,
            native: config.native,
            own_pod: config.own_pod.clone(),
            cluster: cluster.clone(),
            metrics,
        };
        (cluster, watches)
    }

    /// Whether everything has been read that pods need.
    pub(crate) fn is_ready(&self) -> bool {
        let image = !self.image_is_asked || self.image.load().is_some();
        image
            && self.start.load().is_some()
            && self.read.iter().all(|read| read.load(Ordering::Acquire))
    }

    /// How sidecars are started here.
    pub(crate) fn start(&self) -> Start {
        self.start
            .load()
            .as_deref()
            .copied()
            .unwrap_or(Start::Native)
    }

    /// The image that we run, where it is asked for and known.
    pub(crate) fn image(&self) -> Option<Arc<String>> {
        self.image.load_full()
    }

    /// What is around a pod in `namespace`. One that was made a moment ago may not be known, and is asked for.
    pub(crate) async fn around(&self, namespace: &str) -> Around {
        let around = Around::nothing(&self.trust_domain, namespace);
        let around = around.with_defaults(&self.defaults.load());
        if let Some(known) = self.namespaces.get(&ObjectRef::new(namespace)) {
            return around.with_namespace(&known.metadata);
        }
        match self.ask(namespace).await {
            Some(meta) => around.with_namespace(&meta),
            None => around,
        }
    }

    async fn ask(&self, namespace: &str) -> Option<ObjectMeta> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone()?);
        let asked = timeout(PATIENCE, namespaces.get_metadata_opt(namespace)).await;
        match asked {
            Ok(Ok(found)) => Some(found?.metadata),
            Ok(Err(error)) => {
                warn!(namespace, %error, "namespace not read, its policy is left out");
                None
            }
            Err(_slow) => {
                warn!(
                    namespace,
                    "namespace not read in time, its policy is left out"
                );
                None
            }
        }
    }
}

impl Watches {
    /// Watches for ever.
    pub(crate) async fn run(self) {
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let defaults: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.system);
        let named = watch_config().fields(&format!("metadata.name={DEFAULTS}"));
        let (cluster, metrics) = (&self.cluster, &self.metrics);
        let stored = reflector::reflector(self.writer, watcher(namespaces, watch_config()));
        let namespaces = follow(stored, metrics, |event| {
            cluster.note(&event, 0);
            metrics
                .namespaces
                .set(cluster.namespaces.len().try_into().unwrap_or(i64::MAX));
        });
        let system = self.system.clone();
        let mut listed = false;
        let defaults = follow(watcher(defaults, named), metrics, |event| {
            match &event {
                Event::Apply(object) | Event::InitApply(object) => {
                    listed = true;
                    cluster.defaults.store(Arc::new(read(&system, object)));
                }
                Event::Init => listed = false,
                Event::InitDone if listed => {}
                // What is not in a new list is gone.
                Event::InitDone | Event::Delete(_) => cluster.defaults.store(Arc::default()),
            }
            cluster.note(&event, 1);
        });
        tokio::join!(
            namespaces,
            defaults,
            ask_version(&self.client, self.native, cluster),
            ask_image(&self.client, &self.system, self.own_pod, cluster),
        );
    }
}

impl Cluster {
    fn note<K>(&self, event: &Event<K>, which: usize) {
        if let (Event::InitDone, Some(read)) = (event, self.read.get(which)) {
            read.store(true, Ordering::Release);
        }
    }
}

async fn follow<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    metrics: &Metrics,
    mut take: impl FnMut(Event<K>),
) {
    let events = events.default_backoff();
    let each = events.for_each(|event| {
        match event {
            Ok(event) => take(event),
            Err(error) => {
                metrics.watch_failures.inc();
                warn!(%error, "watch failed, what is known stays");
            }
        }
        ready(())
    });
    each.await;
}

fn read(system: &str, object: &ConfigMap) -> Defaults {
    let document = object.data.as_ref().and_then(|data| data.get("policy"));
    Defaults {
        namespace: system.to_owned(),
        document: document.cloned(),
        annotations: object.metadata.annotations.clone().unwrap_or_default(),
    }
}

/// Asks which version the API server has, now and then: it may be upgraded while we run.
async fn ask_version(client: &Client, native: Option<Start>, cluster: &Cluster) {
    if native.is_some() {
        return;
    }
    loop {
        let wait = match timeout(PATIENCE, client.apiserver_version()).await {
            Ok(Ok(version)) => {
                let start = start_of(&version.major, &version.minor);
                if cluster.start.load().as_deref() != Some(&start) {
                    info!(version = version.git_version, ?start, "sidecars");
                    cluster.start.store(Some(Arc::new(start)));
                }
                ASK_AGAIN
            }
            Ok(Err(error)) => {
                warn!(%error, "the API server's version is not known");
                PATIENCE
            }
            Err(_slow) => PATIENCE,
        };
        sleep(wait).await;
    }
}

/// Asks for the image of our own pod, which is settled once it runs. Whatever put it there, be it a Kustomization, a policy that rewrites registries
/// or `kubectl set image`, then holds for the proxies too.
async fn ask_image(client: &Client, system: &str, pod: Option<String>, cluster: &Cluster) {
    let Some(pod) = pod else { return };
    let pods: Api<Pod> = Api::namespaced(client.clone(), system);
    loop {
        match timeout(PATIENCE, pods.get(&pod)).await {
            Ok(Ok(found)) => match image_of(&found) {
                Some(image) => {
                    info!(image, "image of the proxies");
                    return cluster.image.store(Some(Arc::new(image)));
                }
                None => warn!(pod, "our pod has no image"),
            },
            Ok(Err(error)) => warn!(pod, %error, "our own image is not known"),
            Err(_slow) => {}
        }
        sleep(PATIENCE).await;
    }
}

fn image_of(pod: &Pod) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let ours = containers.iter().find(|one| one.name == CONTAINER);
    ours.or(containers.first())?.image.clone()
}

/// Native sidecars are on by default from 1.29 (KEP-753). Providers write minor versions like `29+`.
fn start_of(major: &str, minor: &str) -> Start {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    match (number(major), number(minor)) {
        (Some(1), Some(minor)) if minor < 29 => Start::Classic,
        _ => Start::Native,
    }
}

fn watch_config() -> watcher::Config {
    watcher::Config::default()
        .timeout(WATCH_SECONDS)
        .page_size(500)
}

/// How long a connection to the API server may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
const WATCH_SECONDS: u32 = 25;
/// Ours, as `manifests/base/injector.yaml` calls it.
const CONTAINER: &str = "weft-injector";
const PATIENCE: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_sidecars_begin_with_1_29() {
        let rows = [
            ("28", Start::Classic),
            ("28+", Start::Classic),
            ("29", Start::Native),
            ("29+", Start::Native),
            ("37", Start::Native),
        ];
        for (minor, want) in rows {
            assert_eq!(start_of("1", minor), want, "{minor}");
        }
        assert_eq!(start_of("2", "0"), Start::Native);
    }
}
