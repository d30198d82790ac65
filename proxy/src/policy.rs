//! Supplies the policy of this proxy: what its operator asks for, merged and made ready to run.
//!
//! A request takes one snapshot and is judged by it to its end. What must outlive a change (limiters, budgets, key caches)
//! is kept in [`Kept`] and found again by the next snapshot.

pub(crate) mod calls;
pub(crate) mod named;
pub(crate) mod ports;

use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_policy::Policy;

use self::calls::CallPolicy;
use self::named::Named;
use self::ports::Declared;
use crate::cx::Cx;
use crate::discovery::ServiceName;
use crate::filter;
use crate::filter::authn::keys::KeyStore;
use crate::filter::limits::Place;
use crate::reject::Reject;
use crate::telemetry::metrics::collect::{Metrics, as_f64};
use crate::telemetry::metrics::table::{CONCURRENCY, IN_FLIGHT, JWT_KEYS};

/// The policy in force; clones share it.
#[derive(Clone)]
pub(crate) struct Policies(Arc<Shared>);

struct Shared {
    active: ArcSwap<Active>,
    kept: Kept,
}

/// One policy, ready to run.
pub(crate) struct Active {
    /// As the operator wrote it.
    pub(crate) policy: Policy,
    /// The filters of what comes in; `None` where policy asks for none.
    pub(crate) inbound: Option<filter::Inbound>,
    /// How services are called that the operator said nothing about.
    default: CallPolicy,
    to: Named,
}

/// What outlives a change of policy; each part says what it is found by.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) filters: filter::Kept,
    pub(crate) calls: calls::Kept,
}

impl Policies {
    /// Begins with `policy`; `namespace` is that of services without one.
    pub(crate) fn new(policy: Policy, namespace: &str) -> Self {
        let kept = Kept::default();
        let active = Active::new(policy, namespace, &kept);
        Self(Arc::new(Shared {
            active: ArcSwap::from_pointee(active),
            kept,
        }))
    }

    /// The snapshot to judge a request by.
    pub(crate) fn current(&self) -> Arc<Active> {
        self.0.active.load_full()
    }

    /// A place for one more inbound connection, if policy has any left.
    pub(crate) fn inbound_place(&self) -> Option<Place> {
        let max = self.current().policy.inbound.limits.connections;
        self.0.kept.filters.connections.enter(max)
    }

    /// Shows what the filters hold.
    pub(crate) fn watch(&self, metrics: &Metrics) {
        let read = |value: fn(&Shared) -> u32| {
            let shared = Arc::clone(&self.0);
            move || f64::from(value(&shared))
        };
        metrics.read_from(
            IN_FLIGHT.at(&[]),
            read(|shared| shared.kept.filters.gate.in_flight()),
        );
        let keys = self.token_keys();
        let reads = |count: fn(&KeyStore) -> u64| {
            let keys = keys.clone();
            move || as_f64(count(&keys))
        };
        metrics.read_from(JWT_KEYS.at(&["ok"]), reads(KeyStore::good_readings));
        metrics.read_from(JWT_KEYS.at(&["failed"]), reads(KeyStore::failed_readings));
        metrics.read_from(
            CONCURRENCY.at(&[]),
            read(|shared| shared.active.load().concurrency_limit()),
        );
    }

    /// The keys of token issuers, to be read on the control thread.
    pub(crate) fn token_keys(&self) -> KeyStore {
        self.0.kept.filters.keys.clone()
    }

    /// Replaces the policy; the next request is judged by it.
    #[expect(dead_code, reason = "the policy files will call it")]
    pub(crate) fn replace(&self, policy: Policy, namespace: &str) {
        let next = Active::new(policy, namespace, &self.0.kept);
        self.0.active.store(Arc::new(next));
    }
}

impl Active {
    fn new(policy: Policy, namespace: &str, kept: &Kept) -> Self {
        let inbound = filter::Inbound::new(&policy, &kept.filters);
        let default = weft_policy::Calls::default();
        Self {
            inbound,
            default: CallPolicy::new(default, None, namespace, &kept.calls),
            to: Named::new(&policy.to, namespace, &kept.calls),
            policy,
        }
    }

    /// Whether a connection of opaque bytes may reach our app, on a port of which `declared` is known.
    ///
    /// # Errors
    /// It must be closed.
    pub(crate) fn opaque(&self, cx: &Cx, declared: Option<Declared>) -> Result<(), Reject> {
        let filters = self.inbound.as_ref();
        filters.map_or(Ok(()), |filters| filters.opaque(cx, declared))
    }

    /// How many requests may be in flight now; 0 without a limit.
    fn concurrency_limit(&self) -> u32 {
        self.inbound
            .as_ref()
            .map_or(0, filter::Inbound::concurrency_limit)
    }

    /// How is called what has no name: our own app, and addresses outside the mesh.
    pub(crate) fn unnamed_calls(&self) -> &CallPolicy {
        &self.default
    }

    /// How `service` is to be called.
    pub(crate) fn calls(&self, service: &ServiceName) -> &CallPolicy {
        self.to.get(service).unwrap_or(&self.default)
    }
}
