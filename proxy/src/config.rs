//! Configuration: environment -> [`Config`], one line a knob, all mistakes at once.
//!
//! Nothing else reads the environment. `config/env.rs` collects names and mistakes, `config/kind.rs` says what a value can
//! be, `config/otel.rs` reads the `OTEL_*` variables. `docs/configuration.md` is tested against `Config::read`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_policy::probe::AppProbes;
use weft_policy::spiffe::{SpiffeId, TrustDomain};

use self::env::{ConfigErrors, EnvReader};
use self::kind::{
    ADDRESS, ADDRESSES, APP_PROBES, COUNT, DURATION, DURATION_OR_ZERO, FILTER, HEADER_BYTES,
    HTTPS_URL, INBOUND_PORTS, NAME, PATH, PORTS, SPIFFE_ID, STREAMS, TRUST_DOMAIN, WORKERS,
};
use self::otel::Otel;
use self::sampling::Sampling;
use crate::discovery::service::AppProtocol;

mod cpus;
pub mod env;
mod kind;
pub(crate) mod otel;
pub(crate) mod propagators;
pub(crate) mod sampling;
#[cfg(test)]
mod tests;

/// Everything the operator can set; valid by construction. A field is the lower-case name of its variable without `WEFT_`.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) outbound_listen: Vec<SocketAddr>,
    pub(crate) inbound_listen: Vec<SocketAddr>,
    pub(crate) metrics_listen: SocketAddr,
    pub(crate) ready_listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) redirect: bool,
    pub(crate) inbound_ports: Vec<InboundPort>,
    pub(crate) app_probes: AppProbes,
    pub(crate) policy_file: Option<PathBuf>,
    pub(crate) annotations_file: Option<PathBuf>,
    pub(crate) services_file: Option<PathBuf>,
    pub(crate) mtls: MtlsMode,
    pub(crate) jwt_roots: PathBuf,
    /// Sorted.
    pub(crate) opaque_ports: Vec<u16>,
    /// Sorted.
    pub(crate) tls_ports: Vec<u16>,
    pub(crate) workers: usize,

    pub(crate) trust_domain: TrustDomain,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// The identity to ask for, made of the three above.
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) workload: String,
    pub(crate) pod_name: Option<String>,
    pub(crate) version_label: Option<String>,
    pub(crate) zone: Option<String>,

    /// Never set together with `identity_dir`; without either there is no mesh identity.
    pub(crate) ca_address: Option<String>,
    pub(crate) ca_root: PathBuf,
    pub(crate) ca_name: Option<String>,
    pub(crate) token_file: PathBuf,
    pub(crate) cert_ttl: Duration,
    pub(crate) cert_spread: Duration,
    pub(crate) identity_dir: Option<PathBuf>,

    pub(crate) discovery_address: Option<String>,
    pub(crate) discovery_identity: SpiffeId,
    pub(crate) state_dir: Option<PathBuf>,

    pub(crate) connect_timeout: Duration,
    pub(crate) detect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) drain_quiet: Duration,

    pub(crate) max_header_bytes: usize,
    pub(crate) max_headers: usize,
    pub(crate) max_streams: u32,
    pub(crate) max_connections: usize,
    pub(crate) pool_connections: usize,
    pub(crate) pool_idle: Duration,

    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) access_log: AccessLogMode,
    pub(crate) metrics: bool,
    pub(crate) gateway_metrics: bool,
    pub(crate) trace_sample: Sampling,
    pub(crate) otel: Otel,
}

