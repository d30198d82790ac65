//! The app at the end of every chain: 1 KiB for each request, over HTTP/1.1 on one port and HTTP/2 by prior knowledge on
//! another. It prints both addresses and serves until it is ended.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

/// What every answer carries.
pub(crate) const BODY_BYTES: usize = 1024;

static BODY: [u8; BODY_BYTES] = [b'w'; BODY_BYTES];

/// Serves on two free ports of the loopback, as the process that [`crate::chain`] started.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let http1 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let http2 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        announce(http1.local_addr()?, http2.local_addr()?)?;
        Ok(serve(http1, http2).await?)
    })
}

/// Accepts on both until one of them fails.
pub(crate) async fn serve(http1: TcpListener, http2: TcpListener) -> std::io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = http1.accept() => {
                connections.spawn_local(serve_http1(accepted?.0));
            }
            accepted = http2.accept() => {
                connections.spawn_local(serve_http2(accepted?.0));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

fn announce(http1: SocketAddr, http2: SocketAddr) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{http1} {http2}")?;
    out.flush()
}

/// Answers each head of a request; the load generator sends no bodies.
async fn serve_http1(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(&BODY);
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    while stream.read_buf(&mut buffer).await? > 0 {
        while let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            buffer.advance(end + 4);
            stream.write_all(&answer).await?;
        }
        buffer.reserve(4 * 1024);
    }
    Ok(())
}

async fn serve_http2(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::handshake(stream)
        .await
        .map_err(std::io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (_request, mut respond) = accepted.map_err(std::io::Error::other)?;
        let mut answer = Response::new(());
        answer.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("text/plain"),
        );
        answer.headers_mut().insert(
            http::header::CONTENT_LENGTH,
            http::HeaderValue::from(BODY_BYTES),
        );
        // A stream that its caller has given up is of no interest here.
        if let Ok(mut body) = respond.send_response(answer, false) {
            let _given_up = body.send_data(Bytes::from_static(&BODY), true);
        }
    }
    Ok(())
}
