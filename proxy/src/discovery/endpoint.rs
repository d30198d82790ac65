//! An endpoint, what the proxy remembers of it, and the snapshot of a service's endpoints.
//!
//! Endpoints are shared by all workers and outlive updates, so that load, latency and pooled connections are kept. Which
//! one is chosen is decided in `balance`; who creates and retires them is `directory` and `dns`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use weft_policy::spiffe::SpiffeId;

use crate::balance::breaker;
use crate::balance::ewma::Estimate;
use crate::balance::hash;
use crate::discovery::uses::Uses;
use crate::rotation::Rotation;

/// What a pod is a part of, in the words of Istio's telemetry. It proves nothing: who somebody is, their certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Workload {
    /// Of the Deployment or the like.
    pub(crate) name: Box<str>,
    pub(crate) namespace: Box<str>,
    /// Of the app, by its labels.
    pub(crate) app: Box<str>,
    /// Of the app, by its labels; `latest` where they say nothing.
    pub(crate) revision: Box<str>,
}

/// One address of a service.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Unique for the life of the process.
    pub(crate) id: u64,
    /// Where the service listens.
    pub(crate) address: SocketAddr,
    /// The proxy to dial instead of `address` where nothing redirects.
    pub(crate) inbound: Option<SocketAddr>,
    /// What the endpoint must prove to be; `None` means that it is outside the mesh.
    pub(crate) identity: Option<SpiffeId>,
    /// What runs there, as discovery has told; for telemetry alone.
    pub(crate) workload: Option<Arc<Workload>>,
    /// Its place among hashes: of the address, so that all proxies agree on it.
    pub(crate) point: u64,
    first_seen: Instant,
    latency: Estimate,
    pending: AtomicU32,
    /// Nanoseconds after `first_seen` at which it was last taken out, and until when; zero means never.
    away_since: AtomicU64,
    away_until: AtomicU64,
    retired: AtomicBool,
    /// Connections to it, of all workers.
    pub(crate) uses: Uses,
    /// What its answers say of it.
    pub(crate) breaker: breaker::State,
}

impl Endpoint {
    pub(crate) fn new(
        address: SocketAddr,
        inbound: Option<SocketAddr>,
        identity: Option<SpiffeId>,
        now: Instant,
    ) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address,
            inbound,
            identity,
            workload: None,
            point: hash::of(address.to_string().as_bytes()),
            first_seen: now,
            latency: Estimate::default(),
            pending: AtomicU32::new(0),
            away_since: AtomicU64::new(0),
            away_until: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            uses: Uses::default(),
            breaker: breaker::State::default(),
        }
    }

    /// The same with what runs there.
    pub(crate) fn running(self, workload: Option<Arc<Workload>>) -> Self {
        Self { workload, ..self }
    }

    /// The address to connect to.
    pub(crate) fn dial(&self) -> SocketAddr {
        self.inbound.unwrap_or(self.address)
    }

    /// Leaves the endpoint out of new picks for `away`, because it drains or could not be reached.
    ///
    /// A longer absence that was asked for before stands.
    pub(crate) fn take_out(&self, now: Instant, away: Duration) {
        let since = self.age_nanos(now);
        self.away_since.store(since, Ordering::Relaxed);
        self.away_until
            .fetch_max(since.saturating_add(nanos(away)), Ordering::Relaxed);
    }

    /// Whether it may be picked at `now`.
    pub(crate) fn is_available(&self, now: Instant) -> bool {
        self.age_nanos(now) >= self.away_until.load(Ordering::Relaxed)
    }

    /// Whether discovery no longer names it: no new use, pooled connections to it can go.
    pub(crate) fn retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Requests and connections that run on it now.
    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// How long it is expected to take, `None` while nothing was measured.
    pub(crate) fn latency(&self, now: Instant) -> Option<Duration> {
        self.latency.read(self.age(now))
    }

    /// When it was last taken out.
    pub(crate) fn taken_out_at(&self) -> Instant {
        self.first_seen + Duration::from_nanos(self.away_since.load(Ordering::Relaxed))
    }

    pub(crate) fn observe(&self, now: Instant, rtt: Duration) {
        self.latency.observe(self.age(now), rtt);
    }

    pub(crate) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    pub(in crate::discovery) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// How long it is known.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.first_seen)
    }

    fn age_nanos(&self, now: Instant) -> u64 {
        nanos(self.age(now))
    }
}