impl Config {
    /// Reads the environment of this process; a `WEFT_*` variable that we do not know is a mistake too.
    ///
    /// # Errors
    /// Every mistake with name, value, reason and what to write instead.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        let variables = env::variables();
        let mut env = EnvReader::new(|name| variables.get(name).cloned());
        let config = Self::read(&mut env);
        env.refuse_unknown(variables.keys());
        env.finish(config)
    }

    /// Reads from `lookup` in place of the environment; a name that is never asked for is not seen.
    ///
    /// # Errors
    /// Every mistake with name, value, reason and what to write instead.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut env = EnvReader::new(lookup);
        let config = Self::read(&mut env);
        env.finish(config)
    }

    /// One line a knob: name, default, kind. Where a variable is wrong, its default stands in until `finish`.
    #[rustfmt::skip]
    fn read(env: &mut EnvReader<impl Fn(&str) -> Option<String>>) -> Self {
        let trust_domain = env.or("WEFT_TRUST_DOMAIN", "cluster.local", TRUST_DOMAIN);
        let namespace = env.or("WEFT_NAMESPACE", "default", NAME);
        let service_account = env.or("WEFT_SERVICE_ACCOUNT", "default", NAME);
        let workload = env.or_else("WEFT_WORKLOAD", "the service account", NAME, || service_account.clone());
        let pod_name = env.optional("WEFT_POD_NAME", NAME);
        let version_label = env.optional("WEFT_VERSION_LABEL", NAME);
        let resource = [
            ("service.name", Some(&workload)), ("service.namespace", Some(&namespace)), ("service.version", version_label.as_ref()),
            ("k8s.namespace.name", Some(&namespace)), ("k8s.pod.name", pod_name.as_ref()),
        ];
        let otel = Otel::read(env, &resource);
        let trace_sample = Sampling::read(env);
        let config = Self {
            outbound_listen: env.or("WEFT_OUTBOUND_LISTEN", "127.0.0.1:15001,[::1]:15001", ADDRESSES),
            inbound_listen: env.or("WEFT_INBOUND_LISTEN", "[::]:15006", ADDRESSES),
            metrics_listen: env.or("WEFT_METRICS_LISTEN", "[::]:15020", ADDRESS),
            ready_listen: env.or("WEFT_READY_LISTEN", "[::]:15021", ADDRESS),
            admin_listen: env.or("WEFT_ADMIN_LISTEN", "127.0.0.1:15000", ADDRESS),
            redirect: env.choice("WEFT_REDIRECT", "off", &[("off", false), ("on", true)]),
            inbound_ports: env.or("WEFT_INBOUND_PORTS", "", INBOUND_PORTS),
            app_probes: env.or("WEFT_APP_PROBES", "{}", APP_PROBES),
            policy_file: env.optional("WEFT_POLICY_FILE", PATH),
            annotations_file: env.optional("WEFT_ANNOTATIONS_FILE", PATH),
            services_file: env.optional("WEFT_SERVICES_FILE", PATH),
            mtls: env.choice("WEFT_MTLS", "permissive", MtlsMode::CHOICES),
            jwt_roots: env.or("WEFT_JWT_ROOTS", "/etc/ssl/certs/ca-certificates.crt", PATH),
            opaque_ports: env.or("WEFT_OPAQUE_PORTS", "25,587,3306,4444,5432,6379,9300,11211", PORTS),
            tls_ports: env.or("WEFT_TLS_PORTS", "", PORTS),
            workers: env.or_else("WEFT_WORKERS", "the CPU limit rounded up, 1 without one", WORKERS, cpus::limit),

            zone: env.optional("WEFT_ZONE", NAME),
            spiffe_id: identity(env, &trust_domain, &namespace, &service_account),
            ca_address: env.optional("WEFT_CA_ADDRESS", HTTPS_URL),
            ca_root: env.or("WEFT_CA_ROOT", "/var/run/secrets/weft/ca.crt", PATH),
            ca_name: env.optional("WEFT_CA_NAME", NAME),
            token_file: env.or("WEFT_TOKEN_FILE", "/var/run/secrets/tokens/istio-token", PATH),
            cert_ttl: env.or("WEFT_CERT_TTL", "24h", DURATION),
            cert_spread: env.or("WEFT_CERT_SPREAD", "10s", DURATION),
            identity_dir: env.optional("WEFT_IDENTITY_DIR", PATH),

            discovery_address: env.optional("WEFT_DISCOVERY_ADDRESS", HTTPS_URL),
            discovery_identity: env.or_else("WEFT_DISCOVERY_IDENTITY", "weft-discovery in weft-system", SPIFFE_ID, || discovery(&trust_domain)),
            state_dir: env.optional("WEFT_STATE_DIR", PATH),

            connect_timeout: env.or("WEFT_CONNECT_TIMEOUT", "1s", DURATION),
            detect_timeout: env.or("WEFT_DETECT_TIMEOUT", "300ms", DURATION),
            handshake_timeout: env.or("WEFT_HANDSHAKE_TIMEOUT", "10s", DURATION),
            header_timeout: env.or("WEFT_HEADER_TIMEOUT", "10s", DURATION),
            idle_timeout: env.or("WEFT_IDLE_TIMEOUT", "1h", DURATION),
            drain_timeout: env.or("WEFT_DRAIN_TIMEOUT", "30s", DURATION_OR_ZERO),
            drain_quiet: env.or("WEFT_DRAIN_QUIET", "6s", DURATION_OR_ZERO),

            max_header_bytes: env.or("WEFT_MAX_HEADER_BYTES", "64KiB", HEADER_BYTES),
            max_headers: env.or("WEFT_MAX_HEADERS", "100", COUNT),
            max_streams: env.or("WEFT_MAX_STREAMS", "250", STREAMS),
            max_connections: env.or("WEFT_MAX_CONNECTIONS", "10000", COUNT),
            pool_connections: env.or("WEFT_POOL_CONNECTIONS", "1024", COUNT),
            pool_idle: env.or("WEFT_POOL_IDLE", "60s", DURATION),

            log: env.or("WEFT_LOG", "info", FILTER),
            log_format: env.choice("WEFT_LOG_FORMAT", "json", LogFormat::CHOICES),
            access_log: env.choice("WEFT_ACCESS_LOG", "errors", AccessLogMode::CHOICES),
            metrics: env.choice("WEFT_METRICS", "on", &[("on", true), ("off", false)]),
            gateway_metrics: env.choice("WEFT_GATEWAY_METRICS", "off", &[("off", false), ("on", true)]),
            trust_domain, namespace, service_account, workload, pod_name, version_label, trace_sample, otel,
        };
        if config.discovery_address.is_some() && config.ca_address.is_none() && config.identity_dir.is_none() {
            env.mistake("WEFT_DISCOVERY_ADDRESS", "needs an identity to show there", "set WEFT_CA_ADDRESS or WEFT_IDENTITY_DIR");
        }
        env.refuse_both("WEFT_CA_ADDRESS", "WEFT_IDENTITY_DIR", "an identity has one source: remove one of the two");
        config
    }
}

