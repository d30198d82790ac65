//! `egress`: whether policy lets our app call what is not in the mesh.
//!
//! In the mesh is what the services file names. The rest is judged by the name it is called by: in explicit mode that name
//! is looked up and dialled, so it is the truth. With redirection the app has dialled an address, and says the name itself
//! (Host, or the server name of its TLS); where it says none, the address stands for it. That keeps an honest app to what its
//! operator has listed. It does not hold a hostile one, which can lie about the name: that takes a network policy.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::HOST;
use weft_policy::egress::Egress;

use crate::discovery::service::Service;
use crate::reject::Reject;

/// Whether `service` may be called.
///
/// # Errors
/// [`Reject::EgressDenied`].
pub(crate) fn check_service(egress: &Egress, service: &Service) -> Result<(), Reject> {
    let allowed = service.in_mesh || allows_host(egress, &service.name.host);
    allowed.then_some(()).ok_or(Reject::EgressDenied)
}

/// Whether a name that is not in the mesh may be looked up.
///
/// # Errors
/// [`Reject::EgressDenied`].
pub(crate) fn check_host(egress: &Egress, host: &str) -> Result<(), Reject> {
    allows_host(egress, host)
        .then_some(())
        .ok_or(Reject::EgressDenied)
}

/// Whether `address` outside the mesh may be called; `name` is what the app calls it.
///
/// # Errors
/// [`Reject::EgressDenied`].
pub(crate) fn check_address(
    egress: &Egress,
    address: SocketAddr,
    name: Option<&str>,
) -> Result<(), Reject> {
    let allowed = match egress {
        Egress::Allow => true,
        Egress::Deny => false,
        Egress::Hosts(_) => {
            let literal = match address.ip().to_canonical() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            allows_host(egress, name.unwrap_or(&literal)) || allows_host(egress, &literal)
        }
    };
    allowed.then_some(()).ok_or(Reject::EgressDenied)
}

/// The name that a request calls its destination by.
pub(crate) fn name_in(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok().map(without_port)
}

/// `orders` of `orders:80`, `[::1]` of `[::1]:80`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn allows_host(egress: &Egress, host: &str) -> bool {
    match egress {
        Egress::Allow => true,
        Egress::Deny => false,
        Egress::Hosts(hosts) => hosts.iter().any(|pattern| pattern.matches(host)),
    }
}

#[cfg(test)]
mod tests {
    use weft_policy::matcher::HostPattern;

    use super::*;

    fn list(hosts: &[&str]) -> Egress {
        let pattern = |host: &&str| HostPattern {
            name: host.trim_start_matches('*').to_owned(),
            wildcard: host.starts_with('*'),
        };
        Egress::Hosts(hosts.iter().map(pattern).collect())
    }

    #[test]
    fn an_address_is_judged_by_its_name_or_itself() {
        let listed = list(&["api.example.com", "*.cdn.example", "10.1.2.3", "[fd00::1]"]);
        let rows: &[(&str, Option<&str>, bool)] = &[
            ("10.0.0.1:443", Some("api.example.com"), true),
            ("10.0.0.1:443", Some("API.example.com"), true),
            ("10.0.0.1:443", Some("a.cdn.example"), true),
            ("10.0.0.1:443", Some("cdn.example"), false),
            ("10.0.0.1:443", Some("evil.example"), false),
            ("10.0.0.1:443", None, false),
            ("10.1.2.3:443", None, true),
            ("10.1.2.3:443", Some("evil.example"), true),
            ("[::ffff:10.1.2.3]:443", None, true),
            ("[fd00::1]:443", None, true),
        ];
        for (address, name, want) in rows {
            let got = check_address(&listed, address.parse().unwrap(), *name);
            assert_eq!(got.is_ok(), *want, "{address} {name:?}");
        }
        let address = "10.1.2.3:443".parse().unwrap();
        assert!(check_address(&Egress::Allow, address, None).is_ok());
        assert!(check_address(&Egress::Deny, address, Some("10.1.2.3")).is_err());
    }
}
