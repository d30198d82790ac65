//! From the cluster's objects to resources: which change touches what, and what that is now. Pure but for the board it writes.
//!
//! Each change marks what follows from it; a flush makes only what is marked. Addresses are in `model/address.rs`, layers of policy in
//! `model/policy.rs`, Gateway API routes in `model/routes.rs`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_policy::spiffe::TrustDomain;

use self::policy::Source;
use self::routes::status::Verdict;
use crate::board::{Board, Kind};
use crate::cluster::{Change, Key, Notes, Owner, OwnerRef, Pod, Route, RouteRef, Service, Slice};

mod address;
pub mod policy;
pub mod routes;

/// All that is known of the cluster.
#[derive(Debug)]
pub struct Model {
    names: Names,
    services: HashMap<Key, Service>,
    slices: HashMap<Key, Slice>,
    pods: HashMap<Key, Pod>,
    namespaces: HashMap<Arc<str>, Notes>,
    owners: HashMap<OwnerRef, Owner>,
    routes: HashMap<RouteRef, Route>,
    index: Index,
    dirty: Dirty,
    layers: policy::Layers,
    /// Verdicts that were not told yet.
    verdicts: Vec<Verdict>,
}

/// What all names are made with.
#[derive(Clone, Debug)]
pub struct Names {
    /// Ends the names of services: `cluster.local`.
    pub cluster_domain: String,
    /// Of all identities.
    pub trust_domain: TrustDomain,
}

/// Which object leads to which.
#[derive(Debug, Default)]
struct Index {
    slices_of: HashMap<Key, BTreeSet<Key>>,
    slices_with: HashMap<Key, HashSet<Key>>,
    pods_of: HashMap<OwnerRef, HashSet<Key>>,
    /// A Deployment's ReplicaSets.
    owned: HashMap<OwnerRef, HashSet<OwnerRef>>,
    pods_in: HashMap<Arc<str>, HashSet<Key>>,
    services_in: HashMap<Arc<str>, HashSet<Key>>,
    /// What each slice put on the board for addresses without pods.
    bare: HashMap<Key, BTreeSet<Arc<str>>>,
    /// The routes whose parent a service is.
    routes_of: HashMap<Key, HashSet<RouteRef>>,
    /// The routes that send to a service.
    routes_to: HashMap<Key, HashSet<RouteRef>>,
    /// The namespaces that have routes of their own for a service.
    consumers: HashMap<Key, BTreeSet<String>>,
}

/// What must be made anew.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<Key>,
    pods: BTreeSet<Key>,
    slices: BTreeSet<Key>,
    /// How pods are to be called changed.
    inbound: BTreeSet<Key>,
    /// How services are to be called changed.
    calls: BTreeSet<Key>,
    /// Routes whose writers are to be told.
    routes: BTreeSet<RouteRef>,
}

impl Model {
    /// Begins with an empty cluster.
    #[must_use]
    pub fn new(names: Names) -> Self {
        Self {
            names,
            services: HashMap::new(),
            slices: HashMap::new(),
            pods: HashMap::new(),
            namespaces: HashMap::new(),
            owners: HashMap::new(),
            routes: HashMap::new(),
            index: Index::default(),
            dirty: Dirty::default(),
            layers: policy::Layers::default(),
            verdicts: Vec::new(),
        }
    }

