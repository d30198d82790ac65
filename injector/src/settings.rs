//! What is the same in every pod: said once by whoever runs the injector, or on the command line of `weft inject`.

use weft_policy::spiffe::TrustDomain;

/// What the injector puts into pods beside what their policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of the proxy's containers, where no policy names another.
    pub image: String,
    /// Noted on each pod.
    pub version: String,
    /// Of the identities.
    pub trust_domain: TrustDomain,
    /// Where proxies get their certificate.
    pub ca_address: String,
    /// Where proxies learn of services and policy.
    pub discovery_address: String,
    /// Further variables of the proxy; they replace ours of the same name.
    pub environment: Vec<(String, Source)>,
    /// How the proxy is started.
    pub start: Start,
}

/// Where a variable has its value from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is written down.
    Text(String),
    /// A key of a Secret in the pod's own namespace.
    Secret {
        /// Of the Secret.
        name: String,
        /// In it.
        key: String,
    },
}

/// How the proxy is started before the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As an init container that stays: Kubernetes 1.29 and newer.
    Native,
    /// As the first container, which holds up the next ones until it is ready.
    Classic,
}

impl Settings {
    /// What holds where nothing is said.
    ///
    /// # Panics
    /// Never: the default trust domain is one.
    #[must_use]
    pub fn new() -> Self {
        let trust_domain = TrustDomain::parse("cluster.local");
        Self {
            image: DEFAULT_IMAGE.to_owned(),
            version: VERSION.to_owned(),
            trust_domain: trust_domain.expect("the default is a trust domain"),
            ca_address: DEFAULT_CA.to_owned(),
            discovery_address: DEFAULT_DISCOVERY.to_owned(),
            environment: Vec::new(),
            start: Start::Native,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

/// Of this program, and so of what it injects.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The image of all programs, of this version.
pub const DEFAULT_IMAGE: &str = concat!("weft.dev/weft:", env!("CARGO_PKG_VERSION"));
/// Where the authority is installed.
pub const DEFAULT_CA: &str = "https://weft-ca.weft-system.svc:15012";
/// Where discovery is installed.
pub const DEFAULT_DISCOVERY: &str = "https://weft-discovery.weft-system.svc:15012";
