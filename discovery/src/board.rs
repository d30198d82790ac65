//! The board: every resource as it is told now, made once and shared by all subscribers, and what changed lately.
//!
//! Written by one task, read by all. A subscriber keeps its place in the log of changes and looks only at what came after it; who is
//! too far behind compares everything that it has. So nothing is queued for anybody.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;
use weft_api::ads::{Payload, Resource};
use weft_api::{ADDRESS, INBOUND_POLICY, ROUTE_POLICY};

/// A type of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `istio.workload.Address`.
    Address,
    /// `weft.v1.RoutePolicy`.
    RoutePolicy,
    /// `weft.v1.InboundPolicy`.
    InboundPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Address, Self::RoutePolicy, Self::InboundPolicy];

    /// As ADS names it.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS,
            Self::RoutePolicy => ROUTE_POLICY,
            Self::InboundPolicy => INBOUND_POLICY,
        }
    }

    /// The type that `url` names.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    fn index(self) -> usize {
        match self {
            Self::Address => 0,
            Self::RoutePolicy => 1,
            Self::InboundPolicy => 2,
        }
    }
}

/// A resource, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name here.
    pub key: Arc<str>,
    /// Its name for subscribers; the same, but for what only some of them are told.
    pub name: Arc<str>,
    /// Encoded.
    pub body: Bytes,
    /// A digest of the body: the same in all replicas.
    pub version: u64,
    /// Other names: `/10.0.0.1`.
    pub aliases: Vec<Arc<str>>,
    /// Of a workload: the services that bring it with them.
    pub services: Vec<Arc<str>>,
    /// Who alone may have it: `spiffe` path `ns/<namespace>/sa/<account>`.
    pub only_for: Option<Arc<str>>,
}

impl Entry {
    /// Makes one for everybody, without other names.
    pub fn new(name: Arc<str>, body: Vec<u8>) -> Self {
        Self {
            key: Arc::clone(&name),
            name,
            version: digest(&body),
            body: body.into(),
            aliases: Vec::new(),
            services: Vec::new(),
            only_for: None,
        }
    }

    /// As it is sent. The body is shared.
    pub(crate) fn resource(&self, kind: Kind) -> Resource {
        Resource {
            version: self.version_text(),
            name: self.name.as_ref().to_owned(),
            aliases: self
                .aliases
                .iter()
                .map(|alias| alias.as_ref().to_owned())
                .collect(),
            resource: Some(Payload {
                type_url: kind.url().to_owned(),
                value: self.body.clone(),
            }),
        }
    }

    pub(crate) fn version_text(&self) -> String {
        format!("{:016x}", self.version)
    }
}

/// A change, as far as subscribers need to know it to see whether it is theirs.
#[derive(Clone, Debug)]
pub(crate) struct Touch {
    pub(crate) kind: Kind,
    /// The resource's names, old and new.
    pub(crate) names: Vec<Arc<str>>,
    /// The services of a workload, old and new.
    pub(crate) services: Vec<Arc<str>>,
}

/// Everything that is told now.
#[derive(Debug, Default)]
pub struct Board {
    entries: [HashMap<Arc<str>, Arc<Entry>>; 3],
    aliases: HashMap<Arc<str>, Arc<str>>,
    members: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    log: VecDeque<Touch>,
    /// The number of the first change in the log.
    first: u64,
}

impl Board {
    /// Puts up a resource; tells whether it is another one than before.
    pub fn put(&mut self, kind: Kind, entry: Entry) -> bool {
        let before = self.entry(kind, &entry.key).cloned();
        if before.as_deref() == Some(&entry) {
            return false;
        }
        if let Some(before) = &before {
            self.forget_names(before);
        }
        let entry = Arc::new(entry);
        for alias in &entry.aliases {
            self.aliases
                .insert(Arc::clone(alias), Arc::clone(&entry.key));
        }
        for service in &entry.services {
            let members = self.members.entry(Arc::clone(service)).or_default();
            members.insert(Arc::clone(&entry.key));
        }
        self.touched(kind, &entry, before.as_deref());
        if let Some(entries) = self.entries.get_mut(kind.index()) {
            entries.insert(Arc::clone(&entry.key), entry);
        }
        true
    }

