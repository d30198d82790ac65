//! Service names: what a caller may write, and the form they are looked up in.
//!
//! A name comes from a Host header, `:authority`, a CONNECT target or the services file. Nothing is resolved here.

use std::net::IpAddr;
use std::sync::Arc;

use crate::discovery::service::ServiceName;

impl ServiceName {
    /// Reads a name of the services file: `orders` (in `namespace`), `orders.shop`, `orders.shop.svc`,
    /// `orders.shop.svc.cluster.local`, or a host outside the cluster.
    pub(in crate::discovery) fn declared(
        host: &str,
        port: u16,
        namespace: &str,
    ) -> Result<Self, NameError> {
        let host = normal(host)?;
        let mut labels = host.split('.');
        match (labels.next(), labels.next(), labels.next()) {
            (Some(name), None, None) => Ok(Self::in_cluster(name, namespace, port)),
            (Some(name), Some(namespace), None) => Ok(Self::in_cluster(name, namespace, port)),
            _ => Ok(Self::from_normal(&host, port)),
        }
    }

    /// The name of a host that the services file does not know.
    pub(in crate::discovery) fn called(host: &str, port: u16) -> Result<Self, NameError> {
        Ok(Self::from_normal(&normal(host)?, port))
    }

    /// The name of a bare address.
    pub(in crate::discovery) fn address(ip: IpAddr, port: u16) -> Self {
        let host: Arc<str> = ip.to_string().into();
        Self {
            name: Arc::clone(&host),
            namespace: UNKNOWN.into(),
            host,
            port,
        }
    }

    fn from_normal(host: &str, port: u16) -> Self {
        let cluster = host
            .strip_suffix(CLUSTER_DOMAIN)
            .unwrap_or(host)
            .strip_suffix(".svc");
        match cluster.and_then(|cluster| cluster.split_once('.')) {
            Some((name, namespace)) if !namespace.contains('.') => {
                Self::in_cluster(name, namespace, port)
            }
            _ => Self {
                name: host.into(),
                namespace: UNKNOWN.into(),
                host: host.into(),
                port,
            },
        }
    }

    fn in_cluster(name: &str, namespace: &str, port: u16) -> Self {
        let host = format!("{name}.{namespace}.svc{CLUSTER_DOMAIN}").into();
        Self {
            name: name.into(),
            namespace: namespace.into(),
            host,
            port,
        }
    }

    /// Every way to write the name, for a caller in `namespace`.
    pub(in crate::discovery) fn spellings(&self, namespace: &str) -> Vec<String> {
        let (name, own) = (&self.name, &self.namespace);
        if &**own == UNKNOWN {
            return vec![String::from(&*self.host)];
        }
        let short = (&**own == namespace).then(|| String::from(&**name));
        short
            .into_iter()
            .chain([
                format!("{name}.{own}"),
                format!("{name}.{own}.svc"),
                String::from(&*self.host),
            ])
            .collect()
    }
}

/// Host and port as the key of a map, made on the stack so that a lookup costs no allocation.
///
/// Host names are compared without regard to case and to a trailing dot (RFC 4343 section 2, RFC 1034 section 3.1).
pub(in crate::discovery) struct Key {
    bytes: [u8; MAX_HOST_BYTES + 2],
    len: usize,
}

impl Key {
    /// `None` for what is too long to be a name. An IPv6 address has the same key with and without brackets.
    pub(in crate::discovery) fn new(host: &str, port: u16) -> Option<Self> {
        let host = unbracketed(host).unwrap_or(host);
        let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
        let mut key = Self {
            bytes: [0; MAX_HOST_BYTES + 2],
            len: host.len() + 2,
        };
        let (high, low) = key.bytes.split_first_chunk_mut::<2>()?;
        *high = port.to_be_bytes();
        let name = low.get_mut(..host.len())?;
        name.copy_from_slice(host);
        name.make_ascii_lowercase();
        Some(key)
    }

    pub(in crate::discovery) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The address that `host` is, if it is one: `10.0.0.1`, `::1` or `[::1]`.
pub(in crate::discovery) fn address_literal(host: &str) -> Option<IpAddr> {
    let bare = unbracketed(host);
    // Names of services begin with a letter nearly always, and are not worth a try.
    let plausible = bare.is_some()
        || host.contains(':')
        || host.starts_with(|first: char| first.is_ascii_digit());
    plausible
        .then(|| bare.unwrap_or(host).parse().ok())
        .flatten()
}

fn unbracketed(host: &str) -> Option<&str> {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
}

/// Lower case, without a trailing dot, and a name that DNS can hold (RFC 1035 section 2.3.4).
fn normal(host: &str) -> Result<String, NameError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(NameError::Empty);
    }
    if host.len() > MAX_HOST_BYTES {
        return Err(NameError::TooLong { bytes: host.len() });
    }
    if let Some(character) = host
        .chars()
        .find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
    {
        return Err(NameError::Character { character });
    }
    if let Some(label) = host
        .split('.')
        .find(|label| label.is_empty() || label.len() > MAX_LABEL_BYTES)
    {
        return Err(NameError::Label {
            label: label.into(),
        });
    }
    Ok(host.to_ascii_lowercase())
}

