//! An app that speaks HTTP/2 with prior knowledge and answers every request with 200 and the page `hello`.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

use crate::netns::{Host, User};

/// Starts the app at `address` of `host`; it ends with the test's process.
pub fn start(host: &Host, address: SocketAddr) {
    let listener = host.enter(User::APP, || std::net::TcpListener::bind(address).unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, accept(listener));
    });
}

async fn accept(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn_local(connection(stream));
    }
}

async fn connection(stream: TcpStream) -> Result<(), h2::Error> {
    // Reads ahead: h2 leaves what follows a wrong preface unread, and the kernel resets a connection that is closed so.
    let mut connection = h2::server::handshake(BufReader::new(stream)).await?;
    let mut requests = JoinSet::new();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        requests.spawn_local(answer(request, respond));
    }
    Ok(())
}

/// Reads the whole request first, as most apps do.
async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> io::Result<()> {
    let mut body = request.into_body();
    while let Some(part) = body.data().await {
        let part = part.map_err(io::Error::other)?;
        body.flow_control()
            .release_capacity(part.len())
            .map_err(io::Error::other)?;
    }
    let mut page = respond
        .send_response(Response::new(()), false)
        .map_err(io::Error::other)?;
    page.send_data(Bytes::from_static(b"hello\n"), true)
        .map_err(io::Error::other)
}
