//! What holds for one port of our app: policy's word (`mtls`, `ports`), and where it says nothing, the configuration's.

use weft_policy::own::{Mtls, Port, PortProtocol};

use super::Active;
use crate::config::MtlsMode;
use crate::cx::Settings;

/// What holds for one port, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRules {
    /// Plain text is refused.
    pub(crate) strict: bool,
    /// What is spoken, if somebody said so.
    pub(crate) declared: Option<Declared>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declared {
    /// HTTP/1 or HTTP/2: what is not read as it is refused.
    Http,
    /// HTTP/2, also before a byte has come.
    Http2,
    /// Bytes that nobody reads.
    Opaque,
    /// TLS of the app's own, also where plain text is refused.
    OwnTls,
}

impl Active {
    /// What holds for `port`; `None` is a port that is not known yet.
    pub(crate) fn port(&self, settings: &Settings, port: Option<u16>) -> PortRules {
        let policy = &self.policy.inbound;
        let said = port.and_then(|port| policy.ports.get(&port)).copied();
        let said = said.unwrap_or_default();
        let mtls = said.mtls.or(policy.mtls);
        PortRules {
            strict: mtls.map_or(settings.mtls == MtlsMode::Strict, |mtls| {
                mtls == Mtls::Strict
            }),
            declared: declared(said, settings, port),
        }
    }
}

fn declared(said: Port, settings: &Settings, port: Option<u16>) -> Option<Declared> {
    match said.protocol {
        Some(PortProtocol::Http) => Some(Declared::Http),
        Some(PortProtocol::Http2 | PortProtocol::Grpc) => Some(Declared::Http2),
        Some(PortProtocol::Tcp) => Some(Declared::Opaque),
        Some(PortProtocol::Tls) => Some(Declared::OwnTls),
        // Read when the pod starts: what comes all the same is judged as if nothing were said.
        Some(PortProtocol::Skip) | None => {
            let port = port?;
            if settings.tls_ports.contains(&port) {
                Some(Declared::OwnTls)
            } else if settings.opaque_ports.contains(&port) {
                Some(Declared::Opaque)
            } else {
                None
            }
        }
    }
}
