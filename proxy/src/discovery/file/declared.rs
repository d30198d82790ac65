//! What a services file may contain.
//!
//! ```yaml
//! services:
//! - name: orders.shop           # in the proxy's own namespace without ".shop"
//!   port: 80                    # what callers name
//!   protocol: http              # http http2 grpc tcp tls; told by the first bytes if left out
//!   addresses: [10.96.0.1]      # virtual addresses that stand for the service
//!   endpoints:
//!   - address: 10.0.0.1:8080
//!     inbound: 10.0.0.1:15006   # the proxy to dial instead, where nothing redirects
//!     identity: spiffe://cluster.local/ns/shop/sa/orders
//!     weight: 1                 # 0 gets nothing
//!     zone: eu-west-1a          # where it runs, compared with WEFT_ZONE
//! ```
//!
//! Unknown and repeated fields are refused. All mistakes in values are found at once; one in the structure (YAML syntax,
//! an unknown field) hides what follows it.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde_saphyr::Spanned;
use tokio::time::Instant;
use weft_policy::spiffe::SpiffeId;

use crate::discovery::endpoint::{Endpoint, Workload};
use crate::discovery::service::AppProtocol;
use crate::discovery::service::ServiceName;

/// A service as the file has it, valid.
#[derive(Debug)]
pub(in crate::discovery) struct DeclaredService {
    pub(in crate::discovery) name: ServiceName,
    pub(in crate::discovery) protocol: Option<AppProtocol>,
    /// Virtual addresses that stand for the whole service, on its port.
    pub(in crate::discovery) addresses: Vec<IpAddr>,
    pub(in crate::discovery) endpoints: Vec<DeclaredEndpoint>,
}

/// An endpoint as the file has it, valid.
#[derive(Debug)]
pub(in crate::discovery) struct DeclaredEndpoint {
    pub(in crate::discovery) address: SocketAddr,
    pub(in crate::discovery) inbound: Option<SocketAddr>,
    pub(in crate::discovery) identity: Option<SpiffeId>,
    pub(in crate::discovery) workload: Option<Arc<Workload>>,
    pub(in crate::discovery) weight: u32,
    /// Lower is preferred.
    pub(in crate::discovery) priority: u32,
    pub(in crate::discovery) zone: Option<Arc<str>>,
    /// Whether it is meant for our zone; `None` leaves that to `zone`.
    pub(in crate::discovery) near: Option<bool>,
}

impl DeclaredEndpoint {
    pub(in crate::discovery) fn endpoint(&self, now: Instant) -> Endpoint {
        let endpoint = Endpoint::new(self.address, self.inbound, self.identity.clone(), now);
        endpoint.running(self.workload.clone())
    }

    /// Whether `endpoint` is the one that is declared here; its weight and zone may differ.
    pub(in crate::discovery) fn describes(&self, endpoint: &Endpoint) -> bool {
        (self.address, self.inbound, &self.identity, &self.workload)
            == (
                endpoint.address,
                endpoint.inbound,
                &endpoint.identity,
                &endpoint.workload,
            )
    }
}

/// Reads the text of a services file; `namespace` is that of names without one.
///
/// # Errors
/// All mistakes that could be found.
pub(in crate::discovery) fn parse(
    text: &str,
    namespace: &str,
) -> Result<Vec<DeclaredService>, Vec<Mistake>> {
    let raw: RawFile = serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| vec![Mistake::in_structure(&error)])?;
    let mut check = Check {
        namespace,
        ..Check::default()
    };
    let services = raw
        .services
        .iter()
        .filter_map(|service| check.service(service))
        .collect();
    if check.mistakes.is_empty() {
        Ok(services)
    } else {
        Err(check.mistakes)
    }
}

/// A mistake in a services file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Counted from 1.
    line: u64,
    /// Field and value, if the mistake is in one.
    value: Option<(&'static str, String)>,
    reason: String,
}

impl Mistake {
    fn in_structure(error: &serde_saphyr::Error) -> Self {
        let line = error.location().map_or(0, |location| location.line());
        // The message alone: without the excerpt of the file that it is shown with by default.
        Self {
            line,
            value: None,
            reason: error.without_snippet().to_string(),
        }
    }
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some((field, value)) => {
                write!(f, "line {}: {field} {value:?}: {}", self.line, self.reason)
            }
            None => write!(f, "line {}: {}", self.line, self.reason),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    /// Must be there: an empty file is rather one that is being written than one without services.
    services: Vec<RawService>,
}

/// Values are taken as text first, so that every mistake in them is found and told with its line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: Text,
    port: Text,
    protocol: Option<Text>,
    #[serde(default)]
    addresses: Vec<Text>,
    #[serde(default)]
    endpoints: Vec<RawEndpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    address: Text,
    inbound: Option<Text>,
    identity: Option<Text>,
    weight: Option<Text>,
    zone: Option<Text>,
}

/// A scalar and where it stands.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text(Spanned<String>);

/// A check of a file: what was wrong so far, and what may not come a second time.
#[derive(Default)]
struct Check<'a> {
    namespace: &'a str,
    mistakes: Vec<Mistake>,
    taken: HashMap<String, u64>,
}

