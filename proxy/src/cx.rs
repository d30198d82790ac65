//! What is known before a request: of the worker, and of the connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Duration;

use crate::config::MtlsMode;
use crate::discovery::Discovery;
use crate::discovery::service::ServiceName;
use crate::drain::Drain;
use crate::filter::authn::cache::TokenCache;
use crate::filter::trace::Sampler;
use crate::http::Limits;
use crate::identity::Identities;
use crate::policy::Policies;
use crate::pool::Pool;
use crate::retry::replay::Spare;
use crate::tasks::Tasks;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::record::ConnectionFacts;
use crate::tls::accept::AcceptConfigs;

/// Everything one worker thread shares among its connections.
pub(crate) struct Worker {
    pub(crate) settings: Arc<Settings>,
    pub(crate) discovery: Discovery,
    pub(crate) identities: Identities,
    pub(crate) accept_configs: AcceptConfigs,
    pub(crate) pool: Rc<Pool>,
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) policies: Policies,
    pub(crate) tokens: TokenCache,
    /// Room for request bodies that an endpoint may hand back.
    pub(crate) spare: Spare,
    pub(crate) drain: Drain,
    pub(crate) tasks: Tasks,
}

/// The part of the configuration that connections look at.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Connections come by redirection: the original destination is obligatory.
    pub(crate) redirect: bool,
    pub(crate) mtls: MtlsMode,
    /// Without redirection: service port -> app.
    pub(crate) apps: HashMap<u16, SocketAddr>,
    /// Ports whose app terminates TLS of its own, also where policy is strict.
    pub(crate) tls_ports: Vec<u16>,
    pub(crate) opaque_ports: Vec<u16>,
    /// Ports on which this proxy listens: nothing may be redirected there.
    pub(crate) own_ports: Vec<u16>,
    pub(crate) limits: Limits,
    pub(crate) detect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    /// What this workload is called in telemetry.
    pub(crate) workload: Arc<str>,
    pub(crate) namespace: Arc<str>,
}

impl Settings {
    /// The name under which a port of this workload appears in telemetry.
    pub(crate) fn own_service(&self, port: u16) -> Arc<ServiceName> {
        Arc::new(ServiceName {
            name: Arc::clone(&self.workload),
            namespace: Arc::clone(&self.namespace),
            host: Arc::clone(&self.workload),
            port,
        })
    }
}

/// What is known of one downstream connection.
pub(crate) struct Cx {
    pub(crate) worker: Rc<Worker>,
    pub(crate) facts: Rc<ConnectionFacts>,
    /// The port by which the mesh knows our app, on the inbound side; 0 on the other.
    pub(crate) port: u16,
    /// `x-forwarded-client-cert` and `x-weft-client-id` for the app, where the caller is verified.
    pub(crate) caller: Option<CallerHeaders>,
    /// What it may ask of us.
    pub(crate) limits: Limits,
}

/// The verified caller, as headers.
#[derive(Clone, Debug)]
pub(crate) struct CallerHeaders {
    pub(crate) xfcc: HeaderValue,
    pub(crate) client_id: HeaderValue,
}
