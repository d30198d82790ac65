//! The app at the end of every chain: 1 KiB for each request, over HTTP/1.1 on one port and HTTP/2 by prior knowledge on
//! another; and, for chains that trace, a collector of spans that throws them away. It prints its addresses and serves until
//! it is ended.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

use crate::load::http1;

/// What every answer carries.
pub(crate) const BODY_BYTES: usize = 1024;

static BODY: [u8; BODY_BYTES] = [b'w'; BODY_BYTES];

/// Serves on three free ports of the loopback, as the process that [`crate::chain`] started.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let http1 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let http2 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let spans = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        announce(&[&http1, &http2, &spans])?;
        Ok(serve(http1, http2, spans).await?)
    })
}

/// Accepts on all until one of them fails.
pub(crate) async fn serve(
    http1: TcpListener,
    http2: TcpListener,
    spans: TcpListener,
) -> std::io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = http1.accept() => {
                connections.spawn_local(serve_http1(accepted?.0));
            }
            accepted = http2.accept() => {
                connections.spawn_local(serve_http2(accepted?.0));
            }
            accepted = spans.accept() => {
                connections.spawn_local(take_spans(accepted?.0));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

fn announce(listeners: &[&TcpListener]) -> std::io::Result<()> {
    let addresses = listeners.iter().map(|listener| listener.local_addr());
    let addresses: Vec<SocketAddr> = addresses.collect::<std::io::Result<_>>()?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(&addresses)?)?;
    out.flush()
}

/// OTLP over HTTP (OpenTelemetry Protocol, section OTLP/HTTP): each request is answered with an empty
/// `ExportTraceServiceResponse`, which is no bytes at all.
async fn take_spans(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    while stream.read_buf(&mut buffer).await? > 0 {
        while let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned();
            let length = head.lines().find_map(http1::content_length).unwrap_or(0);
            let whole = end + 4 + length;
            while buffer.len() < whole {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            buffer.advance(whole);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
                .await?;
        }
        buffer.reserve(4 * 1024);
    }
    Ok(())
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
