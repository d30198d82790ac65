//! What the suppliers of state count themselves, asked for when metrics are read.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::time::Instant;
use weft_certs::identity::Identity;

use super::collect::{Metrics, as_f64};
use super::table::{
    BREAKER_STATES, DISCOVERY_AGE, DISCOVERY_CONNECTED, DISCOVERY_UPDATES, DNS_LOOKUPS, DNS_NAMES,
    ENDPOINTS, IDENTITY_EXPIRY, IDENTITY_ISSUER, IDENTITY_RENEWALS, IDENTITY_ROOTS,
    SERVICES_UPDATES,
};
use crate::balance::breaker::Position;
use crate::discovery::Discovery;
use crate::discovery::counts::DiscoveryMetrics;
use crate::discovery::service::Service;
use crate::identity::Identities;

/// Whether there is a control plane to be connected to; without one, being alone is no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controlled {
    Yes,
    No,
}

impl Metrics {
    /// Shows what `discovery` and `identities` count.
    pub(crate) fn watch(
        &self,
        discovery: &Discovery,
        identities: &Identities,
        controlled: Controlled,
    ) {
        let read = |count: fn(&DiscoveryMetrics) -> u64| {
            let discovery = discovery.clone();
            move || as_f64(count(discovery.metrics()))
        };
        self.read_from(
            SERVICES_UPDATES.at(&["ok"]),
            read(DiscoveryMetrics::file_updates),
        );
        self.read_from(
            SERVICES_UPDATES.at(&["refused"]),
            read(DiscoveryMetrics::rejected_updates),
        );
        self.read_from(
            DISCOVERY_UPDATES.at(&["ok"]),
            read(DiscoveryMetrics::mesh_updates),
        );
        self.read_from(
            DISCOVERY_UPDATES.at(&["refused"]),
            read(DiscoveryMetrics::mesh_rejected),
        );
        if controlled == Controlled::Yes {
            self.read_from(
                DISCOVERY_CONNECTED.at(&[]),
                read(DiscoveryMetrics::mesh_connected),
            );
            self.read_from(
                DISCOVERY_AGE.at(&[]),
                read(DiscoveryMetrics::mesh_age_seconds),
            );
        }
        let endpoints = |available: bool| {
            let discovery = discovery.clone();
            move || as_f64(endpoints(&discovery, available))
        };
        self.read_from(ENDPOINTS.at(&["available"]), endpoints(true));
        self.read_from(ENDPOINTS.at(&["taken_out"]), endpoints(false));
        for state in Position::ALL {
            let discovery = discovery.clone();
            self.read_from(BREAKER_STATES.at(&[state.as_str()]), move || {
                as_f64(breakers(&discovery, state))
            });
        }
        self.read_from(
            DNS_LOOKUPS.at(&["failed"]),
            read(DiscoveryMetrics::dns_failures),
        );
        self.read_from(DNS_LOOKUPS.at(&["ok"]), read(answered));
        self.read_from(DNS_NAMES.at(&[]), read(DiscoveryMetrics::resolved_names));
        let read = |count: fn(&Identities) -> u64| {
            let identities = identities.clone();
            move || as_f64(count(&identities))
        };
        self.read_from(IDENTITY_EXPIRY.at(&[]), read(expiry));
        self.read_from(IDENTITY_RENEWALS.at(&["ok"]), read(Identities::renewals));
        self.read_from(
            IDENTITY_RENEWALS.at(&["failed"]),
            read(Identities::failures),
        );
        let names = |read: fn(&Identity) -> Vec<String>| {
            let identities = identities.clone();
            move || {
                identities
                    .current()
                    .map_or_else(Vec::new, |identity| read(&identity))
            }
        };
        self.name_from(&IDENTITY_ROOTS, names(Identity::root_fingerprints));
        let issuer = |identity: &Identity| identity.issuer_fingerprint().into_iter().collect();
        self.name_from(&IDENTITY_ISSUER, names(issuer));
    }
}

/// Endpoints of the services we know, that may be called or are taken out for a while.
fn endpoints(discovery: &Discovery, available: bool) -> u64 {
    let now = Instant::now();
    let count = |service: &Arc<Service>| {
        let members = service.endpoints();
        let counted = members
            .iter()
            .filter(|member| member.endpoint.is_available(now) == available);
        counted.count() as u64
    };
    discovery.services().iter().map(count).sum()
}

/// Breakers of the endpoints of the services we know, that are in this state.
fn breakers(discovery: &Discovery, state: Position) -> u64 {
    let count = |service: &Arc<Service>| {
        let members = service.endpoints();
        let counted = members
            .iter()
            .filter(|member| member.endpoint.breaker.position() == state);
        counted.count() as u64
    };
    discovery.services().iter().map(count).sum()
}

fn answered(metrics: &DiscoveryMetrics) -> u64 {
    // A lookup may end between the two readings.
    metrics.dns_lookups().saturating_sub(metrics.dns_failures())
}

/// Unix time, 0 without an identity.
fn expiry(identities: &Identities) -> u64 {
    let expiry = identities
        .current()
        .map_or(UNIX_EPOCH, |identity| identity.leaf.not_after());
    expiry
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
