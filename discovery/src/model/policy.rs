//! Layers of policy: what mesh, namespace, workload, pod and Service say, to the pod's own proxy and to its callers.
//!
//! Annotations are read once when they change, with the parser that the injector and the proxy have. What is wrong is reported and the last
//! good reading stays, as in the proxy.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use prost::Message;
use weft_api::weft;
use weft_policy::layer::{Layer, LayerKind};
use weft_policy::scope::Scope;

use super::{Model, Names, routes};
use crate::board::{Board, Entry, Kind};
use crate::cluster::{Condition, Key, Notes, OwnerRef, Pod};
use crate::subscriber::variant;

/// An object that may have annotations of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// ConfigMap `weft-defaults`.
    Mesh,
    /// A Namespace.
    Namespace(String),
    /// What makes pods.
    Owner(OwnerRef),
    /// A Pod.
    Pod(Key),
    /// A Service.
    Service(Key),
}

impl Source {
    fn kind(&self) -> LayerKind {
        match self {
            Self::Mesh => LayerKind::Mesh,
            Self::Namespace(_) => LayerKind::Namespace,
            Self::Owner(_) => LayerKind::Workload,
            Self::Pod(_) => LayerKind::Pod,
            Self::Service(_) => LayerKind::Service,
        }
    }

    fn namespace(&self) -> &str {
        match self {
            Self::Mesh => "weft-system",
            Self::Namespace(name) => name,
            Self::Owner(OwnerRef { key, .. }) | Self::Pod(key) | Self::Service(key) => {
                &key.namespace
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("ConfigMap weft-system/weft-defaults"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Owner(owner) => write!(f, "{} {}", owner.kind, owner.key),
            Self::Pod(key) => write!(f, "Pod {key}"),
            Self::Service(key) => write!(f, "Service {key}"),
        }
    }
}

/// What is wrong with an object's annotations now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which object.
    pub source: Source,
    /// `metadata.uid`.
    pub uid: String,
    /// One line a mistake.
    pub text: String,
}

/// The readings of all annotations.
#[derive(Debug, Default)]
pub(super) struct Layers {
    good: HashMap<Source, Reading>,
    bad: HashMap<Source, Problem>,
    /// Not told of yet.
    news: Vec<Problem>,
}

/// A good reading.
#[derive(Debug)]
struct Reading {
    whole: weft::Layer,
    /// What callers are told, if there is something.
    calls: Option<weft::Layer>,
}

impl Layers {
    /// Reads what `source` says now, or forgets it.
    pub(super) fn read(&mut self, source: Source, notes: Option<&Notes>, names: &Names) {
        let Some(notes) = notes.filter(|notes| !notes.annotations.is_empty()) else {
            self.good.remove(&source);
            self.bad.remove(&source);
            return;
        };
        let scope = Scope {
            trust_domain: names.trust_domain.clone(),
            namespace: source.namespace().to_owned(),
        };
        let annotations = notes.annotations.iter();
        let annotations = annotations.map(|(name, value)| (name.as_str(), value.as_str()));
        match Layer::from_annotations(source.kind(), source.to_string(), annotations, &scope) {
            Ok(layer) => {
                self.bad.remove(&source);
                if layer.is_empty() {
                    self.good.remove(&source);
                } else {
                    let calls = Some(layer.calls()).filter(|calls| !calls.is_empty());
                    let reading = Reading {
                        calls: calls.as_ref().map(told),
                        whole: told(&layer),
                    };
                    self.good.insert(source, reading);
                }
            }
            Err(problems) => {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let problem = Problem {
                    source: source.clone(),
                    uid: notes.uid.clone(),
                    text: lines.join("\n"),
                };
                if self.bad.get(&source) != Some(&problem) {
                    self.news.push(problem.clone());
                    self.bad.insert(source, problem);
                }
            }
        }
    }

    fn whole(&self, source: &Source) -> Option<weft::Layer> {
        self.good.get(source).map(|reading| reading.whole.clone())
    }

