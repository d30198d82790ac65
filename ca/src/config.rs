//! The authority's settings, read from the environment: one line a variable, all mistakes at once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::ServerName;
use weft_certs::env::{ConfigErrors, Env, list, parsed, positive};
use weft_policy::spiffe::TrustDomain;

use crate::account::Account;
use crate::server::Lifetimes;
use crate::store::Store;
use crate::token::jwks::KeySource;

/// All settings of `weft-ca`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the certificate API is served.
    pub listen: SocketAddr,
    /// Where metrics are served.
    pub metrics_listen: SocketAddr,
    /// Where the issuer is.
    pub issuer: IssuerPlace,
    /// Where `ca.crt` is written for others.
    pub publish: Option<PathBuf>,
    /// What is signed for.
    pub trust_domain: TrustDomain,
    /// How tokens are checked.
    pub tokens: Tokens,
    /// Whom a token must be meant for, one of them.
    pub audiences: HashSet<String>,
    /// The proxies of nodes, which may ask for the leafs of the pods there.
    pub node_accounts: BTreeSet<Account>,
    /// What callers know us as.
    pub names: Vec<ServerName<'static>>,
    /// DNS names in the leafs of those who are called by name.
    pub serving_names: BTreeMap<Account, Vec<ServerName<'static>>>,
    /// The namespace that we are in.
    pub namespace: String,
    /// Has the roots, in our namespace and in those of the mesh.
    pub bundle_config_map: Option<String>,
    /// How long leafs live.
    pub lifetimes: Lifetimes,
    /// How often files are looked at for changes.
    pub reload: Duration,
    /// What is logged, as `tracing` filters are written.
    pub log: String,
}

/// Where an issuer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerPlace {
    /// In files.
    Files(Store),
    /// In a Secret of our namespace.
    Secret(String),
}

/// How tokens are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// By published keys.
    Keys {
        /// What they are signed with.
        source: KeySource,
        /// Who must have issued them.
        issuer: String,
    },
    /// By the API server.
    Kubernetes,
}

impl Config {
    /// Whether there must be an API server.
    #[must_use]
    pub fn needs_cluster(&self) -> bool {
        self.tokens == Tokens::Kubernetes
            || self.bundle_config_map.is_some()
            || matches!(self.issuer, IssuerPlace::Secret(_))
    }

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
        let dir = env.optional("WEFT_CA_DIR").map(PathBuf::from);
        let config = Self {
            listen: env.or("WEFT_CA_LISTEN", "[::]:15012", parsed),
            metrics_listen: env.or("WEFT_CA_METRICS_LISTEN", "[::]:15014", parsed),
            issuer: issuer(env, dir.clone()),
            publish: dir,
            trust_domain: env.or("WEFT_TRUST_DOMAIN", "cluster.local", parsed),
            tokens: tokens(env),
            audiences: env.or("WEFT_CA_AUDIENCES", "istio-ca", list),
            node_accounts: env.or("WEFT_CA_TRUSTED_NODE_ACCOUNTS", "", accounts),
            names: env.or(
                "WEFT_CA_DNS_NAMES",
                "localhost,weft-ca.weft-system.svc",
                names,
            ),
            serving_names: env.or("WEFT_CA_SERVING_NAMES", "", serving_names),
            namespace: env.or("WEFT_NAMESPACE", "weft-system", parsed),
            bundle_config_map: env.optional("WEFT_CA_BUNDLE_CONFIGMAP"),
            lifetimes: Lifetimes {
                default: env.or("WEFT_CA_DEFAULT_TTL", "24h", positive),
                max: env.or("WEFT_CA_MAX_TTL", "2160h", positive),
            },
            reload: env.or("WEFT_CA_RELOAD", "5s", positive),
            log: env.or("WEFT_LOG", "info", parsed),
        };
        if config.lifetimes.default > config.lifetimes.max {
            let reason = "is more than WEFT_CA_MAX_TTL";
            env.mistake("WEFT_CA_DEFAULT_TTL", reason.to_owned());
        }
        if !config.node_accounts.is_empty() && config.tokens != Tokens::Kubernetes {
            let reason = "needs WEFT_CA_TOKENS=kubernetes, which tells the pod of a caller";
            env.mistake("WEFT_CA_TRUSTED_NODE_ACCOUNTS", reason.to_owned());
        }
        config
    }
}