    /// Takes in a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Service(key, service) => self.service(key, service),
            Change::Slice(key, slice) => self.slice(key, slice),
            Change::Pod(key, pod) => self.pod(key, pod),
            Change::Namespace(name, notes) => {
                let before = put(&mut self.namespaces, name.clone(), notes);
                let now = self.namespaces.get(&name);
                if !says_the_same(before.as_ref(), now) {
                    let source = Source::Namespace(name.as_ref().to_owned());
                    self.layers.read(source, now, &self.names);
                    self.namespace_asks_otherwise(&name);
                }
            }
            Change::Owner(name, owner) => self.owner(name, owner),
            Change::Defaults(notes) => {
                self.layers.read(Source::Mesh, notes.as_ref(), &self.names);
                self.dirty.inbound.extend(self.pods.keys().cloned());
                self.dirty.calls.extend(self.services.keys().cloned());
            }
            Change::Route(name, route) => {
                let before = put(&mut self.routes, name.clone(), route);
                let now = self.routes.get(&name);
                if before.as_ref().map(|route| &route.spec) == now.map(|route| &route.spec) {
                    return;
                }
                for (route, there) in [(before.as_ref(), false), (now, true)] {
                    let Some(route) = route else { continue };
                    for parent in routes::parents(&name, route) {
                        note(&mut self.index.routes_of, &parent, &name, there);
                        self.dirty.calls.insert(parent);
                    }
                    for backend in routes::backends(&name, route) {
                        note(&mut self.index.routes_to, &backend, &name, there);
                    }
                }
                self.dirty.routes.insert(name);
            }
        }
    }

    /// Makes what has changed and puts it on the board.
    pub fn flush(&mut self, board: &mut Board) {
        let dirty = std::mem::take(&mut self.dirty);
        for key in &dirty.services {
            match self.address_of_service(key) {
                Some(entry) => board.put(Kind::Address, entry),
                None => board.take(Kind::Address, &self.names.service(key)),
            };
        }
        for key in &dirty.pods {
            match self.address_of_pod(key) {
                Some(entry) => board.put(Kind::Address, entry),
                None => board.take(Kind::Address, &self.names.pod(key)),
            };
        }
        for key in &dirty.slices {
            self.put_bare_addresses(key, board);
        }
        for key in &dirty.inbound {
            match self.inbound_policy(key) {
                Some(entry) => board.put(Kind::InboundPolicy, entry),
                None => board.take(Kind::InboundPolicy, &self.names.pod(key)),
            };
        }
        for key in &dirty.calls {
            self.put_route_policies(key, board);
        }
        for name in &dirty.routes {
            let route = self.routes.get(name);
            let verdict =
                route.and_then(|route| routes::status::verdict(name, route, &self.services));
            self.verdicts.extend(verdict);
        }
    }

    /// What is to be told to those who wrote routes.
    pub fn take_verdicts(&mut self) -> Vec<Verdict> {
        std::mem::take(&mut self.verdicts)
    }

    /// Whether a flush has something to do.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let Dirty {
            services,
            pods,
            slices,
            inbound,
            calls,
            routes,
        } = &self.dirty;
        let keys = [services, pods, slices, inbound, calls];
        !(routes.is_empty() && keys.into_iter().all(BTreeSet::is_empty))
    }

    fn service(&mut self, key: Key, service: Option<Service>) {
        let there = service.is_some();
        let notes = service.as_ref().map(|service| &service.notes);
        self.layers
            .read(Source::Service(key.clone()), notes, &self.names);
        note(&mut self.index.services_in, &key.namespace, &key, there);
        put(&mut self.services, key.clone(), service);
        self.members_changed(&key);
        self.routes_changed(&key);
        self.dirty.calls.insert(key.clone());
        self.dirty.services.insert(key);
    }

    fn slice(&mut self, key: Key, slice: Option<Slice>) {
        let before = put(&mut self.slices, key.clone(), slice);
        let now = self.slices.get(&key).cloned();
        for (slice, there) in [(before.as_ref(), false), (now.as_ref(), true)] {
            let Some(slice) = slice else { continue };
            let slices = self
                .index
                .slices_of
                .entry(slice.service.clone())
                .or_default();
            if there {
                slices.insert(key.clone())
            } else {
                slices.remove(&key)
            };
            for pod in slice.endpoints.iter().filter_map(|one| one.pod.as_ref()) {
                note(&mut self.index.slices_with, pod, &key, there);
                self.dirty.pods.insert(pod.clone());
            }
            self.dirty.calls.insert(slice.service.clone());
        }
        self.dirty.slices.insert(key);
    }

    fn pod(&mut self, key: Key, pod: Option<Pod>) {
        let before = put(&mut self.pods, key.clone(), pod);
        let now = self.pods.get(&key).cloned();
        let notes = [&before, &now].map(|pod| pod.as_ref().map(|pod| &pod.notes));
        if let [before, now] = notes
            && !says_the_same(before, now)
        {
            self.layers.read(Source::Pod(key.clone()), now, &self.names);
        }
        note(&mut self.index.pods_in, &key.namespace, &key, now.is_some());
        for (pod, there) in [(before.as_ref(), false), (now.as_ref(), true)] {
            if let Some(owner) = pod.and_then(|pod| pod.owner.as_ref()) {
                note(&mut self.index.pods_of, owner, &key, there);
            }
        }
        self.calls_of_pod(&key);
        self.dirty.inbound.insert(key.clone());
        self.dirty.pods.insert(key);
    }

    fn owner(&mut self, name: OwnerRef, owner: Option<Owner>) {
        let before = put(&mut self.owners, name.clone(), owner);
        let now = self.owners.get(&name).cloned();
        if before
            .as_ref()
            .map(|one| (&one.owner, &one.notes.annotations))
            == now.as_ref().map(|one| (&one.owner, &one.notes.annotations))
        {
            return;
        }
        if name.kind.as_ref() != REPLICA_SET {
            let notes = now.as_ref().map(|owner| &owner.notes);
            self.layers
                .read(Source::Owner(name.clone()), notes, &self.names);
        }
        for (owner, there) in [(before, false), (now, true)] {
            if let Some(above) = owner.and_then(|owner| owner.owner) {
                note(&mut self.index.owned, &above, &name, there);
            }
        }
        let below = self.index.owned.get(&name).into_iter().flatten().cloned();
        let makers: Vec<OwnerRef> = below.chain([name]).collect();
        for maker in makers {
            let pods: Vec<Key> = self
                .index
                .pods_of
                .get(&maker)
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            for pod in pods {
                self.calls_of_pod(&pod);
                self.dirty.inbound.insert(pod.clone());
                // What made it is in its address.
                self.dirty.pods.insert(pod);
            }
        }
    }

    fn namespace_asks_otherwise(&mut self, name: &Arc<str>) {
        let pods = self.index.pods_in.get(name).into_iter().flatten();
        self.dirty.inbound.extend(pods.cloned());
        let services = self.index.services_in.get(name).into_iter().flatten();
        self.dirty.calls.extend(services.cloned());
    }

    /// The services of a pod are to be called as it says.
    fn calls_of_pod(&mut self, pod: &Key) {
        let slices = self.index.slices_with.get(pod).into_iter().flatten();
        let services = slices.filter_map(|slice| Some(self.slices.get(slice)?.service.clone()));
        self.dirty.calls.extend(services.collect::<Vec<_>>());
    }

    /// What leads to a service depends on its being there.
    fn routes_changed(&mut self, service: &Key) {
        let to = self.index.routes_to.get(service).into_iter().flatten();
        let of = self.index.routes_of.get(service).into_iter().flatten();
        for name in to.chain(of) {
            let parents = self
                .routes
                .get(name)
                .map(|route| routes::parents(name, route));
            self.dirty.calls.extend(parents.into_iter().flatten());
            self.dirty.routes.insert(name.clone());
        }
    }

    /// The ports of a service are in its members.
    fn members_changed(&mut self, service: &Key) {
        for slice in self.index.slices_of.get(service).into_iter().flatten() {
            self.dirty.slices.insert(slice.clone());
            let endpoints = self
                .slices
                .get(slice)
                .into_iter()
                .flat_map(|slice| &slice.endpoints);
            self.dirty
                .pods
                .extend(endpoints.filter_map(|one| one.pod.clone()));
        }
    }

    fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Slice> {
        let slices = self.index.slices_of.get(service).into_iter().flatten();
        slices.filter_map(|key| self.slices.get(key))
    }
}