impl Check<'_> {
    fn service(&mut self, raw: &RawService) -> Option<DeclaredService> {
        let namespace = self.namespace;
        let port = self.read("port", &raw.port, port);
        // The name is checked even where its port is wrong.
        let name = self.read("name", &raw.name, |name| {
            ServiceName::declared(name, port.unwrap_or(0), namespace)
        });
        let protocol = self.read_option("protocol", raw.protocol.as_ref(), AppProtocol::from_str);
        let addresses = raw
            .addresses
            .iter()
            .map(|ip| self.read("addresses", ip, IpAddr::from_str))
            .collect::<Vec<_>>();
        let endpoints = raw
            .endpoints
            .iter()
            .map(|endpoint| self.endpoint(endpoint))
            .collect::<Vec<_>>();
        let service = DeclaredService {
            name: name.filter(|name| name.port > 0)?,
            protocol: protocol?,
            addresses: addresses.into_iter().collect::<Option<_>>()?,
            endpoints: endpoints.into_iter().collect::<Option<_>>()?,
        };
        self.nothing_twice(raw, &service);
        Some(service)
    }

    fn endpoint(&mut self, raw: &RawEndpoint) -> Option<DeclaredEndpoint> {
        let address = self.read("address", &raw.address, socket_address);
        let inbound = self.read_option("inbound", raw.inbound.as_ref(), socket_address);
        let identity = self.read_option("identity", raw.identity.as_ref(), SpiffeId::parse);
        let weight = self.read_option("weight", raw.weight.as_ref(), weight);
        let zone = self.read_option("zone", raw.zone.as_ref(), zone);
        if let (Some(inbound), None) = (&raw.inbound, &raw.identity) {
            self.mistake(
                "inbound",
                inbound,
                "it needs an identity: a proxy is dialled over mutual TLS only",
            );
        }
        Some(DeclaredEndpoint {
            address: address?,
            inbound: inbound?,
            identity: identity?,
            workload: None,
            weight: weight?.unwrap_or(1),
            priority: 0,
            zone: zone?,
            near: None,
        })
    }

    fn nothing_twice(&mut self, raw: &RawService, service: &DeclaredService) {
        let ServiceName { host, port, .. } = &service.name;
        self.once("name", &raw.name, format!("service {host}:{port}"));
        for (text, ip) in raw.addresses.iter().zip(&service.addresses) {
            self.once("addresses", text, format!("address {ip} {port}"));
        }
        for (raw, endpoint) in raw.endpoints.iter().zip(&service.endpoints) {
            self.once(
                "address",
                &raw.address,
                format!("endpoint {} of {host}:{port}", endpoint.address),
            );
        }
    }

    fn once(&mut self, field: &'static str, text: &Text, what: String) {
        if let Some(line) = self.taken.insert(what, text.line()) {
            self.mistake(field, text, format!("it is on line {line} already"));
        }
    }

    fn read<T, E: Display>(
        &mut self,
        field: &'static str,
        text: &Text,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        parse(text.as_str())
            .map_err(|error| self.mistake(field, text, error))
            .ok()
    }

    /// Like `read`; a field that is left out is `Some(None)`.
    #[expect(
        clippy::option_option,
        reason = "wrong, left out and given are three cases, and `?` takes the first"
    )]
    fn read_option<T, E: Display>(
        &mut self,
        field: &'static str,
        text: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        match text {
            Some(text) => self.read(field, text, parse).map(Some),
            None => Some(None),
        }
    }

    fn mistake(&mut self, field: &'static str, text: &Text, reason: impl Display) {
        let value = text.as_str().chars().take(MAX_SHOWN_CHARS).collect();
        self.mistakes.push(Mistake {
            line: text.line(),
            value: Some((field, value)),
            reason: reason.to_string(),
        });
    }
}

impl Text {
    fn as_str(&self) -> &str {
        &self.0.value
    }

    fn line(&self) -> u64 {
        self.0.referenced.line()
    }
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or("it is no port from 1 to 65535")
}

fn weight(text: &str) -> Result<u32, &'static str> {
    text.parse()
        .ok()
        .filter(|weight| *weight <= MAX_WEIGHT)
        .ok_or("it is no whole number from 0 to 1000000")
}

fn zone(text: &str) -> Result<Arc<str>, &'static str> {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let valid = !text.is_empty() && text.len() <= MAX_ZONE_BYTES && text.bytes().all(named);
    valid
        .then(|| text.into())
        .ok_or("it is no name of 1 to 63 letters, digits, '-', '.' and '_'")
}

fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    let parsed: Result<SocketAddr, AddrParseError> = text.parse();
    match parsed {
        Ok(address) if address.port() == 0 => Err("port 0 cannot be dialled"),
        Ok(address) if address.ip().is_unspecified() || address.ip().is_multicast() => {
            Err("it is no host's address")
        }
        Ok(address) => Ok(address),
        Err(_) => Err("it is not of the form 10.0.0.1:8080 or [fd00::1]:8080"),
    }
}

/// Bounds for what YAML can be made to cost. Aliases are allowed, for anchors are handy in such a file, but not many.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_documents: 1,
            max_nodes: 2_000_000,
            max_events: 4_000_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
    }
}

/// Keeps sums of weights far from overflow, and finer shares than a millionth make no sense.
const MAX_WEIGHT: u32 = 1_000_000;

/// As long as the value of a label in Kubernetes, where zones are named.
const MAX_ZONE_BYTES: usize = 63;

/// Of a wrong value, so that a log line stays one.
const MAX_SHOWN_CHARS: usize = 100;

#[cfg(test)]
mod tests;
