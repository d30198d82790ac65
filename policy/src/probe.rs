//! What the kubelet would ask an app, as the injector hands it to the proxy, which asks in its place.
//!
//! The kubelet has no identity, so an app behind strict mutual TLS would never be found well; and a TCP probe of a redirected port would
//! always succeed, for the proxy accepts.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// All probes of a pod, by `<container>/<kind>`.
pub type AppProbes = BTreeMap<String, AppProbe>;

/// When the kubelet asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Until it succeeds once.
    Startup,
    /// Whether the pod gets requests.
    Readiness,
    /// Whether the container is started anew.
    Liveness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        })
    }
}

/// One question and how long its answer may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppProbe {
    /// What is asked.
    pub ask: Question,
    /// As Kubernetes has it, at least 1.
    pub timeout_seconds: u32,
}

/// What is asked of an app.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Question {
    /// A GET, well with a status from 200 to 399.
    #[serde(rename_all = "camelCase")]
    Http {
        /// Of the app.
        port: u16,
        /// With its query.
        path: String,
        /// With TLS, whose certificate nobody verifies, as the kubelet does not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tls: bool,
        /// Added to the request.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
    },
    /// Whether it accepts a connection.
    Tcp {
        /// Of the app.
        port: u16,
    },
    /// gRPC's health protocol.
    Grpc {
        /// Of the app.
        port: u16,
        /// Asked about; empty for the whole app.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
}

/// Where the proxy is asked instead: `/app-health/<container>/<kind>` on its readiness port.
pub const PATH_PREFIX: &str = "/app-health/";
/// The proxy's readiness port.
pub const READY_PORT: u16 = 15021;

/// The key of a probe.
#[must_use]
pub fn key(container: &str, kind: ProbeKind) -> String {
    format!("{container}/{kind}")
}