impl Names {
    fn host(&self, service: &Key) -> String {
        let Key { namespace, name } = service;
        format!("{name}.{namespace}.svc.{}", self.cluster_domain)
    }

    /// A service's name in the mesh.
    #[must_use]
    pub fn service(&self, service: &Key) -> String {
        format!("{}/{}", service.namespace, self.host(service))
    }

    /// A pod's name in the mesh.
    #[must_use]
    pub fn pod(&self, pod: &Key) -> String {
        format!("Kubernetes//Pod/{}/{}", pod.namespace, pod.name)
    }
}

fn says_the_same(one: Option<&Notes>, other: Option<&Notes>) -> bool {
    one.map(|notes| &notes.annotations) == other.map(|notes| &notes.annotations)
}

/// Has its Deployment's annotations, old ones at times.
const REPLICA_SET: &str = "ReplicaSet";

/// Sets or removes; returns what was there.
fn put<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

/// Adds to or removes from a set in a map.
fn note<K: std::hash::Hash + Eq + Clone, V: std::hash::Hash + Eq + Clone>(
    map: &mut HashMap<K, HashSet<V>>,
    key: &K,
    value: &V,
    there: bool,
) {
    if there {
        map.entry(key.clone()).or_default().insert(value.clone());
    } else if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

/// `/10.0.0.1`.
fn alias(ip: &IpAddr) -> Arc<str> {
    format!("/{ip}").into()
}

fn octets(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
