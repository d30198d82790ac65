//! `ports`, `trace`, `log`, `skip`, `proxy`: how the proxy of a service itself runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::rate_limit::Rate;
use crate::read::At;
use crate::units::{self, Share};

/// Whether plaintext is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mtls {
    /// Takes both and counts plaintext callers.
    #[default]
    Permissive,
    /// Refuses plaintext.
    Strict,
}

/// What is known of a port of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Port {
    /// What is spoken; `None` is detected.
    pub protocol: Option<PortProtocol>,
    /// In place of the service's own.
    pub mtls: Option<Mtls>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    /// HTTP/1 or HTTP/2.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// TLS of the app's own.
    Tls,
    /// Not redirected (read when the pod starts).
    Skip,
}

/// `trace`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trace {
    /// Which requests begin a trace when the caller brings none.
    pub sample: Option<Sample>,
    /// Where spans go (read when the pod starts).
    pub otlp: Option<String>,
    /// Added to each span.
    pub attributes: Vec<(String, String)>,
}

/// A share of requests, or so many in a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    /// `5%`.
    Share(Share),
    /// `10/s`.
    Rate(Rate),
}

/// `log`. `None` leaves it to the proxy's own configuration.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Log {
    /// Which requests get a line.
    pub access: Option<AccessLog>,
    /// What a line looks like.
    pub format: Option<LogFormat>,
    /// A filter as in `WEFT_LOG`.
    pub level: Option<String>,
    /// Headers and query parameters whose values are not written.
    pub mask: Vec<String>,
}

/// Which requests get a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that failed.
    Errors,
    /// All.
    All,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `skip`: not redirected (read when the pod starts).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Skip {
    /// Ports of the app that callers reach without the proxy.
    pub inbound_ports: Vec<u16>,
    /// Ports that the app calls without the proxy.
    pub outbound_ports: Vec<u16>,
    /// Networks that the app calls without the proxy: address and prefix length in bits.
    pub outbound_cidrs: Vec<(IpAddr, u8)>,
}

/// `proxy`: the container (read when the pod starts). Quantities are kept as Kubernetes writes them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProxyContainer {
    /// Image.
    pub image: Option<String>,
    /// CPU request.
    pub cpu: Option<String>,
    /// Memory request.
    pub memory: Option<String>,
    /// CPU limit.
    pub cpu_limit: Option<String>,
    /// Memory limit.
    pub memory_limit: Option<String>,
    /// Worker threads.
    pub workers: Option<u32>,
}

/// How long what runs may take to end when the pod ends, where nothing is written.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

impl Mtls {
    const WORDS: [(&'static str, Self); 2] =
        [("strict", Self::Strict), ("permissive", Self::Permissive)];

    pub(crate) fn read(at: &At<'_>) -> Option<Self> {
        at.word(&Self::WORDS)
    }
}

impl Port {
    /// Reads `ports`: a number each, with a protocol or a map.
    pub(crate) fn read_map(at: &At<'_>) -> BTreeMap<u16, Self> {
        let entries = at.entries(MAX_PORTS).into_iter();
        let read =
            |(number, at): (&str, At<'_>)| Some((at.checked(port(number))?, Self::read(&at)));
        entries.filter_map(read).collect()
    }

    fn read(at: &At<'_>) -> Self {
        let fields = at.fields_or("protocol", &["protocol", "mtls"]);
        Self {
            protocol: fields
                .get("protocol")
                .and_then(|at| at.word(&PortProtocol::WORDS)),
            mtls: fields.get("mtls").and_then(|at| Mtls::read(&at)),
        }
    }
}

impl PortProtocol {
    const WORDS: [(&'static str, Self); 6] = [
        ("http", Self::Http),
        ("http2", Self::Http2),
        ("grpc", Self::Grpc),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("skip", Self::Skip),
    ];
}

/// A port from 1 to 65535.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|&port| digits && port != 0);
    port.ok_or_else(|| "is not a port from 1 to 65535".to_owned())
}

impl Trace {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields_or("sample", &["sample", "otlp", "attributes"]);
        let attributes = fields.get("attributes").map(|at| {
            let entries = at.entries(MAX_ATTRIBUTES).into_iter();
            let read = |(name, at): (&str, At<'_>)| Some((name.to_owned(), at.text()?.to_owned()));
            entries.filter_map(read).collect()
        });
        Self {
            sample: fields.get("sample").and_then(|at| at.parse(Sample::parse)),
            otlp: fields.get("otlp").and_then(|at| at.parse(url)),
            attributes: attributes.unwrap_or_default(),
        }
    }
}

impl Sample {
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Rate::parse(text).map(Self::Rate);
        }
        let share = units::parse_share(text).map(Self::Share);
        share.map_err(|error| format!("{error}, or a rate, 10/s"))
    }
}

/// An address that is reached by HTTP.
pub(crate) fn url(text: &str) -> Result<String, String> {
    let uri = text.parse::<http::Uri>().ok();
    let known = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    let uri = uri.filter(|uri| known(uri) && uri.host().is_some_and(|host| !host.is_empty()));
    match uri {
        Some(_) => Ok(text.to_owned()),
        None => Err("is not of the form https://host or http://host:port/path".to_owned()),
    }
}

impl Log {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields_or("access", &["access", "format", "level", "mask"]);
        let access = [
            ("off", AccessLog::Off),
            ("errors", AccessLog::Errors),
            ("all", AccessLog::All),
        ];
        let format = [("json", LogFormat::Json), ("text", LogFormat::Text)];
        let name = |text: &str| Ok::<_, String>(text.to_owned());
        Self {
            access: fields.get("access").and_then(|at| at.word(&access)),
            format: fields.get("format").and_then(|at| at.word(&format)),
            level: fields.get("level").and_then(|at| at.parse(name)),
            mask: fields
                .get("mask")
                .map(|at| at.list(MAX_ATTRIBUTES, name))
                .unwrap_or_default(),
        }
    }
}

