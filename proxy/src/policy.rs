//! Supplies the policy of this proxy: what its operator asks for, merged and made ready to run.
//!
//! A request takes one snapshot and is judged by it to its end. What must outlive a change (limiters, budgets, key caches)
//! is kept in [`Kept`] and found again by the next snapshot.

pub(crate) mod calls;
pub(crate) mod files;
pub(crate) mod mesh;
pub(crate) mod named;
pub(crate) mod ports;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::{info, warn};
use weft_policy::layer::{Effective, Layer, LayerKind, Value};
use weft_policy::problem::Problem;
use weft_policy::route::ServiceRef;
use weft_policy::scope::Scope;
use weft_policy::{Calls, Policy};

use self::calls::CallPolicy;
use self::files::Layers;
use self::mesh::{Mesh, Told};
use self::named::Named;
use self::ports::Declared;
use crate::cx::Cx;
use crate::discovery::service::ServiceName;
use crate::filter;
use crate::filter::authn::keys::KeyStore;
use crate::filter::limits::Place;
use crate::reject::Reject;
use crate::retry::exhausted::Exhausted;
use crate::telemetry::metrics::collect::{Metrics, as_f64};
use crate::telemetry::metrics::table::{
    BUDGET_SPENT, CONCURRENCY, IN_FLIGHT, JWT_KEYS, POLICY_REJECTED, POLICY_VERSION,
};

/// The policy in force; clones share it.
#[derive(Clone)]
pub(crate) struct Policies(Arc<Shared>);

struct Shared {
    active: ArcSwap<Active>,
    kept: Kept,
    scope: Scope,
    /// What each source says now, whether or not it acts. Of the control thread alone.
    said: Mutex<Said>,
    /// Why the newest change was refused; empty when it was not.
    problems: ArcSwap<Vec<String>>,
    rejected: AtomicU64,
    /// Who wants to know of each policy that comes into force.
    listeners: Mutex<Vec<Listener>>,
}

type Listener = Box<dyn Fn(&Policy) + Send + Sync>;

/// Where layers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The policy file and the pod's annotations.
    Files,
}

/// What each source says.
#[derive(Default)]
struct Said {
    files: Layers,
    mesh: Mesh,
}