/// Why a text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes, more than {MAX_HOST_BYTES}")]
    TooLong { bytes: usize },
    #[error("{character:?} is not allowed, only letters, digits, '-', '_' and '.'")]
    Character { character: char },
    #[error("the label {label:?} has not 1 to {MAX_LABEL_BYTES} bytes")]
    Label { label: String },
}

/// Longest name in text form without the trailing dot (RFC 1035 section 2.3.4: 255 octets on the wire).
const MAX_HOST_BYTES: usize = 253;

const MAX_LABEL_BYTES: usize = 63;

/// Ends the names of services in a cluster.
const CLUSTER_DOMAIN: &str = ".cluster.local";

/// As Istio's telemetry writes what it does not know.
pub(in crate::discovery) const UNKNOWN: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(name: &ServiceName) -> (&str, &str, &str) {
        (&name.name, &name.namespace, &name.host)
    }

    #[test]
    fn a_declared_name_finds_its_namespace() {
        let shop = ("orders", "shop", "orders.shop.svc.cluster.local");
        let own = ("orders", "default", "orders.default.svc.cluster.local");
        let rows = [
            ("orders", own),
            ("Orders.", own),
            ("orders.shop", shop),
            ("orders.SHOP.svc", shop),
            ("orders.shop.svc.cluster.local", shop),
            ("orders.shop.svc.cluster.local.", shop),
            (
                "api.example.com",
                ("api.example.com", "unknown", "api.example.com"),
            ),
            ("a.b.c.svc", ("a.b.c.svc", "unknown", "a.b.c.svc")),
        ];
        for (host, want) in rows {
            assert_eq!(
                parts(&ServiceName::declared(host, 80, "default").unwrap()),
                want,
                "{host}"
            );
        }
    }

    #[test]
    fn a_called_name_has_a_namespace_only_if_it_says_so() {
        let rows = [
            ("example.com", ("example.com", "unknown", "example.com")),
            ("Redis", ("redis", "unknown", "redis")),
            (
                "orders.shop.svc",
                ("orders", "shop", "orders.shop.svc.cluster.local"),
            ),
        ];
        for (host, want) in rows {
            assert_eq!(
                parts(&ServiceName::called(host, 80).unwrap()),
                want,
                "{host}"
            );
        }
    }

    #[test]
    fn what_no_host_can_be_is_refused_with_the_reason() {
        let long = "a.".repeat(128);
        let rows = [
            ("", NameError::Empty),
            (".", NameError::Empty),
            (&long, NameError::TooLong { bytes: 255 }),
            (
                "a..b",
                NameError::Label {
                    label: String::new(),
                },
            ),
            (
                &long.replace('.', "a")[..64],
                NameError::Label {
                    label: "a".repeat(64),
                },
            ),
            ("or ders", NameError::Character { character: ' ' }),
            ("orders/x", NameError::Character { character: '/' }),
            ("ördérs", NameError::Character { character: 'ö' }),
        ];
        for (host, want) in rows {
            assert_eq!(ServiceName::called(host, 80).unwrap_err(), want, "{host:?}");
        }
        assert!(
            ServiceName::called(&long[..254], 80).is_ok(),
            "253 bytes and a dot are allowed"
        );
    }

    #[test]
    fn spellings_end_in_the_same_name() {
        for (namespace, count) in [("shop", 4), ("default", 3)] {
            let name = ServiceName::declared("orders.shop", 80, "default").unwrap();
            let spellings = name.spellings(namespace);
            assert_eq!(spellings.len(), count, "{spellings:?}");
            for spelling in spellings {
                assert_eq!(
                    ServiceName::declared(&spelling, 80, namespace).unwrap(),
                    name
                );
            }
        }
    }

    #[test]
    fn keys_ignore_case_and_the_trailing_dot_but_not_the_port() {
        let key = |host: &str, port| Key::new(host, port).map(|key| key.as_bytes().to_vec());
        assert_eq!(key("Orders.SHOP.", 80), key("orders.shop", 80));
        assert_ne!(key("orders", 80), key("orders", 81));
        assert_ne!(key("orders", 80), key("order", 80));
        assert_eq!(key("[::1]", 80), key("::1", 80));
        assert!(key(&"a".repeat(253), 80).is_some());
        assert_eq!(key(&"a".repeat(254), 80), None);
    }

    #[test]
    fn addresses_are_told_from_names() {
        let rows = [
            ("127.0.0.1", Some("127.0.0.1")),
            ("[::1]", Some("::1")),
            ("::1", Some("::1")),
            ("[fd00::5]", Some("fd00::5")),
            ("1.example.com", None),
            ("127.0.0.1.", None),
            ("orders", None),
            ("[orders]", None),
            ("", None),
        ];
        for (host, want) in rows {
            assert_eq!(
                address_literal(host),
                want.map(|ip| ip.parse().unwrap()),
                "{host}"
            );
        }
    }
}
