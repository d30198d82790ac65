//! Supplies the policy of this proxy: what its operator asks for, merged and made ready to run.
//!
//! A request takes one snapshot and is judged by it to its end. What must outlive a change (limiters, budgets, key caches)
//! is kept in [`Kept`] and found again by the next snapshot.

pub(crate) mod calls;

use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_policy::Policy;

use self::calls::CallPolicy;
use crate::discovery::ServiceName;
use crate::filter;

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
    #[expect(dead_code, reason = "explain and the parts that read it live will")]
    pub(crate) policy: Policy,
    /// The filters of what comes in; `None` where policy asks for none.
    pub(crate) inbound: Option<filter::Inbound>,
    /// How services are called that the operator said nothing about.
    default: Arc<CallPolicy>,
    to: Vec<(weft_policy::route::ServiceRef, Arc<CallPolicy>)>,
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

    /// Replaces the policy; the next request is judged by it.
    #[expect(dead_code, reason = "the policy files will call it")]
    pub(crate) fn replace(&self, policy: Policy, namespace: &str) {
        let next = Active::new(policy, namespace, &self.0.kept);
        self.0.active.store(Arc::new(next));
    }
}

impl Active {
    fn new(policy: Policy, _namespace: &str, kept: &Kept) -> Self {
        let inbound = filter::Inbound::new(&policy, &kept.filters);
        let default = CallPolicy::new(weft_policy::Calls::default(), None, &kept.calls);
        let to = policy.to.iter().map(|(service, calls)| {
            let calls = CallPolicy::new(calls.clone(), Some(service), &kept.calls);
            (service.clone(), Arc::new(calls))
        });
        Self {
            inbound,
            default: Arc::new(default),
            to: to.collect(),
            policy,
        }
    }

    /// How is called what has no name: our own app, and addresses outside the mesh.
    pub(crate) fn unnamed_calls(&self) -> &CallPolicy {
        &self.default
    }

    /// How `service` is to be called.
    pub(crate) fn calls(&self, service: &ServiceName) -> &CallPolicy {
        let own = self.to.iter().find(|(named, _)| is_named(service, named));
        own.map_or(&self.default, |(_, calls)| calls)
    }
}

fn is_named(service: &ServiceName, named: &weft_policy::route::ServiceRef) -> bool {
    let port = named.port.is_none_or(|port| port.get() == service.port);
    let namespace = named
        .namespace
        .as_deref()
        .is_none_or(|namespace| namespace == &*service.namespace);
    port && namespace && (named.name == *service.name || named.name == *service.host)
}
