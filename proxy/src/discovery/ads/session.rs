//! What this proxy knows from the control plane and what it wants to know; pure.
//!
//! A *want* is a name that the app called: `/10.96.0.1` or `shop/orders.shop.svc.cluster.local`. A want that leads to a service
//! brings its workloads with it, and we also want the service's policy. What no want leads to is dropped, so memory follows
//! what this app calls. Wants outlive a connection: the next one begins with them and the versions that we hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;
use weft_api::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};
use weft_api::weft::{InboundPolicy, LastKnown, Layer, RoutePolicy};
use weft_api::workload::{Address, Service, Workload};

use super::resource::{Kind, Read, aliases, read, resource, service, workload};

/// Everything known and wanted.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The workload that we stand beside.
    own: Option<String>,
    addresses: BTreeMap<String, Held<Address>>,
    /// `/10.0.0.1` -> the resource's name.
    aliases: HashMap<String, String>,
    policies: BTreeMap<Topic, Held<Vec<Layer>>>,
    /// What the app called, and for how many sweeps it has not.
    wants: BTreeMap<String, u8>,
    /// What was answered, if only by saying that there is no such thing.
    settled: BTreeSet<Topic>,
    /// What the control plane was told on this connection.
    told: BTreeSet<Topic>,
    /// Types that nothing was said of yet on this connection.
    fresh: Vec<Kind>,
}

/// A resource and its version.
#[derive(Debug)]
pub(super) struct Held<T> {
    version: String,
    pub(super) value: T,
}

/// A type and a name.
type Topic = (Kind, String);

