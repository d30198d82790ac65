//! Readiness as guards: whoever the proxy waits for holds one, and drops it when it is there. No call can be forgotten.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::info;

/// What the proxy still waits for before it can serve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    awaited: Arc<Mutex<Vec<&'static str>>>,
}

/// Keeps the proxy from being ready while it lives.
#[derive(Debug)]
pub(crate) struct Awaited {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Waits for `name`.
    pub(crate) fn wait_for(&self, name: &'static str) -> Awaited {
        self.awaited.lock().push(name);
        Awaited {
            name,
            readiness: self.clone(),
        }
    }

    /// What is still awaited; nothing means ready.
    pub(crate) fn awaited(&self) -> Vec<&'static str> {
        self.awaited.lock().clone()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut awaited = self.readiness.awaited.lock();
        if let Some(at) = awaited.iter().position(|name| *name == self.name) {
            awaited.swap_remove(at);
        }
        if awaited.is_empty() {
            info!(last = self.name, "proxy is ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_nothing_is_awaited() {
        let readiness = Readiness::default();
        let (identity, discovery) = (
            readiness.wait_for("identity"),
            readiness.wait_for("discovery"),
        );
        drop(identity);
        assert_eq!(readiness.awaited(), ["discovery"]);
        drop(discovery);
        assert!(readiness.awaited().is_empty());
    }
}
