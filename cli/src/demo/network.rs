//! Where the shop's processes are: all on this machine's loopback, or each app in a network namespace of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context as _;

use super::netns::Namespaces;
use super::process::Start;
use crate::app::AppName;

/// Where one app and its proxy listen.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: AppName,
    /// The network namespace, where it has its own.
    pub(crate) namespace: Option<String>,
    /// Where somebody outside the mesh calls it.
    pub(crate) entry: SocketAddr,
    /// The virtual address that callers use, where something redirects it.
    pub(crate) service: Option<SocketAddr>,
    pub(crate) app: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) ready: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Place {
    /// Returns the port callers name, and what is spoken there.
    pub(crate) fn offer(&self) -> (u16, &'static str) {
        offer(self.name)
    }
}

/// How the processes reach each other.
#[derive(Debug)]
pub(crate) enum Network {
    /// All on 127.0.0.1; apps send their calls to their proxy.
    Loopback,
    /// The kernel redirects; apps call services by address and know nothing of a proxy.
    Namespaces(Namespaces),
}

impl Network {
    /// Returns the address that the CA and the collector listen on.
    pub(crate) fn hub(&self) -> IpAddr {
        match self {
            Self::Loopback => LOCALHOST,
            Self::Namespaces(namespaces) => namespaces.hub(),
        }
    }

    /// Places the CA and the three apps, on ports that are free now.
    ///
    /// # Errors
    /// There are not enough free ports.
    pub(crate) fn places(&self) -> anyhow::Result<(SocketAddr, [Place; 3])> {
        match self {
            Self::Loopback => on_loopback(),
            Self::Namespaces(namespaces) => {
                let port = free_ports(namespaces.hub(), 1)?
                    .pop()
                    .context("one free port")?;
                let ca = SocketAddr::new(namespaces.hub(), port);
                let place = |app| in_namespace(namespaces, app);
                Ok((ca, AppName::ALL.map(place)))
            }
        }
    }

    /// Returns the virtual address of the service that is not who it should be.
    pub(crate) fn impostor(&self) -> Option<IpAddr> {
        match self {
            Self::Loopback => None,
            Self::Namespaces(namespaces) => Some(namespaces.service(AppName::ALL.len())),
        }
    }

    /// Returns the user that proxies run as, where the kernel must tell them from their apps.
    pub(crate) fn proxy_user(&self) -> Option<u32> {
        match self {
            Self::Loopback => None,
            Self::Namespaces(_) => Some(PROXY_USER),
        }
    }

    /// Has `start` happen where `place` is.
    pub(crate) fn inside(&self, place: &Place, start: Start) -> Start {
        match (self, &place.namespace) {
            (Self::Namespaces(namespaces), Some(name)) => namespaces.inside(name, start),
            _ => start,
        }
    }
}

fn on_loopback() -> anyhow::Result<(SocketAddr, [Place; 3])> {
    let ports = free_ports(LOCALHOST, 1 + 6 * AppName::ALL.len())?;
    let mut addresses = ports
        .into_iter()
        .map(|port| SocketAddr::new(LOCALHOST, port));
    let mut next = || addresses.next().context("one more free port");
    let ca = next()?;
    let mut place = |name| {
        let inbound = next()?;
        anyhow::Ok(Place {
            name,
            namespace: None,
            entry: inbound,
            service: None,
            app: next()?,
            inbound,
            outbound: next()?,
            metrics: next()?,
            ready: next()?,
            admin: next()?,
        })
    };
    let [web, orders, users] = AppName::ALL;
    Ok((ca, [place(web)?, place(orders)?, place(users)?]))
}

/// In a namespace all ports are free, so these are the ones of a pod.
fn in_namespace(namespaces: &Namespaces, name: AppName) -> Place {
    let number = AppName::ALL
        .into_iter()
        .take_while(|app| *app != name)
        .count();
    let address = namespaces.address(number);
    let at = |port| SocketAddr::new(address, port);
    let inside = |port| SocketAddr::new(LOCALHOST, port);
    let (port, _) = offer(name);
    Place {
        name,
        namespace: Some(namespaces.name(name)),
        entry: at(8080),
        service: Some(SocketAddr::new(namespaces.service(number), port)),
        app: at(8080),
        inbound: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15006),
        outbound: inside(15001),
        metrics: at(15020),
        ready: at(15021),
        admin: at(15000),
    }
}

fn offer(app: AppName) -> (u16, &'static str) {
    match app {
        AppName::Web | AppName::Orders => (80, "http"),
        AppName::Users => (50051, "grpc"),
    }
}

/// Returns ports that were free a moment ago; held together, so that they differ.
fn free_ports(address: IpAddr, count: usize) -> anyhow::Result<Vec<u16>> {
    let bind = |_| TcpListener::bind((address, 0));
    let held: Vec<_> = (0..count)
        .map(bind)
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    held.iter().map(port).collect()
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Whose packets are not redirected, as `weft-proxy redirect` has it by default.
const PROXY_USER: u32 = 1337;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn place(name: AppName) -> Place {
        let at = |port| SocketAddr::new(LOCALHOST, port);
        Place {
            name,
            namespace: None,
            entry: at(2),
            service: None,
            app: at(1),
            inbound: at(2),
            outbound: at(3),
            metrics: at(4),
            ready: at(5),
            admin: at(6),
        }
    }

    #[test]
    fn ports_differ() {
        let mut ports = free_ports(LOCALHOST, 19).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 19);
    }
}
