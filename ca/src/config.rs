//! The authority's settings, read from the environment: one line a variable, all mistakes at once.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::ServerName;
use weft_certs::env::{ConfigErrors, Env, list, parsed, positive};
use weft_policy::spiffe::TrustDomain;

use crate::server::Lifetimes;
use crate::token::jwks::KeySource;

/// All settings of `weft-ca`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the certificate API is served.
    pub listen: SocketAddr,
    /// Where metrics are served.
    pub metrics_listen: SocketAddr,
    /// Our own directory: the root if `issuer_dir` is not given, and `ca.crt` for others.
    pub dir: Option<PathBuf>,
    /// Somebody else's directory with an issuer.
    pub issuer_dir: Option<PathBuf>,
    /// What is signed for.
    pub trust_domain: TrustDomain,
    /// What tokens are signed with.
    pub keys: KeySource,
    /// Who must have issued a token.
    pub token_issuer: String,
    /// Whom a token must be meant for, one of them.
    pub audiences: HashSet<String>,
    /// What callers know us as.
    pub names: Vec<ServerName<'static>>,
    /// How long leafs live.
    pub lifetimes: Lifetimes,
    /// How often files are looked at for changes.
    pub reload: Duration,
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
        let web_roots: PathBuf = env.or(
            "WEFT_CA_JWKS_ROOTS",
            "/etc/ssl/certs/ca-certificates.crt",
            parsed,
        );
        let config = Self {
            listen: env.or("WEFT_CA_LISTEN", "[::]:15012", parsed),
            metrics_listen: env.or("WEFT_CA_METRICS_LISTEN", "[::]:15014", parsed),
            dir: env.optional("WEFT_CA_DIR").map(PathBuf::from),
            issuer_dir: env.optional("WEFT_CA_ISSUER_DIR").map(PathBuf::from),
            trust_domain: env.or("WEFT_TRUST_DOMAIN", "cluster.local", parsed),
            keys: env.required("WEFT_CA_JWKS", "none", |text| {
                key_source(text, web_roots.clone())
            }),
            token_issuer: env.required("WEFT_CA_TOKEN_ISSUER", "none", parsed),
            audiences: env.or("WEFT_CA_AUDIENCES", "istio-ca", list),
            names: env.or(
                "WEFT_CA_DNS_NAMES",
                "localhost,weft-ca.weft-system.svc",
                names,
            ),
            lifetimes: Lifetimes {
                default: env.or("WEFT_CA_DEFAULT_TTL", "24h", positive),
                max: env.or("WEFT_CA_MAX_TTL", "2160h", positive),
            },
            reload: env.or("WEFT_CA_RELOAD", "5s", positive),
            log: env.or("WEFT_LOG", "info", parsed),
        };
        if config.dir.is_none() && config.issuer_dir.is_none() {
            let reason = "neither it nor WEFT_CA_ISSUER_DIR says where the issuer is";
            env.mistake("WEFT_CA_DIR", reason.to_owned());
        }
        if config.lifetimes.default > config.lifetimes.max {
            env.mistake(
                "WEFT_CA_DEFAULT_TTL",
                "is more than WEFT_CA_MAX_TTL".to_owned(),
            );
        }
        config
    }
}

/// DNS names and addresses; those of this machine are always among them.
fn names(text: &str) -> Result<Vec<ServerName<'static>>, String> {
    let names: Vec<String> = list(&format!("{text},127.0.0.1,::1"))?;
    let name = |name: String| {
        ServerName::try_from(name.clone())
            .or(Err(format!("{name:?} is no DNS name and no address")))
    };
    names.into_iter().map(name).collect()
}

fn key_source(text: &str, roots: PathBuf) -> Result<KeySource, String> {
    if !text.contains("://") {
        return Ok(KeySource::File(text.into()));
    }
    let url: http::Uri = parsed(text)?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(KeySource::Url { url, roots }),
        _ => Err("is neither a file nor an http or https URL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Config::from_env(|name| variables.get(name).map(|&value| value.to_owned()))
    }

    #[test]
    fn three_variables_are_enough() {
        let config = read(&[
            ("WEFT_CA_DIR", "/ca"),
            ("WEFT_CA_JWKS", "https://[::1]:6443/openid/v1/jwks"),
            ("WEFT_CA_TOKEN_ISSUER", "https://kubernetes.default.svc"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.listen.port(), 15012);
        assert!(config.audiences.contains("istio-ca"));
        assert_eq!(config.lifetimes.max, Duration::from_secs(90 * 24 * 3600));
        assert_eq!(config.names.len(), 4);
        assert!(matches!(config.keys, KeySource::Url { .. }));
    }

    #[test]
    fn the_documentation_has_every_variable_with_its_default() {
        let mut env = Env::new(|_: &str| None);
        Config::read(&mut env);
        let documentation = include_str!("../../docs/ca.md");
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

    #[test]
    fn all_mistakes_are_told_at_once() {
        let errors = read(&[
            ("WEFT_CA_LISTEN", "localhost"),
            ("WEFT_TRUST_DOMAIN", "a/b"),
            ("WEFT_CA_JWKS", "ftp://a/b"),
            ("WEFT_CA_MAX_TTL", "0s"),
            ("WEFT_CA_DEFAULT_TTL", "9999h"),
            ("WEFT_CA_DNS_NAMES", "a b"),
        ]);
        let text = errors.unwrap_err().to_string();
        let names = [
            "LISTEN=localhost",
            "WEFT_TRUST_DOMAIN=a/b",
            "JWKS=ftp",
            "MAX_TTL=0s",
        ];
        let more = [
            "DEFAULT_TTL=9999h",
            "DNS_NAMES=a b",
            "WEFT_CA_DIR:",
            "TOKEN_ISSUER: must be",
        ];
        for name in names.iter().chain(&more) {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
