//! The API server's objects as a stream of changes: one watch a kind, listed anew when it breaks, closed when it falls silent.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::cluster::{Change, Key, OwnerRef, Route, RouteRef, read};
use crate::keep::News;
use crate::metrics::Metrics;
use crate::model::routes::{GRPC_ROUTE, HTTP_ROUTE};

/// Where all watches report to.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) client: Client,
    /// Where the mesh's own policy is.
    pub(crate) system: String,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) metrics: Metrics,
}

/// What each kind's objects become.
type Read<K> = fn(Key, Option<&K>) -> Option<Change>;

/// The kinds that must have been read before anything is told.
pub(crate) const KINDS: [&str; 13] = [
    "Service",
    "EndpointSlice",
    "Pod",
    "Namespace",
    "ConfigMap",
    "ReplicaSet",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    HTTP_ROUTE,
    GRPC_ROUTE,
];

impl Watches {
    /// Begins all watches; they end when `news` is closed.
    pub(crate) fn start(&self, tasks: &TaskTracker) {
        self.objects::<Service>(tasks, "Service", |key, object| {
            Some(Change::Service(key, object.map(read::service)))
        });
        self.objects::<EndpointSlice>(tasks, "EndpointSlice", |key, object| {
            Some(Change::Slice(key, object.and_then(read::slice)))
        });
        self.objects::<Pod>(tasks, "Pod", |key, object| {
            Some(Change::Pod(key, object.map(read::pod)))
        });
        self.metadata::<Namespace>(tasks, "Namespace", |key, object| {
            Some(Change::Namespace(
                key.name,
                object.map(|object| read::notes(&object.metadata)),
            ))
        });
        self.metadata::<ReplicaSet>(tasks, "ReplicaSet", |key, object| {
            Some(owner("ReplicaSet", key, object))
        });
        self.metadata::<Deployment>(tasks, "Deployment", |key, object| {
            Some(owner("Deployment", key, object))
        });
        self.metadata::<StatefulSet>(tasks, "StatefulSet", |key, object| {
            Some(owner("StatefulSet", key, object))
        });
        self.metadata::<DaemonSet>(tasks, "DaemonSet", |key, object| {
            Some(owner("DaemonSet", key, object))
        });
        self.metadata::<Job>(tasks, "Job", |key, object| Some(owner("Job", key, object)));
        self.metadata::<CronJob>(tasks, "CronJob", |key, object| {
            Some(owner("CronJob", key, object))
        });
        let defaults: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.system);
        let named = config().fields("metadata.name=weft-defaults");
        self.follow(tasks, "ConfigMap", watcher(defaults, named), |_, object| {
            Some(Change::Defaults(object.map(defaults_of)))
        });
        self.routes(tasks, HTTP_ROUTE, |key, object| {
            route(HTTP_ROUTE, key, object)
        });
        self.routes(tasks, GRPC_ROUTE, |key, object| {
            route(GRPC_ROUTE, key, object)
        });
    }

    fn objects<K>(&self, tasks: &TaskTracker, kind: &'static str, read: Read<K>)
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + Debug
            + Send
            + serde::de::DeserializeOwned
            + 'static,
    {
        self.follow(
            tasks,
            kind,
            watcher(Api::<K>::all(self.client.clone()), config()),
            read,
        );
    }

    /// Only `metadata`: the rest of these objects is nothing to us.
    fn metadata<K>(&self, tasks: &TaskTracker, kind: &'static str, read: Read<PartialObjectMeta<K>>)
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + Debug
            + Send
            + serde::de::DeserializeOwned
            + 'static,
    {
        let api = Api::<PartialObjectMeta<K>>::all(self.client.clone());
        self.follow(tasks, kind, watcher(api, config()), read);
    }

    fn routes(&self, tasks: &TaskTracker, kind: &'static str, read: Read<DynamicObject>) {
        let resource = route_resource(kind);
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        self.follow(tasks, kind, watcher(api, config()), read);
    }

    fn follow<K: kube::Resource + Send + 'static>(
        &self,
        tasks: &TaskTracker,
        kind: &'static str,
        events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
        read: Read<K>,
    ) {
        let watch = Watch {
            kind,
            read,
            known: HashSet::new(),
            fresh: HashSet::new(),
            news: self.news.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(watch.run(events.default_backoff()));
    }
}

/// One watch.
struct Watch<K> {
    kind: &'static str,
    read: Read<K>,
    known: HashSet<Key>,
    /// What came since a new list began.
    fresh: HashSet<Key>,
    news: mpsc::Sender<News>,
    metrics: Metrics,
}

impl<K: kube::Resource> Watch<K> {
    async fn run(mut self, events: impl Stream<Item = Result<Event<K>, watcher::Error>>) {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            let told = match event {
                Ok(Event::Init) => {
                    self.fresh.clear();
                    true
                }
                Ok(Event::InitApply(object)) => {
                    let key = read::key(object.meta());
                    self.fresh.insert(key.clone());
                    self.tell(key, Some(&object)).await
                }
                Ok(Event::Apply(object)) => {
                    let key = read::key(object.meta());
                    self.known.insert(key.clone());
                    self.tell(key, Some(&object)).await
                }
                Ok(Event::Delete(object)) => {
                    let key = read::key(object.meta());
                    self.known.remove(&key);
                    self.tell(key, None).await
                }
                Ok(Event::InitDone) => self.listed().await,
                Err(error) => self.failed(&error).await,
            };
            if !told {
                return;
            }
        }
    }

    fn tell(&self, key: Key, object: Option<&K>) -> impl Future<Output = bool> + Send + use<K> {
        self.metrics.events.inc();
        let (change, news) = ((self.read)(key, object), self.news.clone());
        async move {
            match change {
                Some(change) => news.send(News::Change(Box::new(change))).await.is_ok(),
                None => true,
            }
        }
    }

    /// What is not in a new list is gone.
    async fn listed(&mut self) -> bool {
        let fresh = std::mem::take(&mut self.fresh);
        let known = std::mem::replace(&mut self.known, fresh);
        for key in known.difference(&self.known).cloned().collect::<Vec<_>>() {
            if !self.tell(key, None).await {
                return false;
            }
        }
        self.news.send(News::Synced(self.kind)).await.is_ok()
    }

    async fn failed(&self, error: &watcher::Error) -> bool {
        // A kind that is not installed is as good as one of which there are no objects.
        if is_not_there(error) {
            debug!(kind = self.kind, "not installed");
            return self.news.send(News::Synced(self.kind)).await.is_ok();
        }
        self.metrics.watch_failures.inc();
        warn!(kind = self.kind, %error, "watch failed, what is known stays");
        true
    }
}

