//! Every metric of our own: one row each. Labels are enums and fixed words, never what a client sent.

use std::hash::RandomState;

use super::cell::{Key, hash_of};

/// What a metric is called and means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

/// How its value may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(crate) static $id: Metric = Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// All of them.
        pub(crate) static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    INBOUND_OPEN: Gauge "weft_inbound_connections_open" ["security"] "Connections to our app that are open now.";
    INBOUND_ACCEPTED: Counter "weft_inbound_connections_accepted_total" ["security"] "Connections to our app that were accepted.";
    OUTBOUND_OPEN: Gauge "weft_outbound_connections_open" ["security"] "Connections of our app that are open now.";
    OUTBOUND_ACCEPTED: Counter "weft_outbound_connections_accepted_total" ["security"] "Connections of our app that were accepted.";
    PLAINTEXT: Counter "weft_plaintext_connections_total" [] "Inbound connections served without mutual TLS.";
    HANDSHAKES: Counter "weft_tls_handshakes_total" ["direction", "result", "reason"] "Mesh TLS handshakes, by how they ended.";
    REJECTS: Counter "weft_rejects_total" ["direction", "reason"] "Requests and connections that this proxy answered or closed itself.";
    MALFORMED: Counter "weft_malformed_total" ["reason"] "Messages that were refused or repaired because readers could disagree on them.";
    RATE_LIMIT: Counter "weft_rate_limit_total" ["limit", "result"] "Decisions of rate limits.";
    IN_FLIGHT: Gauge "weft_concurrency_in_flight" [] "Requests that hold a place under the policy's concurrency limit.";
    CONCURRENCY: Gauge "weft_concurrency_limit" [] "Places under the policy's concurrency limit; 0 without one.";
    FAULTS: Counter "weft_faults_total" ["kind"] "Faults that policy asked for.";
    AUTHZ_AUDIT: Counter "weft_authz_audit_total" ["reason"] "Requests and connections that the rules would have refused, but authz.mode is audit.";
    JWT_KEYS: Counter "weft_jwt_key_reads_total" ["result"] "Readings of token issuers' keys, from files and URLs.";
    BREAKERS: Counter "weft_breaker_changes_total" ["to"] "Circuit breakers of endpoints that opened or closed.";
    BREAKER_STATES: Gauge "weft_breakers" ["state"] "Circuit breakers of the endpoints that we know, by state.";
    RETRIES: Counter "weft_retries_total" ["reason"] "Further attempts at a request.";
    BUDGET_SPENT: Counter "weft_retry_budget_spent_total" [] "Retries that were not made because the budget of their service was spent.";
    MIRRORED: Counter "weft_mirrored_total" ["result"] "Copies of requests that routes asked for, by what became of them.";
    POOL: Gauge "weft_pool_connections" ["state"] "Upstream connections that are open, and of these HTTP/1 ones that are idle.";
    IDENTITY_EXPIRY: Gauge "weft_identity_expiry_seconds" [] "Unix time at which our leaf expires; 0 without one.";
    IDENTITY_RENEWALS: Counter "weft_identity_renewals_total" ["result"] "Attempts to renew our leaf.";
    IDENTITY_ISSUER: Gauge "weft_identity_issuer_info" ["fingerprint"] "1, with the SHA-256 of the root that our leaf chains to.";
    IDENTITY_ROOTS: Gauge "weft_identity_root_info" ["fingerprint"] "1 for each root that we trust, with its SHA-256.";
    POLICY_VERSION: Gauge "weft_policy_version" [] "Which change of policy is in force, counted from 1 at the start.";
    POLICY_REJECTED: Counter "weft_policy_rejected_total" [] "Changes of policy that were refused.";
    SERVICES_UPDATES: Counter "weft_services_updates_total" ["result"] "Updates of the services file.";
    DISCOVERY_UPDATES: Counter "weft_discovery_updates_total" ["result"] "Updates from the control plane.";
    DISCOVERY_CONNECTED: Gauge "weft_discovery_connected" [] "1 while the control plane is connected.";
    DISCOVERY_AGE: Gauge "weft_discovery_age_seconds" [] "How long the control plane has been away; 0 while it is connected.";
    ENDPOINTS: Gauge "weft_endpoints" ["state"] "Endpoints of the services that we know, by whether they may be called.";
    DNS_LOOKUPS: Counter "weft_dns_lookups_total" ["result"] "Names that were looked up in DNS.";
    DNS_NAMES: Gauge "weft_dns_names" [] "Names that are held from DNS.";
    TRACE_BROKEN: Counter "weft_trace_broken_total" [] "Calls of our app that began a trace while it served requests with one.";
    SPANS_QUEUED: Gauge "weft_trace_queue_entries" [] "Sampled requests whose spans wait to be sent.";
    SPANS_DROPPED: Counter "weft_trace_spans_dropped_total" ["reason"] "Sampled spans that never reached the collector.";
    SPANS_EXPORTED: Counter "weft_trace_spans_exported_total" [] "Spans that the collector has taken.";
    LOG_DROPPED: Counter "weft_access_log_dropped_total" [] "Lines of the access log that were lost because it is read too slowly.";
    BUILD: Gauge "weft_build_info" ["version"] "1, with the version of this proxy.";
    MEMORY: Gauge "process_resident_memory_bytes" [] "Resident memory size.";
    MEMORY_LIMIT: Gauge "weft_memory_limit_bytes" [] "What the memory of this container, or of the machine, is limited to.";
    CPU: Counter "process_cpu_seconds_total" [] "User and system CPU time spent.";
    FILES: Gauge "process_open_fds" [] "Open file descriptors.";
    FILES_LIMIT: Gauge "process_max_fds" [] "Largest number of open file descriptors.";
    STARTED: Gauge "process_start_time_seconds" [] "Start of the process, as Unix time.";
}

/// The most labels a row has.
const MAX_LABELS: usize = 3;

/// One series of a row: its label values in the order of [`Metric::labels`], empty ones behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) metric: &'static Metric,
    pub(crate) values: [&'static str; MAX_LABELS],
}

impl Metric {
    /// The series with these label values.
    pub(crate) fn at(&'static self, values: &[&'static str]) -> Point {
        let mut all = [""; MAX_LABELS];
        for (place, value) in all.iter_mut().zip(values) {
            *place = value;
        }
        Point {
            metric: self,
            values: all,
        }
    }
}

impl PartialEq for Point {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.metric, other.metric) && self.values == other.values
    }
}

impl Eq for Point {}

impl std::hash::Hash for Point {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::ptr::hash(self.metric, state);
        self.values.hash(state);
    }
}

impl Key for Point {
    type Owned = Self;

    fn quick_hash(&self, state: &RandomState) -> u64 {
        hash_of(state, self)
    }

    fn is(&self, owned: &Self) -> bool {
        self == owned
    }

    fn to_owned_key(&self) -> Self {
        *self
    }

    fn overflow(&self) -> Self {
        self.metric.at(&["overflow"; MAX_LABELS])
    }
}
