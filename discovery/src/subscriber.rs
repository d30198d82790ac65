//! One subscriber: what it asked for, what it has, and what it must be told; pure.
//!
//! A service brings its workloads with it. What is told is always the newest state and never its history: a slow subscriber misses
//! what is over, and costs nobody anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_api::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use crate::board::{Board, Entry, Kind, Touch};

/// Somebody who subscribes.
#[derive(Debug)]
pub struct Subscriber {
    caller: Caller,
    topics: BTreeMap<&'static str, Topic>,
    /// The next change to look at.
    seen: u64,
    nonce: u64,
}

/// Who that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its service account.
    pub account: Arc<str>,
}

impl Caller {
    fn path(&self) -> String {
        format!("ns/{}/sa/{}", self.namespace, self.account)
    }
}

/// A type that was subscribed to.
#[derive(Debug)]
struct Topic {
    kind: Kind,
    /// Everything there is.
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the subscriber has.
    sent: HashMap<Arc<str>, u64>,
    /// Names that it was told stand for nothing.
    absent: BTreeSet<String>,
    /// To be told whether it changed or not.
    owed: BTreeSet<String>,
    /// Something may have to be told.
    due: bool,
}

/// A request that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Of a type that we do not have.
    #[error("unknown type")]
    Type,
    /// More names than we keep.
    #[error("more than {MAX_NAMES} names")]
    Names,
}

impl Subscriber {
    /// Begins with nothing asked for.
    #[must_use]
    pub fn new(caller: Caller, board: &Board) -> Self {
        Self {
            caller,
            topics: BTreeMap::new(),
            seen: board.next(),
            nonce: 0,
        }
    }

    /// Takes in a request; what it calls for comes with the next [`Subscriber::responses`].
    ///
    /// # Errors
    /// If it is of no type of ours, or of too many names.
    pub fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Refused> {
        let kind = Kind::of(&request.type_url).ok_or(Refused::Type)?;
        let first = !self.topics.contains_key(kind.url());
        let topic = self
            .topics
            .entry(kind.url())
            .or_insert_with(|| Topic::new(kind));
        let subscribes = &request.resource_names_subscribe;
        if first {
            let versions = request.initial_resource_versions.iter();
            let known = versions.filter_map(|(name, version)| {
                Some((name.as_str().into(), u64::from_str_radix(version, 16).ok()?))
            });
            topic.sent = known.take(MAX_NAMES * 10).collect();
            // "An empty list in the first request subscribes to everything" (xDS, wildcard).
            topic.wildcard = subscribes.is_empty();
            topic.due = true;
        }
        for name in subscribes {
            topic.subscribe(name, first);
        }
        for name in &request.resource_names_unsubscribe {
            topic.unsubscribe(name);
        }
        match topic.names.len() <= MAX_NAMES {
            true => Ok(()),
            false => Err(Refused::Names),
        }
    }

    /// What is to be told now.
    pub fn responses(&mut self, board: &Board) -> Vec<DeltaDiscoveryResponse> {
        self.look_at_changes(board);
        let mut responses = Vec::new();
        let caller = self.caller.clone();
        for topic in self.topics.values_mut().filter(|topic| topic.due) {
            for mut response in topic.delta(&caller, board) {
                self.nonce += 1;
                response.nonce = self.nonce.to_string();
                responses.push(response);
            }
        }
        responses
    }

    /// Marks the topics that a change concerns.
    fn look_at_changes(&mut self, board: &Board) {
        match board.since(self.seen) {
            None => self.topics.values_mut().for_each(|topic| topic.due = true),
            Some(changes) => {
                for change in changes {
                    if let Some(topic) = self.topics.get_mut(change.kind.url()) {
                        topic.due |= topic.concerns(change);
                    }
                }
            }
        }
        self.seen = board.next();
    }
}

