//! Binds, and accepts: connection limit, patience when file descriptors run out, one task a connection.
//!
//! Each worker has its own sockets on the same port (SO_REUSEPORT); the kernel spreads connections over them.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, sleep};
use tracing::warn;

use crate::tasks::Tasks;

/// Whether several sockets share one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody else may have the port: a second proxy on it is a mistake that must show.
    Alone,
    /// The other workers of this proxy have it too.
    Workers,
}

/// Binds one socket.
///
/// # Errors
/// What the kernel says; `[::]` falls back to `0.0.0.0` where there is no IPv6.
pub(crate) fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    match bind_exactly(address, sharing) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && is_no_ipv6(&error) => {
            bind_exactly(
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
                sharing,
            )
        }
        bound => bound,
    }
}

/// Whether the kernel has no such address family or address.
pub(crate) fn is_no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn bind_exactly(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Workers)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How many connections there are, and may be.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    open: Rc<Cell<usize>>,
    max: usize,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Rc<Cell<usize>>);

impl Limit {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            open: Rc::default(),
            max,
        }
    }

    fn take(&self) -> Option<Place> {
        if self.open.get() >= self.max {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Place(Rc::clone(&self.open)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Accepts until the task is dropped; `serve` makes the future of one connection, `full` hears of each refused one.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    limit: Limit,
    tasks: Tasks,
    full: impl Fn(),
    serve: impl Fn(TcpStream, SocketAddr, Place) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    loop {
        match listener.accept().await {
            Ok((io, client)) => match limit.take() {
                // Dropping it tells the client at once; waiting would let the queue grow where nobody sees it.
                None => {
                    drop(io);
                    full();
                }
                Some(place) => {
                    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
                    drop(tasks.spawn_local(serve(io, client, place)));
                }
            },
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                // EMFILE and its kind end when connections do; trying at once would only burn the CPU.
                warn!(%error, "connection cannot be accepted");
                sleep(PATIENCE).await;
            }
        }
    }
}

/// accept(2): errors that belong to the connection that was to be accepted.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

const BACKLOG: i32 = 4096;
const PATIENCE: Duration = Duration::from_millis(50);
/// From errno(3).
const EAFNOSUPPORT: i32 = 97;
