//! The settings of discovery, read from the environment: one line a variable, all mistakes at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_certs::env::{ConfigErrors, Env, parsed, positive};
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
    /// Ends the names of services.
    pub cluster_domain: String,
    /// Where we run, and where the mesh's own policy is.
    pub system_namespace: String,
    /// Ours.
    pub service_account: String,
    /// Where our certificate comes from, `https://host:port`.
    pub ca_address: String,
    /// PEM file with the roots of the CA's own certificate.
    pub ca_root: PathBuf,
    /// A name it may show beside the host of the address.
    pub ca_name: Option<String>,
    /// Holds our token.
    pub token_file: PathBuf,
    /// How long our certificate is to live.
    pub cert_ttl: Duration,
    /// What the tokens of subscribers must be meant for.
    pub audience: String,
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
            cluster_domain: env.or("WEFT_CLUSTER_DOMAIN", "cluster.local", parsed),
            system_namespace: env.or("WEFT_NAMESPACE", "weft-system", parsed),
            service_account: env.or("WEFT_SERVICE_ACCOUNT", "weft-discovery", parsed),
            ca_address: env.or(
                "WEFT_CA_ADDRESS",
                "https://weft-ca.weft-system.svc:15012",
                parsed,
            ),
            ca_root: env.or("WEFT_CA_ROOT", "/var/run/secrets/weft/ca.crt", parsed),
            ca_name: env.optional("WEFT_CA_NAME"),
            token_file: env.or(
                "WEFT_TOKEN_FILE",
                "/var/run/secrets/tokens/istio-token",
                parsed,
            ),
            cert_ttl: env.or("WEFT_CERT_TTL", "24h", positive),
            audience: env.or("WEFT_DISCOVERY_AUDIENCE", "istio-ca", parsed),
            log: env.or("WEFT_LOG", "info", parsed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_variable_with_its_default() {
        let mut env = Env::new(|_: &str| None);
        Config::read(&mut env);
        let documentation = include_str!("../../docs/discovery.md");
        for (name, default) in env.asked() {
            let default = match default.as_str() {
                "" => " ".to_owned(),
                default => format!(" `{default}` "),
            };
            let row = format!("| `{name}` |{default}|");
            assert!(documentation.contains(&row), "no row {row}");
        }
        let rows = documentation
            .lines()
            .filter(|line| line.starts_with("| `WEFT_"));
        assert_eq!(rows.count(), env.asked().len());
    }
}
