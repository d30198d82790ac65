//! What discovery counts; `telemetry` asks for it when it is scraped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

/// What discovery counts since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct DiscoveryMetrics {
    pub(super) file_updates: AtomicU64,
    pub(super) rejected_updates: AtomicU64,
    pub(super) dns_lookups: AtomicU64,
    pub(super) dns_failures: AtomicU64,
    pub(super) resolved_names: AtomicU64,
    pub(super) mesh_updates: AtomicU64,
    pub(super) mesh_rejected: AtomicU64,
    pub(super) mesh_connected: AtomicBool,
    /// When the control plane was last heard of, or waiting for it began.
    mesh_heard: Mutex<Option<Instant>>,
}

impl DiscoveryMetrics {
    pub(super) fn count_mesh_update(&self) {
        self.mesh_updates.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_mesh_rejected(&self) {
        self.mesh_rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_mesh_connected(&self, connected: bool) {
        *self.mesh_heard.lock() = Some(Instant::now());
        self.mesh_connected.store(connected, Ordering::Relaxed);
    }

    /// How long the control plane has been away; 0 while it is connected (a gauge).
    pub(crate) fn mesh_age_seconds(&self) -> u64 {
        if self.mesh_connected.load(Ordering::Relaxed) {
            return 0;
        }
        let heard = *self.mesh_heard.lock();
        heard.map_or(0, |heard| heard.elapsed().as_secs())
    }

    /// Updates from the control plane that took effect.
    pub(crate) fn mesh_updates(&self) -> u64 {
        self.mesh_updates.load(Ordering::Relaxed)
    }

    /// Updates from the control plane that could not be read.
    pub(crate) fn mesh_rejected(&self) -> u64 {
        self.mesh_rejected.load(Ordering::Relaxed)
    }

    /// 1 while the control plane is connected (a gauge).
    pub(crate) fn mesh_connected(&self) -> u64 {
        u64::from(self.mesh_connected.load(Ordering::Relaxed))
    }

    /// Updates of the services file that took effect.
    pub(crate) fn file_updates(&self) -> u64 {
        self.file_updates.load(Ordering::Relaxed)
    }

    /// Updates of the services file that were refused, the last good one being kept.
    pub(crate) fn rejected_updates(&self) -> u64 {
        self.rejected_updates.load(Ordering::Relaxed)
    }

    /// Lookups of a name in DNS, refreshes included.
    pub(crate) fn dns_lookups(&self) -> u64 {
        self.dns_lookups.load(Ordering::Relaxed)
    }

    /// Lookups that got no answer; "does not exist" is one.
    pub(crate) fn dns_failures(&self) -> u64 {
        self.dns_failures.load(Ordering::Relaxed)
    }

    /// Names that are held from DNS now (a gauge).
    pub(crate) fn resolved_names(&self) -> u64 {
        self.resolved_names.load(Ordering::Relaxed)
    }
}