fn is_not_there(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// A watch that says nothing for half a minute is ended by the server and by us, and begun anew where it was.
fn config() -> watcher::Config {
    watcher::Config::default()
        .timeout(WATCH_SECONDS)
        .page_size(500)
}

/// How long a connection to the API server may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);

fn owner<K>(kind: &str, key: Key, object: Option<&PartialObjectMeta<K>>) -> Change {
    let name = OwnerRef {
        kind: kind.into(),
        key,
    };
    Change::Owner(name, object.map(|object| read::owner(&object.metadata)))
}

/// The document is under `policy`, as in an annotation.
fn defaults_of(object: &ConfigMap) -> crate::cluster::Notes {
    let mut notes = read::notes(&object.metadata);
    let document = object.data.as_ref().and_then(|data| data.get("policy"));
    if let Some(document) = document {
        notes
            .annotations
            .insert("weft.dev/policy".to_owned(), document.clone());
    }
    notes
}

fn route(kind: &'static str, key: Key, object: Option<&DynamicObject>) -> Option<Change> {
    let route = object.map(|object| Route {
        spec: object.data.get("spec").cloned().unwrap_or_default(),
        created: read::created(&object.metadata),
        generation: object.metadata.generation.unwrap_or_default(),
        notes: read::notes(&object.metadata),
    });
    Some(Change::Route(RouteRef { kind, key }, route))
}

/// The API of a kind of route.
pub(crate) fn route_resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(
        "gateway.networking.k8s.io",
        "v1",
        kind,
    ))
}

const WATCH_SECONDS: u32 = 25;