/// Who asks for more is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Session {
    /// Begins with nothing known; `own` is the workload's name in the control plane.
    pub(super) fn new(own: Option<String>) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    /// Wants `name` from now on.
    ///
    /// # Errors
    /// More names are wanted than we keep.
    pub(super) fn want(&mut self, name: &str) -> Result<(), TooMany> {
        if self.wants.len() >= MAX_WANTS && !self.wants.contains_key(name) {
            return Err(TooMany);
        }
        self.wants.insert(name.to_owned(), 0);
        Ok(())
    }

    /// Whether all is known that there is to know of `name`.
    pub(super) fn is_settled(&self, name: &str) -> bool {
        let topic = (Kind::Address, name.to_owned());
        if let Some((resource, Held { value, .. })) = self.find(name) {
            let policy = (Kind::RoutePolicy, resource.to_owned());
            return service(value).is_none() || self.settled.contains(&policy);
        }
        self.settled.contains(&topic)
    }

    /// Whether anything stands behind `name`.
    pub(super) fn find(&self, name: &str) -> Option<(&str, &Held<Address>)> {
        let name = self.aliases.get(name).map_or(name, String::as_str);
        let (name, held) = self.addresses.get_key_value(name)?;
        Some((name, held))
    }

    /// Begins with a connection that knows nothing of us.
    pub(super) fn connected(&mut self) {
        self.told.clear();
        self.fresh = Kind::ALL.to_vec();
    }

    /// What is to be said so that the control plane knows what we want.
    pub(super) fn requests(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let wanted = self.wanted();
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let of = |topics: Vec<&Topic>| -> Vec<String> {
                let names = topics.into_iter().filter(|(other, _)| *other == kind);
                names.map(|(_, name)| name.clone()).collect()
            };
            let subscribe = of(wanted.difference(&self.told).collect());
            let unsubscribe = of(self.told.difference(&wanted).collect());
            if subscribe.is_empty() && unsubscribe.is_empty() {
                continue;
            }
            let first = self.fresh.contains(&kind);
            self.fresh.retain(|fresh| *fresh != kind);
            requests.push(DeltaDiscoveryRequest {
                type_url: kind.url().to_owned(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                initial_resource_versions: match first {
                    true => self.versions(kind),
                    false => BTreeMap::new(),
                },
                ..DeltaDiscoveryRequest::default()
            });
        }
        self.told = wanted;
        requests
    }

    /// Takes in what the control plane says, and returns the acknowledgement. A response of which a part cannot be read changes
    /// nothing.
    pub(super) fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let outcome = match Kind::of(&response.type_url) {
            Some(kind) => self.take_in(kind, &response),
            None => Err(format!(
                "{:?} is a type we know nothing of",
                response.type_url
            )),
        };
        DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: outcome.err().map(|message| Status {
                code: INVALID_ARGUMENT,
                message,
            }),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn take_in(&mut self, kind: Kind, response: &DeltaDiscoveryResponse) -> Result<(), String> {
        let read: Result<Vec<_>, String> = response
            .resources
            .iter()
            .map(|one| read(kind, one))
            .collect();
        for (name, version, resource) in read? {
            self.settled.insert((kind, name.clone()));
            match resource {
                Read::Address(value) => {
                    let value = *value;
                    self.put_address(name, Held { version, value });
                }
                Read::Layers(value) => {
                    self.policies.insert((kind, name), Held { version, value });
                }
            }
        }
        for name in &response.removed_resources {
            self.settled.insert((kind, name.clone()));
            match kind {
                Kind::Address => self.remove_address(name),
                Kind::RoutePolicy | Kind::InboundPolicy => {
                    self.policies.remove(&(kind, name.clone()));
                }
            }
        }
        self.drop_unwanted();
        Ok(())
    }

    fn put_address(&mut self, name: String, held: Held<Address>) {
        self.remove_address(&name);
        for alias in aliases(&held.value) {
            self.settled.insert((Kind::Address, alias.clone()));
            // An address has one owner at a time: the newest.
            if let Some(former) = self.aliases.insert(alias, name.clone())
                && former != name
            {
                self.remove_address(&former);
                self.aliases
                    .extend(aliases(&held.value).map(|alias| (alias, name.clone())));
            }
        }
        self.addresses.insert(name, held);
    }

    fn remove_address(&mut self, name: &str) {
        let name = self
            .aliases
            .get(name)
            .cloned()
            .unwrap_or_else(|| name.to_owned());
        if let Some(held) = self.addresses.remove(&name) {
            for alias in aliases(&held.value) {
                self.aliases.remove(&alias);
            }
        }
    }

    /// Counts a sweep: a want for which `used` says nothing `idle` times in a row is given up.
    pub(super) fn sweep(&mut self, idle: u8, used: impl Fn(&str) -> bool) {
        let mut wants = std::mem::take(&mut self.wants);
        wants.retain(|name, sweeps| {
            let resource = self.find(name).map(|(resource, _)| resource);
            let used = used(name) || resource.is_some_and(&used);
            *sweeps = if used { 0 } else { sweeps.saturating_add(1) };
            *sweeps < idle
        });
        self.wants = wants;
        self.drop_unwanted();
    }

    /// Forgets what no want leads to.
    fn drop_unwanted(&mut self) {
        let direct: BTreeSet<String> = self
            .wants
            .keys()
            .filter_map(|want| self.find(want))
            .map(|(name, _)| name.to_owned())
            .collect();
        let led_to = |name: &String, held: &Held<Address>| {
            direct.contains(name)
                || workload(&held.value).is_some_and(|workload| {
                    workload.services.keys().any(|one| direct.contains(one))
                })
        };
        let gone: Vec<String> = self
            .addresses
            .iter()
            .filter(|(name, held)| !led_to(name, held))
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.remove_address(name));
        let wanted = self.wanted();
        self.policies.retain(|topic, _| wanted.contains(topic));
        let (addresses, aliases) = (&self.addresses, &self.aliases);
        self.settled.retain(|topic| {
            wanted.contains(topic)
                || addresses.contains_key(&topic.1)
                || aliases.contains_key(&topic.1)
        });
    }

    fn wanted(&self) -> BTreeSet<Topic> {
        let wants = self.wants.keys().map(|name| (Kind::Address, name.clone()));
        let routes = self
            .services()
            .map(|(name, _)| (Kind::RoutePolicy, name.to_owned()));
        let own = self
            .own
            .iter()
            .map(|name| (Kind::InboundPolicy, name.clone()));
        wants.chain(routes).chain(own).collect()
    }

    fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        let addresses = self.addresses.iter().filter(|_| kind == Kind::Address);
        let addresses = addresses.map(|(name, held)| (name.clone(), held.version.clone()));
        let policies = self
            .policies
            .iter()
            .filter(|((other, _), _)| *other == kind);
        let policies = policies.map(|((_, name), held)| (name.clone(), held.version.clone()));
        addresses.chain(policies).collect()
    }

    /// The services that are known, by name.
    pub(super) fn services(&self) -> impl Iterator<Item = (&str, &Service)> {
        self.addresses
            .iter()
            .filter_map(|(name, held)| Some((name.as_str(), service(&held.value)?)))
    }

    /// The workloads that are known.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.addresses
            .values()
            .filter_map(|held| workload(&held.value))
    }

    /// Names that were asked for and stand for nothing.
    pub(super) fn absent(&self) -> impl Iterator<Item = &str> {
        let absent = |name: &&String| self.is_settled(name) && self.find(name).is_none();
        self.wants.keys().filter(absent).map(String::as_str)
    }

    /// How the services that are known are to be called, by the service's name.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&str, &[Layer])> {
        let routes = self
            .policies
            .iter()
            .filter(|((kind, _), _)| *kind == Kind::RoutePolicy);
        routes.map(|((_, name), held)| (name.as_str(), held.value.as_slice()))
    }

    /// What lies under our own annotations; `None` while nobody has said.
    pub(super) fn inbound(&self) -> Option<&[Layer]> {
        let topic = (Kind::InboundPolicy, self.own.clone()?);
        let held = self.policies.get(&topic).map(|held| held.value.as_slice());
        // That there is nothing is an answer too.
        held.or_else(|| self.settled.contains(&topic).then_some(&[]))
    }

    /// All that is known, for a restart.
    pub(super) fn last_known(&self) -> LastKnown {
        let addresses = self.addresses.iter().map(|(name, held)| {
            resource(
                Kind::Address,
                name,
                &held.version,
                held.value.encode_to_vec(),
            )
        });
        let policies = self.policies.iter().map(|((kind, name), held)| {
            let layers = held.value.clone();
            let bytes = match kind {
                Kind::InboundPolicy => InboundPolicy {
                    workload: name.clone(),
                    layers,
                }
                .encode_to_vec(),
                Kind::Address | Kind::RoutePolicy => RoutePolicy {
                    service: name.clone(),
                    layers,
                }
                .encode_to_vec(),
            };
            resource(*kind, name, &held.version, bytes)
        });
        LastKnown {
            resources: addresses
                .chain(policies)
                .map(|one| one.encode_to_vec())
                .collect(),
        }
    }

    /// Takes in what was known before a restart, as if the app had called all of it.
    ///
    /// # Errors
    /// A part of it cannot be read.
    pub(super) fn restore(&mut self, known: &LastKnown) -> Result<(), String> {
        for bytes in &known.resources {
            let one = Resource::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
            let url = one
                .resource
                .as_ref()
                .map_or("", |payload| payload.type_url.as_str());
            let kind =
                Kind::of(url).ok_or_else(|| format!("{url:?} is a type we know nothing of"))?;
            match read(kind, &one)? {
                (name, version, Read::Address(value)) => {
                    if service(&value).is_some() {
                        let alias = aliases(&value).next().unwrap_or_else(|| name.clone());
                        self.want(&alias).or(Err("it has too many names"))?;
                    }
                    self.settled.insert((kind, name.clone()));
                    let value = *value;
                    self.put_address(name, Held { version, value });
                }
                (name, version, Read::Layers(value)) => {
                    self.settled.insert((kind, name.clone()));
                    self.policies.insert((kind, name), Held { version, value });
                }
            }
        }
        Ok(())
    }
}

/// Names that an app may call; a proxy that calls more is no sidecar.
const MAX_WANTS: usize = 4096;
/// `google.rpc.Code`.
const INVALID_ARGUMENT: i32 = 3;

#[cfg(test)]
mod tests;
