//! Where the client meant to go, before redirection changed it.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination as the client dialled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OrigDst(pub(crate) SocketAddr);

/// Why a redirected connection is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrigDstError {
    #[error("connection to {local} has no original destination: it did not come by redirection")]
    NotRedirected { local: SocketAddr },
    #[error("original destination {0} is a port of this proxy")]
    Ourselves(SocketAddr),
    #[error("original destination cannot be read")]
    Unreadable(#[source] io::Error),
}

/// Reads the original destination and refuses our own ports, which would make the proxy call itself without end.
///
/// # Errors
/// See [`OrigDstError`].
pub(crate) fn orig_dst(io: &TcpStream, own_ports: &[u16]) -> Result<OrigDst, OrigDstError> {
    let local = io.local_addr().map_err(OrigDstError::Unreadable)?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let original = read(io, local).map_err(OrigDstError::Unreadable)?;
    let original = original.ok_or(OrigDstError::NotRedirected { local })?;
    if own_ports.contains(&original.port()) {
        return Err(OrigDstError::Ourselves(original));
    }
    Ok(OrigDst(original))
}

/// `None` when there is no NAT entry for the connection.
fn read(io: &TcpStream, local: SocketAddr) -> io::Result<Option<SocketAddr>> {
    let socket = SockRef::from(io);
    // A dual-stack listener has IPv4 connections too: their NAT entries are IPv4's.
    let original = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    match original {
        Ok(address) => Ok(address.as_socket()),
        Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// From errno(3); what the kernel says where connection tracking knows of no NAT.
const ENOENT: i32 = 2;