    /// Takes a resource down; tells whether it was there.
    pub fn take(&mut self, kind: Kind, name: &str) -> bool {
        let entries = self.entries.get_mut(kind.index());
        let Some(before) = entries.and_then(|entries| entries.remove(name)) else {
            return false;
        };
        self.forget_names(&before);
        self.touched(kind, &before, None);
        true
    }

    fn forget_names(&mut self, entry: &Entry) {
        for alias in &entry.aliases {
            // Somebody newer may have the address by now.
            if self
                .aliases
                .get(alias)
                .is_some_and(|owner| *owner == entry.key)
            {
                self.aliases.remove(alias);
            }
        }
        for service in &entry.services {
            if let Some(members) = self.members.get_mut(service) {
                members.remove(&entry.key);
                if members.is_empty() {
                    self.members.remove(service);
                }
            }
        }
    }

    fn touched(&mut self, kind: Kind, now: &Entry, before: Option<&Entry>) {
        let both = || [Some(now), before].into_iter().flatten();
        let mut names = vec![Arc::clone(&now.key), Arc::clone(&now.name)];
        names.extend(both().flat_map(|entry| entry.aliases.iter().cloned()));
        let services = both().flat_map(|entry| entry.services.iter().cloned());
        let services = services.collect();
        self.log.push_back(Touch {
            kind,
            names,
            services,
        });
        if self.log.len() > MAX_LOG {
            self.log.pop_front();
            self.first += 1;
        }
    }

    /// The resource of that name, or that alias.
    pub(crate) fn find(&self, kind: Kind, name: &str) -> Option<&Arc<Entry>> {
        let aliased = (kind == Kind::Address)
            .then(|| self.aliases.get(name))
            .flatten();
        self.entry(kind, aliased.map_or(name, |name| name))
    }

    fn entry(&self, kind: Kind, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(kind.index())?.get(name)
    }

    /// The workloads of a service.
    pub(crate) fn members(&self, service: &str) -> impl Iterator<Item = &Arc<Entry>> {
        let names = self.members.get(service).into_iter().flatten();
        names.filter_map(|name| self.entry(Kind::Address, name))
    }

    /// All of a type.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries
            .get(kind.index())
            .into_iter()
            .flat_map(HashMap::values)
    }

    /// The number of the next change.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.log.len() as u64
    }

    /// The changes from number `from` on; `None` if they are not all there any more.
    pub(crate) fn since(&self, from: u64) -> Option<impl Iterator<Item = &Touch>> {
        let skip = usize::try_from(from.checked_sub(self.first)?).ok()?;
        Some(self.log.iter().skip(skip))
    }

    /// How many resources of a type there are.
    #[must_use]
    pub fn len(&self, kind: Kind) -> usize {
        self.entries.get(kind.index()).map_or(0, HashMap::len)
    }
}

/// The board and who waits for its changes; clones share it.
#[derive(Clone, Debug)]
pub struct Shared {
    board: Arc<RwLock<Board>>,
    changes: watch::Sender<State>,
}

/// How far the board is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The cluster has not been read yet.
    Empty,
    /// What is there up to this change.
    At(u64),
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            board: Arc::default(),
            changes: watch::Sender::new(State::Empty),
        }
    }
}

impl Shared {
    /// Changes the board and tells everybody, once.
    pub fn write(&self, change: impl FnOnce(&mut Board)) {
        let next = {
            let mut board = self.board.write();
            change(&mut board);
            board.next()
        };
        self.changes.send_if_modified(|state| {
            let now = State::At(next);
            std::mem::replace(state, now) != now
        });
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Board> {
        self.board.read()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.changes.subscribe()
    }

    /// Whether the cluster has been read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.changes.borrow() != State::Empty
    }
}

/// FNV-1a, 64 bits: the same in every build, which a version must be.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Changes that are remembered: far more than come while one message is sent.
const MAX_LOG: usize = 8192;