impl Topic {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            wildcard: false,
            names: BTreeSet::new(),
            sent: HashMap::new(),
            absent: BTreeSet::new(),
            owed: BTreeSet::new(),
            due: false,
        }
    }

    fn subscribe(&mut self, name: &str, first: bool) {
        if name == "*" {
            self.wildcard = true;
        } else {
            self.names.insert(name.to_owned());
            self.absent.remove(name);
            if !first {
                // "The server must respond with all resources listed in resource_names_subscribe" (xDS, delta).
                self.owed.insert(name.to_owned());
            }
        }
        self.due = true;
    }

    fn unsubscribe(&mut self, name: &str) {
        match name {
            "*" => self.wildcard = false,
            name => {
                self.names.remove(name);
                self.absent.remove(name);
                self.owed.remove(name);
            }
        }
        self.due = true;
    }

    fn concerns(&self, change: &Touch) -> bool {
        let known = |name: &Arc<str>| self.sent.contains_key(name) || self.names.contains(&**name);
        self.wildcard || change.names.iter().any(known) || change.services.iter().any(known)
    }

    /// What differs between what is wanted and what was sent, in parts of a bearable size.
    fn delta(&mut self, caller: &Caller, board: &Board) -> Vec<DeltaDiscoveryResponse> {
        self.due = false;
        let owed = std::mem::take(&mut self.owed);
        let mut wanted: HashMap<Arc<str>, &Arc<Entry>> = HashMap::new();
        let mut again: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut removed = Vec::new();
        for name in &self.names {
            let found = self.found(name, caller, board);
            if found.is_empty() && (owed.contains(name) || !self.absent.contains(name)) {
                removed.push(name.clone());
                self.absent.insert(name.clone());
            } else if !found.is_empty() {
                self.absent.remove(name);
            }
            for entry in found {
                if owed.contains(name) {
                    again.insert(Arc::clone(&entry.name));
                }
                wanted.insert(Arc::clone(&entry.name), entry);
            }
        }
        if self.wildcard {
            let all = board
                .all(self.kind)
                .filter(|entry| entry.key == entry.name && may_have(entry, caller));
            wanted.extend(all.map(|entry| (Arc::clone(&entry.name), entry)));
        }
        let gone: Vec<Arc<str>> = self
            .sent
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.sent.remove(&name);
            removed.push(name.as_ref().to_owned());
        }
        let mut resources = Vec::new();
        for (name, entry) in wanted {
            if again.contains(&name) || self.sent.get(&name) != Some(&entry.version) {
                resources.push(entry);
                self.sent.insert(name, entry.version);
            }
        }
        // Services first: a workload means nothing to who does not know its service.
        resources.sort_by_key(|entry| (!entry.services.is_empty(), Arc::clone(&entry.name)));
        self.parts(&resources, removed)
    }

    /// Small parts: what is being sent is kept once a subscriber.
    fn parts(
        &self,
        resources: &[&Arc<Entry>],
        removed: Vec<String>,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut parts = Vec::new();
        let mut part = self.part(removed);
        let mut bytes = 0;
        for entry in resources {
            if bytes > 0 && bytes + entry.body.len() > MAX_PART_BYTES {
                parts.push(std::mem::replace(&mut part, self.part(Vec::new())));
                bytes = 0;
            }
            bytes += entry.body.len();
            part.resources.push(entry.resource(self.kind));
        }
        if !(part.resources.is_empty() && part.removed_resources.is_empty()) {
            parts.push(part);
        }
        parts
    }

    fn part(&self, removed: Vec<String>) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: self.kind.url().to_owned(),
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        }
    }

    /// What `name` brings with it.
    fn found<'a>(&self, name: &str, caller: &Caller, board: &'a Board) -> Vec<&'a Arc<Entry>> {
        let entry = match self.kind {
            Kind::RoutePolicy => {
                let own = variant(name, &caller.namespace);
                board
                    .find(self.kind, &own)
                    .or_else(|| board.find(self.kind, name))
            }
            Kind::Address | Kind::InboundPolicy => board.find(self.kind, name),
        };
        let Some(entry) = entry.filter(|entry| may_have(entry, caller)) else {
            return Vec::new();
        };
        let members = board
            .members(&entry.name)
            .filter(|_| self.kind == Kind::Address);
        std::iter::once(entry).chain(members).collect()
    }
}

fn may_have(entry: &Entry, caller: &Caller) -> bool {
    let only = entry.only_for.as_deref();
    only.is_none_or(|only| only == caller.path())
}

/// The name under which the board has what only callers of one namespace are told.
pub(crate) fn variant(name: &str, namespace: &str) -> String {
    format!("{name}@{namespace}")
}

/// What a subscriber may name; a sidecar names some dozens.
const MAX_NAMES: usize = 10_000;
/// Content of one message, unless a single resource has more.
const MAX_PART_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests;
