//! How one service is called: the operator's words, and what is counted along the way.

use std::sync::Arc;

use tokio::time::Instant;
use weft_policy::Calls;
use weft_policy::route::ServiceRef;

use crate::retry::budget::Budget;

/// How one service is called, ready to run.
pub(crate) struct CallPolicy {
    /// As the operator wrote it.
    pub(crate) calls: Calls,
    /// Retries as a share of requests.
    pub(crate) budget: Arc<Budget>,
}

/// What outlives a change of policy, by service.
#[derive(Default)]
pub(crate) struct Kept {
    budgets: parking_lot::Mutex<std::collections::HashMap<Option<ServiceRef>, Arc<Budget>>>,
}

impl CallPolicy {
    pub(crate) fn new(calls: Calls, service: Option<&ServiceRef>, kept: &Kept) -> Self {
        let mut budgets = kept.budgets.lock();
        let budget = budgets
            .entry(service.cloned())
            .or_insert_with(|| Arc::new(Budget::new(Instant::now())));
        Self {
            calls,
            budget: Arc::clone(budget),
        }
    }
}