impl Skip {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields(&["inbound-ports", "outbound-ports", "outbound-cidrs"]);
        let ports = |key| {
            let ports = fields.get(key).map(|at| at.list(MAX_PORTS, port));
            ports.unwrap_or_default()
        };
        Self {
            inbound_ports: ports("inbound-ports"),
            outbound_ports: ports("outbound-ports"),
            outbound_cidrs: fields
                .get("outbound-cidrs")
                .map(|at| at.list(MAX_PORTS, cidr))
                .unwrap_or_default(),
        }
    }
}

fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    let address = address.parse::<IpAddr>().ok();
    let most = match address {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) | None => 128,
    };
    let bits = match bits {
        "" => Some(most),
        bits => bits.parse().ok().filter(|bits| *bits <= most),
    };
    address
        .zip(bits)
        .ok_or_else(|| "is no network; write 10.0.0.0/8 or fd00::/8".to_owned())
}

impl ProxyContainer {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields(&[
            "image",
            "cpu",
            "memory",
            "cpu-limit",
            "memory-limit",
            "workers",
        ]);
        let quantity = |key| fields.get(key).and_then(|at| at.parse(quantity));
        Self {
            image: fields.get("image").and_then(|at| at.parse(image)),
            cpu: quantity("cpu"),
            memory: quantity("memory"),
            cpu_limit: quantity("cpu-limit"),
            memory_limit: quantity("memory-limit"),
            workers: fields.get("workers").and_then(|at| at.number(1, 256)),
        }
    }
}

/// A number with one of the suffixes that Kubernetes knows: `100m`, `0.5`, `128Mi`.
fn quantity(text: &str) -> Result<String, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let known = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&suffix);
    let positive = number.parse::<f64>().is_ok_and(|number| number > 0.0);
    match known && positive {
        true => Ok(text.to_owned()),
        false => Err("is no quantity; write 100m, 0.5 or 128Mi".to_owned()),
    }
}

fn image(text: &str) -> Result<String, String> {
    match text.bytes().all(|c| c.is_ascii_graphic()) && text.len() <= 512 {
        true => Ok(text.to_owned()),
        false => Err("is no image".to_owned()),
    }
}

/// Reads `drain`.
pub(crate) fn drain(at: &At<'_>) -> Option<Duration> {
    let drain = at.parse(units::parse_duration)?;
    if drain > Duration::from_secs(3600) {
        at.refuse("is longer than 1h");
    }
    Some(drain)
}

/// Reads `inject`.
pub(crate) fn inject(at: &At<'_>) -> Option<bool> {
    at.word(&[("enabled", true), ("disabled", false)])
}

const MAX_PORTS: usize = 256;
const MAX_ATTRIBUTES: usize = 64;