/// The endpoints of a service at one moment, in tiers: a tier is used when those before it have nobody to offer.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    tiers: Vec<Tier>,
}

impl Endpoints {
    /// Groups `members` by `priority`, the lowest first, as SRV does (RFC 2782).
    pub(crate) fn new(mut members: Vec<Member>) -> Self {
        members.sort_by_key(|member| member.priority);
        let tiers = members
            .chunk_by(|a, b| a.priority == b.priority)
            .map(|tier| Tier::new(tier.to_vec()));
        Self {
            tiers: tiers.collect(),
        }
    }

    pub(crate) fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// All endpoints, those to be preferred first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.tiers.iter().flat_map(|tier| tier.members.iter())
    }

    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }
}

/// An endpoint's part in a service.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Share relative to the others of the tier; 0 gets nothing.
    pub(crate) weight: u32,
    /// Lower is preferred.
    pub(crate) priority: u32,
    /// Where it runs, if that is known.
    pub(crate) zone: Option<Arc<str>>,
    /// Of our own zone, or nothing is known of zones.
    pub(crate) near: bool,
}

/// Endpoints of equal priority, ready for a draw by weight.
#[derive(Debug, Default)]
pub(crate) struct Tier {
    members: Vec<Member>,
    /// Running sum of the weights; its last entry is the total.
    sums: Vec<u64>,
    even: bool,
    zones: Option<Box<Zones>>,
    /// Made when it is first asked for.
    rotation: OnceLock<Rotation>,
}

/// The endpoints of a tier, by nearness.
#[derive(Debug)]
pub(crate) struct Zones {
    /// Of our own zone; may be empty.
    pub(crate) near: Tier,
    /// The others, at least one.
    pub(crate) far: Tier,
}

impl Tier {
    fn new(members: Vec<Member>) -> Self {
        let mut total = 0;
        let running = |member: &Member| {
            total += u64::from(member.weight);
            total
        };
        let sums = members.iter().map(running).collect();
        let even = members.windows(2).all(|pair| match pair {
            [one, other] => one.weight == other.weight,
            _ => true,
        });
        Self {
            zones: Zones::new(&members).map(Box::new),
            members,
            sums,
            even,
            rotation: OnceLock::new(),
        }
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member that `at`, a number below [`Tier::total`], falls on.
    pub(crate) fn drawn(&self, at: u64) -> Option<&Member> {
        self.members
            .get(self.sums.partition_point(|sum| *sum <= at))
    }

    pub(crate) fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    /// Whether all weights are the same.
    pub(crate) fn even(&self) -> bool {
        self.even
    }

    /// `None` where all are near.
    pub(crate) fn zones(&self) -> Option<&Zones> {
        self.zones.as_deref()
    }

    /// The order in which members take turns.
    pub(crate) fn rotation(&self) -> &Rotation {
        self.rotation.get_or_init(|| {
            let weights: Vec<u32> = self.members.iter().map(|member| member.weight).collect();
            Rotation::new(&weights)
        })
    }
}

impl Zones {
    fn new(members: &[Member]) -> Option<Self> {
        let (near, far): (Vec<_>, Vec<_>) = members.iter().cloned().partition(|one| one.near);
        // Parts are all near or all far in themselves, and are not divided further.
        let divided = |members: Vec<Member>| {
            let alike = members.into_iter().map(|one| Member { near: true, ..one });
            Tier::new(alike.collect())
        };
        (!far.is_empty()).then(|| Self {
            near: divided(near),
            far: divided(far),
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
