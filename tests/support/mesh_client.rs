//! Carries the bytes of a program that knows no mesh over mesh TLS, as a calling proxy would.

use std::io;
use std::net::SocketAddr;

use rustls_pki_types::ServerName;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;
use weft_certs::identity::Identity;
use weft_policy::spiffe::SpiffeId;

use crate::netns::{Host, User};

/// Listens on a port of loopback of `host`, carries each connection there to `target`, which must be `expected`, and returns
/// the port. Ends with the test's process.
pub fn carry(host: &Host, target: SocketAddr, own: &Identity, expected: &SpiffeId) -> u16 {
    let connector = TlsConnector::from(own.client_config(expected, &HTTP2).unwrap());
    let listener = host.enter(User::ROOT, || {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap()
    });
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    // A thread that is started on a host stays there.
    host.enter(User::ROOT, || {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, accept(listener, target, connector));
        });
    });
    port
}

async fn accept(listener: std::net::TcpListener, target: SocketAddr, connector: TlsConnector) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let (plain, _) = listener.accept().await.unwrap();
        connections.spawn_local(one(plain, target, connector.clone()));
    }
}

/// Failures are what the carried program sees: its connection ends.
async fn one(mut plain: TcpStream, target: SocketAddr, connector: TlsConnector) -> io::Result<()> {
    let name = format!(
        "outbound_.{}_._.app.default.svc.cluster.local",
        target.port()
    );
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let upstream = TcpStream::connect(target).await?;
    upstream.set_nodelay(true)?;
    let mut mesh = connector.connect(name, upstream).await?;
    copy_bidirectional(&mut plain, &mut mesh).await?;
    Ok(())
}

/// What an outbound proxy offers for HTTP/2.
const HTTP2: [&[u8]; 3] = [b"istio-h2", b"istio", b"h2"];
