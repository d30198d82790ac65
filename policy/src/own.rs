//! `ports`, `trace`, `log`, `skip`, `proxy`: how the proxy of a service itself runs.

use std::net::IpAddr;
use std::time::Duration;

use crate::rate_limit::Rate;
use crate::units::Share;

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
