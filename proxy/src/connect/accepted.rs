//! Whether the app beside us has taken a new connection from its listener's queue.
//!
//! The kernel answers a connection before the app has accepted it. An app that stops listening has all that are still in the
//! queue reset, and a reset does not say whether a request on it was read. So where an app is about to leave, the request waits
//! until its connection has an owner. The kernel's table of sockets knows (sock_diag(7)): one that nobody has accepted has no
//! inode.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};

/// Waits until the app has accepted `io`, for no longer than [`LIMIT`].
///
/// Ends at once where the other end is on another host, or the kernel's table must not be read: then nothing is known, and the
/// request goes as if it had been accepted.
///
/// # Errors
/// The connection was reset: nothing of a request was sent.
pub(crate) async fn wait(io: &TcpStream) -> io::Result<()> {
    let begun = Instant::now();
    while is_queued(io).unwrap_or(false) && begun.elapsed() < LIMIT {
        sleep(ASK_AGAIN).await;
    }
    io.take_error()?.map_or(Ok(()), Err)
}

/// Whether the other end is a socket of this host that still waits to be accepted.
fn is_queued(io: &TcpStream) -> io::Result<bool> {
    let (ours, apps) = (io.local_addr()?, io.peer_addr()?);
    let table = socket(
        AddressFamily::NETLINK,
        SocketType::RAW,
        Some(netlink::SOCK_DIAG),
    )?;
    let answer = ask(&table, &request(apps, ours))?;
    Ok(reads_queued(&answer))
}

fn ask(table: &OwnedFd, request: &[u8]) -> io::Result<[u8; ANSWER_LENGTH]> {
    send(table, request, SendFlags::empty())?;
    let mut answer = [0; ANSWER_LENGTH];
    recv(table, &mut answer[..], RecvFlags::DONTWAIT)?;
    Ok(answer)
}

/// `nlmsghdr`, then `inet_diag_req_v2` for the one socket at `local` whose other end is at `remote` (linux/inet_diag.h).
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::with_capacity(REQUEST_LENGTH as usize);
    bytes.extend(REQUEST_LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]); // sequence number and port: one request, one answer
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // in any state
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(octets(local.ip()));
    bytes.extend(octets(remote.ip()));
    bytes.extend([0; 4]); // on any interface
    bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    bytes
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Reads `nlmsghdr` and `inet_diag_msg`. Where there is no such connection the kernel finds the listener, or says so.
fn reads_queued(answer: &[u8; ANSWER_LENGTH]) -> bool {
    let [_, _, _, _, kind_low, kind_high, ..] = *answer;
    let kind = u16::from_ne_bytes([kind_low, kind_high]);
    let state = answer[STATE_AT];
    let no_inode = answer[INODE_AT..].iter().all(|byte| *byte == 0);
    kind == SOCK_DIAG_BY_FAMILY && matches!(state, TCP_ESTABLISHED | TCP_CLOSE_WAIT) && no_inode
}

/// An app that takes longer than this to accept is sent the request on trust.
const LIMIT: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(1);

const REQUEST_LENGTH: u32 = 16 + 56;
const ANSWER_LENGTH: usize = 16 + 72;
const STATE_AT: usize = 16 + 1;
const INODE_AT: usize = 16 + 68;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Duration, timeout};

    use super::{is_queued, wait};

    async fn is_seen(listens: &str, dialled: &str) {
        let listener = TcpListener::bind((listens, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let io = TcpStream::connect((dialled, port)).await.unwrap();
        assert!(is_queued(&io).unwrap());
        let waiting = timeout(Duration::from_millis(20), wait(&io)).await;
        assert!(waiting.is_err(), "did not wait for the app");
        let _accepted = listener.accept().await.unwrap();
        assert!(!is_queued(&io).unwrap());
        wait(&io).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_queued_until_it_is_accepted() {
        is_seen("127.0.0.1", "127.0.0.1").await;
        is_seen("::1", "::1").await;
        // As most apps listen.
        is_seen("::", "127.0.0.1").await;
    }

    #[tokio::test]
    async fn an_app_that_stops_listening_fails_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        drop(listener);
        wait(&io).await.unwrap_err();
    }

    #[tokio::test]
    async fn an_end_of_an_accepted_connection_is_left_to_the_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        drop(listener.accept().await.unwrap());
        wait(&io).await.unwrap();
    }
}