/// One policy, ready to run.
pub(crate) struct Active {
    /// Which change of policy this is, counted from 1.
    pub(crate) version: u64,
    /// All layers merged.
    pub(crate) policy: Policy,
    /// Every value that is not its default, and who said it.
    pub(crate) values: Vec<Value>,
    /// How the services that we call ask to be called, and who said it: `orders.shop: timeout.request`.
    pub(crate) asked: Vec<Value>,
    /// What a layer says that must not act.
    pub(crate) overruled: Vec<Problem>,
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

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies")
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl Policies {
    /// Begins with what the `files` say of the workload that `scope` is.
    ///
    /// # Errors
    /// All that is wrong with them as a whole.
    pub(crate) fn new(scope: Scope, files: impl Into<Layers>) -> Result<Self, Vec<Problem>> {
        let said = Said {
            files: files.into(),
            mesh: Mesh::default(),
        };
        let kept = Kept::default();
        let active = Active::new(said.merged(&scope)?, 1, &scope.namespace, &kept);
        Ok(Self(Arc::new(Shared {
            active: ArcSwap::from_pointee(active),
            kept,
            scope,
            said: Mutex::new(said),
            problems: ArcSwap::default(),
            rejected: AtomicU64::new(0),
            listeners: Mutex::default(),
        })))
    }

    /// Calls `listener` with the policy in force, and with each that comes after it.
    pub(crate) fn on_change(&self, listener: impl Fn(&Policy) + Send + Sync + 'static) {
        let mut listeners = self.0.listeners.lock();
        listener(&self.current().policy);
        listeners.push(Box::new(listener));
    }

    /// The snapshot to judge a request by.
    pub(crate) fn current(&self) -> Arc<Active> {
        self.0.active.load_full()
    }

    /// The traces in which calls were tried until no more was allowed.
    pub(crate) fn exhausted(&self) -> &Exhausted {
        &self.0.kept.calls.exhausted
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
        let policies = |count: fn(&Self) -> u64| {
            let policies = self.clone();
            move || as_f64(count(&policies))
        };
        metrics.read_from(POLICY_VERSION.at(&[]), policies(Self::version));
        metrics.read_from(
            BUDGET_SPENT.at(&[]),
            policies(|own| own.0.kept.calls.budget_refusals()),
        );
        metrics.read_from(POLICY_REJECTED.at(&[]), policies(Self::rejected));
    }

    /// The keys of token issuers, to be read on the control thread.
    pub(crate) fn token_keys(&self) -> KeyStore {
        self.0.kept.filters.keys.clone()
    }

    /// Takes what `source` says now; the next request is judged by it. If the whole is not right, the last good policy stays.
    pub(crate) fn take(&self, source: Source, layers: impl Into<Layers>) {
        let shared = &self.0;
        let mut said = shared.said.lock();
        match source {
            Source::Files => said.files = layers.into(),
        }
        self.merge(&said);
    }

    /// Takes what the control plane says now.
    pub(crate) fn take_told(&self, told: Told) {
        let shared = &self.0;
        let mut said = shared.said.lock();
        let Some(problems) = said.mesh.take(told, &shared.scope) else {
            return;
        };
        self.merge(&said);
        if !problems.is_empty() {
            self.refuse(problems);
        }
    }

    fn merge(&self, said: &Said) {
        match said.merged(&self.0.scope) {
            Ok(effective) => self.act(effective),
            Err(problems) => self.refuse(problems.iter().map(Problem::to_string).collect()),
        }
    }

    fn act(&self, effective: Merged) {
        let shared = &self.0;
        let version = self.version() + 1;
        let next = Active::new(effective, version, &shared.scope.namespace, &shared.kept);
        for listener in &*shared.listeners.lock() {
            listener(&next.policy);
        }
        info!(version, "policy changed");
        shared.active.store(Arc::new(next));
        shared.problems.store(Arc::default());
    }

    /// Keeps the policy, and tells why a change of it was refused: once, until something else is wrong.
    pub(crate) fn refuse(&self, problems: Vec<String>) {
        if *self.0.problems.load_full() == problems {
            return;
        }
        self.0.rejected.fetch_add(1, Ordering::Relaxed);
        warn!(?problems, "policy refused, the last good one stays");
        self.0.problems.store(Arc::new(problems));
    }

    /// What is wrong: why the newest change was refused, or what of it must not act.
    pub(crate) fn problems(&self) -> Vec<String> {
        let active = self.0.active.load();
        let overruled = active.overruled.iter().map(Problem::to_string);
        self.0
            .problems
            .load()
            .iter()
            .cloned()
            .chain(overruled)
            .collect()
    }

    /// How many changes were refused.
    fn rejected(&self) -> u64 {
        self.0.rejected.load(Ordering::Relaxed)
    }

    /// Which change of policy is in force, counted from 1.
    fn version(&self) -> u64 {
        self.0.active.load().version
    }
}

/// All layers of all sources.
struct Merged {
    effective: Effective,
    /// How services are called.
    to: BTreeMap<ServiceRef, Calls>,
    /// What they ask for, and who said it.
    asked: Vec<Value>,
}

impl Said {
    fn merged(&self, scope: &Scope) -> Result<Merged, Vec<Problem>> {
        let under = self.mesh.under.as_ref().unwrap_or(&self.files.lower);
        let layers = under.iter().chain(&self.files.own);
        let layers: Vec<Layer> = layers.cloned().collect();
        let effective = Effective::merge(&layers, scope)?;
        let (to, asked) = self.mesh.calls(&effective.policy, &layers, scope);
        Ok(Merged {
            effective,
            to,
            asked,
        })
    }
}

impl Active {
    fn new(merged: Merged, version: u64, namespace: &str, kept: &Kept) -> Self {
        let Merged {
            effective,
            to,
            asked,
        } = merged;
        let Effective {
            policy,
            values,
            problems: overruled,
        } = effective;
        let inbound = filter::Inbound::new(&policy, &kept.filters);
        let default = Calls::default();
        Self {
            version,
            values,
            asked,
            overruled,
            inbound,
            default: CallPolicy::new(default, None, namespace, &kept.calls),
            to: Named::new(&to, namespace, &kept.calls),
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

    /// Which layer says what is written under `key`, here or for a service under `to`, and which object that is.
    pub(crate) fn said_by(&self, key: &str) -> Option<(LayerKind, &str)> {
        let is_under = |path: &str, key: &str| {
            let rest = path.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let is_meant = |value: &&Value| {
            let path = value.path.as_str();
            let under_to = path.strip_prefix("to.");
            let called = under_to.is_some_and(|path| {
                let inner = path.match_indices('.');
                let mut inner = inner.filter_map(|(at, _)| path.get(at + 1..));
                inner.any(|path| is_under(path, key))
            });
            is_under(path, key) || called
        };
        let value = self.values.iter().find(is_meant)?;
        Some((value.layer, &value.object))
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

#[cfg(test)]
mod tests;
