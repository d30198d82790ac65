//! The settings of discovery, read from the environment: one line a variable, all mistakes at once.

use std::net::SocketAddr;

use weft_certs::config::env::{ConfigErrors, Env, parsed};
use weft_policy::spiffe::TrustDomain;

/// All settings of `weft-discovery`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where proxies subscribe.
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    pub metrics_listen: SocketAddr,
    /// Of the identities it tells.
    pub trust_domain: TrustDomain,
    /// What is logged, as `tracing` filters are written.
    pub log: String,
}

impl Config {
    /// Reads the settings by a lookup of variables.
    ///
    /// # Errors
    /// Names every variable that is missing or wrong.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut env = Env::new(lookup);
        let config = Self::read(&mut env);
        env.finish(config)
    }

    fn read(env: &mut Env<impl Fn(&str) -> Option<String>>) -> Self {
        Self {
            listen: env.or("WEFT_DISCOVERY_LISTEN", "[::]:15012", parsed),
            metrics_listen: env.or("WEFT_DISCOVERY_METRICS_LISTEN", "[::]:15014", parsed),
            trust_domain: env.or("WEFT_TRUST_DOMAIN", "cluster.local", parsed),
            log: env.or("WEFT_LOG", "info", parsed),
        }
    }
}