    fn calls(&self, source: &Source) -> Option<weft::Layer> {
        self.good.get(source)?.calls.clone()
    }
}

impl Model {
    /// What was found wrong since the last call.
    pub fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.layers.news)
    }

    /// How many objects have annotations that cannot be used.
    #[must_use]
    pub fn problems(&self) -> usize {
        self.layers.bad.len()
    }

    /// What lies under the annotations of a pod, for its own proxy alone.
    pub(super) fn inbound_policy(&self, key: &Key) -> Option<Entry> {
        let pod = self.pods.get(key).filter(|pod| pod.meshed && !pod.over)?;
        let sources = self.under(key, pod);
        let name = self.names.pod(key);
        let message = weft::InboundPolicy {
            workload: name.clone(),
            layers: sources
                .iter()
                .filter_map(|source| self.layers.whole(source))
                .collect(),
        };
        Some(Entry {
            only_for: Some(format!("ns/{}/sa/{}", key.namespace, pod.account).into()),
            ..Entry::new(name.into(), message.encode_to_vec())
        })
    }

    /// Mesh, namespace, workload.
    fn under(&self, key: &Key, pod: &Pod) -> Vec<Source> {
        let owner = pod
            .owner
            .as_ref()
            .map(|owner| Source::Owner(self.top_owner(owner).clone()));
        let namespace = Source::Namespace(key.namespace.as_ref().to_owned());
        [Source::Mesh, namespace].into_iter().chain(owner).collect()
    }

    /// How a service is to be called: one for everybody, and one for each namespace that has routes of its own for it.
    pub(super) fn put_route_policies(&mut self, key: &Key, board: &mut Board) {
        let name = self.names.service(key);
        let service = self.services.get(key).filter(|service| !service.external);
        let mut now = BTreeSet::new();
        if service.is_some() {
            let common = self.calls_of(key);
            let attached = self.index.routes_of.get(key).into_iter().flatten();
            let attached = attached.filter_map(|name| Some((name, self.routes.get(name)?)));
            let mut attached: Vec<_> = attached.collect();
            attached.sort_by(|one, other| one.0.cmp(other.0));
            let (producer, consumers) =
                routes::of_service(key, &attached, &self.services, &self.names);
            for (namespace, layers) in consumers {
                let layers = common
                    .iter()
                    .chain(&producer)
                    .cloned()
                    .chain(layers)
                    .collect();
                let entry = Entry {
                    name: name.as_str().into(),
                    ..route_policy(&variant(&name, &namespace), &name, layers)
                };
                board.put(Kind::RoutePolicy, entry);
                now.insert(namespace);
            }
            let layers = common.into_iter().chain(producer).collect();
            board.put(Kind::RoutePolicy, route_policy(&name, &name, layers));
        } else {
            board.take(Kind::RoutePolicy, &name);
        }
        let before = self.index.consumers.remove(key).unwrap_or_default();
        for namespace in before.difference(&now) {
            board.take(Kind::RoutePolicy, &variant(&name, namespace));
        }
        if !now.is_empty() {
            self.index.consumers.insert(key.clone(), now);
        }
    }

    /// What all layers say of how the service is called. Where its ready pods disagree, the newest counts.
    fn calls_of(&self, key: &Key) -> Vec<weft::Layer> {
        let endpoints = self.slices_of(key).flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|one| one.condition == Condition::Ready);
        let pods = ready.filter_map(|one| {
            let key = one.pod.as_ref()?;
            Some((key, self.pods.get(key)?))
        });
        let newest = pods.max_by_key(|(key, pod)| (pod.created, (*key).clone()));
        let mut sources = match newest {
            Some((key, pod)) => self.under(key, pod),
            None => vec![
                Source::Mesh,
                Source::Namespace(key.namespace.as_ref().to_owned()),
            ],
        };
        sources.extend(newest.map(|(key, _)| Source::Pod(key.clone())));
        sources.push(Source::Service(key.clone()));
        sources
            .iter()
            .filter_map(|source| self.layers.calls(source))
            .collect()
    }
}

fn route_policy(key: &str, name: &str, layers: Vec<weft::Layer>) -> Entry {
    let message = weft::RoutePolicy {
        service: name.to_owned(),
        layers,
    };
    Entry::new(key.into(), message.encode_to_vec())
}

fn told(layer: &Layer) -> weft::Layer {
    let document = layer.json();
    weft::Layer {
        kind: layer.kind.as_str().to_owned(),
        object: layer.object.clone(),
        version: format!("{:016x}", crate::board::digest(document.as_bytes())),
        document,
        port: 0,
    }
}
