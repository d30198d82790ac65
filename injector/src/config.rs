//! The settings of the injector, read from the environment: one line a variable, all mistakes at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_certs::env::{ConfigErrors, Env, list, parsed, positive};

use crate::settings::{
    DEFAULT_CA, DEFAULT_DISCOVERY, DEFAULT_IMAGE, Settings, Source, Start, VERSION,
};

/// All settings of `weft-injector`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API server asks.
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    pub metrics_listen: SocketAddr,
    /// The MutatingWebhookConfiguration whose `caBundle` is ours to keep.
    pub webhook: Option<String>,
    /// Where our certificate comes from.
    pub certificate: Certificate,
    /// Where we run, and where the mesh's own policy is.
    pub system_namespace: String,
    /// Whether sidecars are native; `None` asks the API server.
    pub native: Option<Start>,
    /// Our own pod, whose image is put into others; `None` where the settings say which.
    pub own_pod: Option<String>,
    /// What is the same in every pod.
    pub settings: Settings,
    /// What is logged, as `tracing` filters are written.
    pub log: String,
}

/// Where the certificate comes from that the API server sees.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// Files `tls.crt`, `tls.key` and `ca.crt`, looked at for changes.
    Directory(PathBuf),
    /// The mesh's authority.
    Authority {
        /// `https://host:port`.
        address: String,
        /// PEM file with the roots of its own certificate.
        root: PathBuf,
        /// A name it may show beside the host of the address.
        name: Option<String>,
        /// Holds our token.
        token_file: PathBuf,
        /// How long our certificate is to live.
        lifetime: Duration,
        /// Ours.
        service_account: String,
    },
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
        let ca_address: String = env.or("WEFT_CA_ADDRESS", DEFAULT_CA, parsed);
        let directory = env.optional("WEFT_INJECTOR_CERT_DIR").map(PathBuf::from);
        let (image, pod) = (env.optional("WEFT_IMAGE"), env.optional("WEFT_POD_NAME"));
        let authority = Certificate::Authority {
            address: ca_address.clone(),
            root: env.or("WEFT_CA_ROOT", "/var/run/secrets/weft/ca.crt", parsed),
            name: env.optional("WEFT_CA_NAME"),
            token_file: env.or(
                "WEFT_TOKEN_FILE",
                "/var/run/secrets/tokens/istio-token",
                parsed,
            ),
            lifetime: env.or("WEFT_CERT_TTL", "24h", positive),
            service_account: env.or("WEFT_SERVICE_ACCOUNT", "weft-injector", parsed),
        };
        Self {
            listen: env.or("WEFT_INJECTOR_LISTEN", "[::]:8443", parsed),
            metrics_listen: env.or("WEFT_INJECTOR_METRICS_LISTEN", "[::]:15014", parsed),
            webhook: env.optional("WEFT_INJECTOR_WEBHOOK"),
            certificate: directory.map_or(authority, Certificate::Directory),
            system_namespace: env.or("WEFT_NAMESPACE", "weft-system", parsed),
            native: env.or("WEFT_INJECTOR_NATIVE_SIDECARS", "auto", native),
            own_pod: pod.filter(|_| image.is_none()),
            settings: Settings {
                image: image.unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
                version: VERSION.to_owned(),
                trust_domain: env.or("WEFT_TRUST_DOMAIN", "cluster.local", parsed),
                ca_address,
                discovery_address: env.or("WEFT_DISCOVERY_ADDRESS", DEFAULT_DISCOVERY, parsed),
                environment: env.or("WEFT_PROXY_ENV", "", variables),
                start: Start::Native,
            },
            log: env.or("WEFT_LOG", "info", parsed),
        }
    }
}

fn native(text: &str) -> Result<Option<Start>, String> {
    match text {
        "auto" => Ok(None),
        "on" => Ok(Some(Start::Native)),
        "off" => Ok(Some(Start::Classic)),
        _ => Err("is not one of auto, on, off".to_owned()),
    }
}

