//! An HTTP/2 client by prior knowledge, over the `h2` crate: some connections, each shared by many streams.

use std::rc::Rc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderValue, Request, StatusCode, Uri};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Entry, Tally};
use crate::app::BODY_BYTES;

/// A handle on one connection; clones share it.
#[derive(Clone)]
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    uri: Uri,
    authorization: Option<HeaderValue>,
}

/// Sends one request after the other until the tally stops. A failed connection ends its streams: it is counted, and no
/// proxy closes one without a reason.
pub(crate) async fn drive(mut client: Client, tally: Rc<Tally>) {
    while tally.running() {
        let started = Instant::now();
        match client.request().await {
            Ok(()) => tally.answered(started),
            Err(_) => return tally.failed(),
        }
    }
    // The connection stays open, so that memory is read with all of them.
    std::future::pending::<()>().await;
}

impl Client {
    /// Connects; the connection itself is driven by one of `tasks`.
    pub(crate) async fn new(entry: &Entry, tasks: &mut JoinSet<()>) -> anyhow::Result<Self> {
        let stream = entry.connect().await?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(stream)
            .await?;
        tasks.spawn_local(async move {
            // Its error reaches every stream, where it is counted.
            let _ended = connection.await;
        });
        Ok(Self {
            sender,
            uri: format!("http://{}/bench", entry.authority).parse()?,
            authorization: match &entry.token {
                Some(token) => Some(HeaderValue::try_from(format!("Bearer {token}"))?),
                None => None,
            },
        })
    }

    /// Sends one request and reads its whole answer.
    pub(crate) async fn request(&mut self) -> anyhow::Result<()> {
        let mut request = Request::new(());
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = http::Version::HTTP_2;
        if let Some(authorization) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(http::header::AUTHORIZATION, authorization.clone());
        }
        let mut sender = self
            .sender
            .clone()
            .ready()
            .await
            .context("wait for a stream")?;
        let (response, _body) = sender.send_request(request, true)?;
        let response = response.await?;
        ensure!(
            response.status() == StatusCode::OK,
            "answered {}",
            response.status()
        );
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(part) = body.data().await {
            let part = part?;
            length += part.len();
            body.flow_control().release_capacity(part.len())?;
        }
        ensure!(length == BODY_BYTES, "body of {length} bytes");
        Ok(())
    }
}

/// Wide enough that flow control is not what is measured.
const WINDOW_BYTES: u32 = 1024 * 1024;
