//! `--check`: proves that a connection really is redirected, and arrives with its original destination.
//!
//! The proxy's user dials an address of loopback that is not 127.0.0.1 (`::6` for IPv6). Nothing listens there, so only the rule
//! for a pod that calls itself, which leads to the inbound port, can let that connection succeed. When the proxy is not
//! running yet, the check listens in its place and reads the original destination too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::getuid;
use socket2::{Domain, SockRef, Socket, Type};

use super::RedirectConfig;

/// Why the redirection does not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(
        "connections of uid {uid} are not redirected to port {port}, of this proxy; run `weft-proxy redirect` in this namespace, with the uid of the proxy"
    )]
    NotRedirectedHere {
        port: u16,
        uid: u32,
        source: io::Error,
    },
    #[error(
        "connections are not redirected to port {port}: {target} did not answer; run `weft-proxy redirect` in this namespace, and this check as uid {uid}"
    )]
    NotRedirected {
        port: u16,
        target: SocketAddr,
        uid: u32,
        source: io::Error,
    },
    #[error("a connection to {target} arrived without its original destination, found {found:?}")]
    WrongDestination {
        target: SocketAddr,
        found: Option<SocketAddr>,
    },
    #[error("listen on the inbound port {port}")]
    Listen { port: u16, source: io::Error },
}

/// Runs the check for IPv4, and for IPv6 where loopback has `::6`.
///
/// # Errors
/// When one of them is not redirected.
pub(super) fn run(config: &RedirectConfig) -> anyhow::Result<()> {
    each_family(|source, target| probe(config, source, target))?;
    Ok(())
}

/// Runs the check by the listeners of a proxy that does not accept yet.
///
/// # Errors
/// When one address family is not redirected to them.
pub(super) fn of_listeners(inbound: &[&TcpListener]) -> Result<(), CheckError> {
    let port = inbound
        .iter()
        .find_map(|listener| listener.local_addr().ok())
        .map_or(0, |address| address.port());
    each_family(|source, target| {
        let refused = |source| CheckError::NotRedirectedHere {
            port,
            uid: getuid().as_raw(),
            source,
        };
        let dialed = dial(source, target).map_err(refused)?;
        let accepted = inbound
            .iter()
            .find_map(|listener| listener.accept().ok())
            .ok_or(io::ErrorKind::ConnectionRefused.into());
        let (accepted, _) = accepted.map_err(refused)?;
        let found = original_destination(SockRef::from(&accepted), target);
        drop(dialed);
        arrived(target, found)
    })
}

/// Calls `probe` with a source and a target of IPv4, and of IPv6 where loopback has `::6`.
fn each_family(
    probe: impl Fn(SocketAddr, SocketAddr) -> Result<(), CheckError>,
) -> Result<(), CheckError> {
    let rows = [
        (
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5)),
        ),
        (
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
        ),
    ];
    for (source, target) in rows {
        let target = SocketAddr::new(target, PROBED_PORT);
        if target.is_ipv4() || exists(target.ip()) {
            probe(SocketAddr::new(source, 0), target)?;
        }
    }
    Ok(())
}

fn probe(
    config: &RedirectConfig,
    source: SocketAddr,
    target: SocketAddr,
) -> Result<(), CheckError> {
    let port = config.inbound_port;
    let listener =
        listen(source.ip(), port).map_err(|source| CheckError::Listen { port, source })?;
    let refused = |source| CheckError::NotRedirected {
        port,
        target,
        uid: config.uid,
        source,
    };
    let dialed = dial(source, target).map_err(refused)?;
    let Some(listener) = listener else {
        return Ok(());
    };
    // The connection is established, so it waits in the queue of whoever took it: ours, if it was redirected.
    listener.set_nonblocking(true).map_err(refused)?;
    let (accepted, _) = listener.accept().map_err(refused)?;
    let found = original_destination(SockRef::from(&accepted), target);
    drop(dialed);
    arrived(target, found)
}

fn arrived(target: SocketAddr, found: Option<SocketAddr>) -> Result<(), CheckError> {
    if found == Some(target) {
        Ok(())
    } else {
        Err(CheckError::WrongDestination { target, found })
    }
}

/// Listens in the proxy's place, or returns `None` because the proxy is there already.
fn listen(address: IpAddr, port: u16) -> io::Result<Option<TcpListener>> {
    match TcpListener::bind((address, port)) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

fn dial(source: SocketAddr, target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&target.into(), DIAL_TIMEOUT)?;
    Ok(socket)
}

fn original_destination(socket: SockRef<'_>, target: SocketAddr) -> Option<SocketAddr> {
    let found = if target.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    found.ok().and_then(|address| address.as_socket())
}

fn exists(address: IpAddr) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}

/// A port that nothing listens on (IANA's tcpmux, unused).
const PROBED_PORT: u16 = 1;
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