/// Reads `NAME=value` or `NAME=secret:NAME/KEY`, several with commas between them.
///
/// # Errors
/// The first that is none, or that would show a secret to whoever may read pods: headers for the collector are how its access tokens are given.
pub fn variables(text: &str) -> Result<Vec<(String, Source)>, String> {
    let pairs: Vec<String> = list(text)?;
    pairs.iter().map(|pair| variable(pair)).collect()
}

fn variable(pair: &str) -> Result<(String, Source), String> {
    let (name, value) = pair
        .split_once('=')
        .ok_or_else(|| format!("{pair:?} is not NAME=value"))?;
    let (name, value) = (name.trim(), value.trim());
    let source = match value.strip_prefix("secret:") {
        Some(place) => secret(place).ok_or_else(|| {
            format!("{name}: {value:?} names no key of a Secret; write secret:NAME/KEY")
        })?,
        None if name.ends_with("_HEADERS") && !value.is_empty() => {
            return Err(format!(
                "{name}: its value would stand in every pod; put it into a Secret and write {name}=secret:NAME/KEY"
            ));
        }
        None => Source::Text(value.to_owned()),
    };
    Ok((name.to_owned(), source))
}

fn secret(place: &str) -> Option<Source> {
    let (name, key) = place.split_once('/')?;
    let is_whole = !name.is_empty() && !key.is_empty() && !key.contains('/');
    is_whole.then(|| Source::Secret {
        name: name.to_owned(),
        key: key.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_variable_with_its_default() {
        let mut env = Env::new(|_: &str| None);
        Config::read(&mut env);
        let documentation = include_str!("../../docs/injection.md");
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
    fn the_image_is_that_of_our_own_pod_unless_one_is_named() {
        let read = |variables: &[(&str, &str)]| {
            let lookup = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let config = Config::from_env(lookup).unwrap();
            (config.own_pod, config.settings.image)
        };
        let (pod, image) = (("WEFT_POD_NAME", "one"), ("WEFT_IMAGE", "x:1"));
        let default = DEFAULT_IMAGE.to_owned();
        assert_eq!(read(&[]), (None, default.clone()));
        assert_eq!(read(&[pod]), (Some("one".to_owned()), default));
        assert_eq!(read(&[pod, image]), (None, "x:1".to_owned()));
    }

    #[test]
    fn further_variables_are_pairs() {
        let pair = |name: &str, value: &str| (name.to_owned(), Source::Text(value.to_owned()));
        assert_eq!(
            variables("A=b, C=d=e"),
            Ok(vec![pair("A", "b"), pair("C", "d=e")])
        );
        assert_eq!(variables(""), Ok(Vec::new()));
        assert!(variables("A").is_err());
    }

    #[test]
    fn headers_for_the_collector_come_from_a_secret() {
        let source = Source::Secret {
            name: "otlp".to_owned(),
            key: "headers".to_owned(),
        };
        assert_eq!(
            variables("OTEL_EXPORTER_OTLP_HEADERS=secret:otlp/headers"),
            Ok(vec![("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), source)])
        );
        let shown =
            variables("OTEL_EXPORTER_OTLP_TRACES_HEADERS=authorization=hunter2").unwrap_err();
        assert!(
            shown.contains("=secret:NAME/KEY") && !shown.contains("hunter2"),
            "{shown}"
        );
        let lookup = |name: &str| {
            let value = "OTEL_EXPORTER_OTLP_HEADERS=authorization=hunter2".to_owned();
            (name == "WEFT_PROXY_ENV").then_some(value)
        };
        let told = Config::from_env(lookup).unwrap_err().to_string();
        assert!(
            told.contains("WEFT_PROXY_ENV=(not shown)") && !told.contains("hunter2"),
            "{told}"
        );
        for place in ["secret:otlp", "secret:/a", "secret:a/", "secret:a/b/c"] {
            assert!(variables(&format!("A={place}")).is_err(), "{place}");
        }
    }
}