fn issuer(env: &mut Env<impl Fn(&str) -> Option<String>>, dir: Option<PathBuf>) -> IssuerPlace {
    let given = env.optional("WEFT_CA_ISSUER_DIR").map(PathBuf::from);
    let secret = env.optional("WEFT_CA_SECRET");
    match (secret, given, dir) {
        (Some(secret), None, None) => IssuerPlace::Secret(secret),
        (None, Some(dir), _) => IssuerPlace::Files(Store::Given(dir)),
        (None, None, Some(dir)) => IssuerPlace::Files(Store::Own(dir)),
        (None, None, None) => {
            let reason =
                "none of it, WEFT_CA_ISSUER_DIR and WEFT_CA_SECRET says where the issuer is";
            env.mistake("WEFT_CA_DIR", reason.to_owned());
            IssuerPlace::Secret(String::new())
        }
        (Some(secret), ..) => {
            let reason = "the issuer is in a Secret or in a directory, not in both";
            env.mistake("WEFT_CA_SECRET", reason.to_owned());
            IssuerPlace::Secret(secret)
        }
    }
}

fn tokens(env: &mut Env<impl Fn(&str) -> Option<String>>) -> Tokens {
    let by_keys = env.or("WEFT_CA_TOKENS", "keys", |text| match text {
        "keys" => Ok(true),
        "kubernetes" => Ok(false),
        _ => Err("is neither `keys` nor `kubernetes`".to_owned()),
    });
    let keys = env.optional("WEFT_CA_JWKS");
    let roots: PathBuf = env.or(
        "WEFT_CA_JWKS_ROOTS",
        "/etc/ssl/certs/ca-certificates.crt",
        parsed,
    );
    let issuer = env.optional("WEFT_CA_TOKEN_ISSUER");
    if !by_keys {
        return Tokens::Kubernetes;
    }
    let missing = || "must be set, or WEFT_CA_TOKENS=kubernetes".to_owned();
    let keys = keys.ok_or_else(missing);
    let source = keys.and_then(|text| key_source(&text, roots));
    let source = source.unwrap_or_else(|reason| {
        env.mistake("WEFT_CA_JWKS", reason);
        KeySource::File(PathBuf::new())
    });
    if issuer.is_none() {
        env.mistake("WEFT_CA_TOKEN_ISSUER", missing());
    }
    Tokens::Keys {
        source,
        issuer: issuer.unwrap_or_default(),
    }
}

fn accounts(text: &str) -> Result<BTreeSet<Account>, String> {
    let words: Vec<String> = list(text)?;
    words.iter().map(|word| parsed(word)).collect()
}

/// `<namespace>/<service account>=<name>`, as often as there are names.
fn serving_names(text: &str) -> Result<BTreeMap<Account, Vec<ServerName<'static>>>, String> {
    let mut named: BTreeMap<Account, Vec<ServerName<'static>>> = BTreeMap::new();
    let words: Vec<String> = list(text)?;
    for word in words {
        let wrong = || format!("{word:?} is not <namespace>/<service account>=<DNS name>");
        let (account, name) = word.split_once('=').ok_or_else(wrong)?;
        let name = ServerName::try_from(name.trim().to_owned()).or(Err(wrong()))?;
        if !matches!(name, ServerName::DnsName(_)) {
            return Err(wrong());
        }
        named.entry(parsed(account.trim())?).or_default().push(name);
    }
    Ok(named)
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
        let is_url = |tokens| {
            matches!(
                tokens,
                Tokens::Keys {
                    source: KeySource::Url { .. },
                    ..
                }
            )
        };
        assert!(is_url(config.tokens));
    }

    #[test]
    fn on_kubernetes_two_are_enough() {
        let config = read(&[
            ("WEFT_CA_SECRET", "weft-ca"),
            ("WEFT_CA_TOKENS", "kubernetes"),
        ]);
        let config = config.unwrap();
        assert!(config.needs_cluster());
        assert_eq!(config.issuer, IssuerPlace::Secret("weft-ca".to_owned()));
        assert_eq!(config.tokens, Tokens::Kubernetes);
    }

    #[test]
    fn names_of_servers_are_collected_by_account() {
        let named = serving_names("a/b=x.a.svc, a/b=y.a.svc,c/d=z").unwrap();
        let count = |account: &str| named[&account.parse().unwrap()].len();
        assert_eq!((count("a/b"), count("c/d")), (2, 1));
        for wrong in ["a/b", "a=x", "a/b=", "a/b=1.2.3.4", "a/b=x y"] {
            assert!(serving_names(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_a_mistake() {
        let good = [
            ("WEFT_CA_DIR", "/ca"),
            ("WEFT_CA_JWKS", "/jwks"),
            ("WEFT_CA_TOKEN_ISSUER", "https://a"),
        ];
        let rows = [
            ("WEFT_CA_SECRET", "weft-ca"),
            ("WEFT_CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel"),
            ("WEFT_CA_TOKENS", "some"),
        ];
        for (name, value) in rows {
            let mut variables = good.to_vec();
            variables.push((name, value));
            let errors = read(&variables).unwrap_err().to_string();
            assert!(errors.contains(name), "{errors}");
        }
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