/// One port of the app where nothing redirects: `8080=127.0.0.1:3000/http2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InboundPort {
    /// The port callers use.
    pub(crate) port: u16,
    pub(crate) app: SocketAddr,
    /// What is spoken there; by default the first bytes tell.
    pub(crate) protocol: Option<AppProtocol>,
}

/// Whether callers without mutual TLS are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MtlsMode {
    Permissive,
    Strict,
}

impl MtlsMode {
    const CHOICES: &[(&str, Self)] = &[("permissive", Self::Permissive), ("strict", Self::Strict)];
}

/// How the proxy's own log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

impl LogFormat {
    const CHOICES: &[(&str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}

/// Which requests and TCP connections get a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLogMode {
    Off,
    /// Status 500 and above, everything this proxy refused, and TCP connections that failed.
    Errors,
    All,
}

impl AccessLogMode {
    const CHOICES: &[(&str, Self)] = &[
        ("off", Self::Off),
        ("errors", Self::Errors),
        ("all", Self::All),
    ];
}

/// Who discovery is where nothing else is said.
fn discovery(trust_domain: &TrustDomain) -> SpiffeId {
    let id = SpiffeId::workload(trust_domain, "weft-system", "weft-discovery");
    id.expect("these names make an identity in every trust domain")
}

/// The identity of the three names; where they make none, the mistake is noted and a placeholder stands in until `finish`.
fn identity(
    env: &mut EnvReader<impl Fn(&str) -> Option<String>>,
    trust_domain: &TrustDomain,
    namespace: &str,
    service_account: &str,
) -> SpiffeId {
    let placeholder = || SpiffeId::workload(trust_domain, "default", "default");
    let workload = SpiffeId::workload(trust_domain, namespace, service_account);
    workload
        .or_else(|error| {
            env.mistake(
                "WEFT_SERVICE_ACCOUNT",
                error.to_string(),
                "use names of at most 253 letters, digits, '-', '.' and '_'",
            );
            placeholder()
        })
        .expect("default names make an identity in every trust domain")
}
