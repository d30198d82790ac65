//! How one service is called: the operator's words, and what is counted along the way.

use std::sync::Arc;

use tokio::time::{Duration, Instant};
use weft_policy::Calls;
use weft_policy::route::{Route, ServiceRef};

use crate::retry::budget::Budget;
use crate::retry::exhausted::Exhausted;
use crate::route::Table;
use crate::route::fallback::Fallback;

/// How one service is called, ready to run.
pub(crate) struct CallPolicy {
    /// As the operator wrote it.
    pub(crate) calls: Calls,
    /// The sooner of `timeout.try` and `retry.try-timeout`.
    pub(crate) try_limit: Option<Duration>,
    /// Retries as a share of requests.
    pub(crate) budget: Arc<Budget>,
    /// What is answered in its place.
    pub(crate) fallback: Option<Box<Fallback>>,
    /// Its routes; `None` without any.
    pub(crate) routes: Option<Table>,
}

/// What outlives a change of policy, by service.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) exhausted: Exhausted,
    budgets: parking_lot::Mutex<std::collections::HashMap<Option<ServiceRef>, Arc<Budget>>>,
}

impl Kept {
    /// Retries that were not made because a budget was spent.
    pub(crate) fn budget_refusals(&self) -> u64 {
        let budgets = self.budgets.lock();
        budgets.values().map(|budget| budget.refused()).sum()
    }
}

impl CallPolicy {
    /// Makes `calls` ready; `namespace` is our own.
    pub(crate) fn new(
        calls: Calls,
        service: Option<&ServiceRef>,
        namespace: &str,
        kept: &Kept,
    ) -> Self {
        let mut budgets = kept.budgets.lock();
        let budget = budgets
            .entry(service.cloned())
            .or_insert_with(|| Arc::new(Budget::new(Instant::now())));
        let mut policy = Self {
            try_limit: try_limit(&calls),
            fallback: fallback(&calls),
            calls,
            budget: Arc::clone(budget),
            routes: None,
        };
        policy.routes = Table::new(&policy, namespace);
        policy
    }

    /// The same for the requests of `route`, whose own words lie over the service's. What is counted is counted together.
    pub(crate) fn under(&self, route: &Route) -> Self {
        let own = &self.calls;
        let calls = Calls {
            timeout: route.timeout.unwrap_or(own.timeout),
            retry: route.retry.clone().unwrap_or_else(|| own.retry.clone()),
            fallback: route.fallback.clone().or_else(|| own.fallback.clone()),
            breaker: own.breaker,
            balance: own.balance.clone(),
            pool: own.pool,
            routes: Vec::new(),
        };
        Self {
            try_limit: try_limit(&calls),
            fallback: fallback(&calls),
            calls,
            budget: Arc::clone(&self.budget),
            routes: None,
        }
    }
}

fn try_limit(calls: &Calls) -> Option<Duration> {
    let limits = [calls.timeout.per_try, calls.retry.try_timeout];
    limits.into_iter().flatten().min()
}

fn fallback(calls: &Calls) -> Option<Box<Fallback>> {
    let fallback = calls.fallback.as_ref()?;
    Some(Box::new(Fallback::new(fallback)))
}
