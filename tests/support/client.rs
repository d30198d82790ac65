//! Clients that see what is on the wire: HTTP/1 as bytes, HTTP/2 as frames of h2, mesh TLS without a proxy.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::eventually::soon;

/// An answer as a client sees it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status and headers of each 1xx answer before it.
    pub interim: Vec<(StatusCode, HeaderMap)>,
    /// Status of the final one.
    pub status: StatusCode,
    /// Headers of the final one.
    pub headers: HeaderMap,
    /// Content, as far as it came.
    pub body: Bytes,
    /// Trailers.
    pub trailers: HeaderMap,
    /// Why the content is not whole.
    pub cut: Option<String>,
}

impl Answer {
    /// The value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The reason for which a proxy of the mesh answered itself, or nothing.
    pub fn reject(&self) -> &str {
        self.header("x-weft-reject")
    }

    /// The content as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One HTTP/1 connection.
#[derive(Debug)]
pub struct Http1<Io = TcpStream> {
    io: Io,
    input: Vec<u8>,
}

impl Http1 {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let io = soon(TcpStream::connect(address)).await.unwrap();
        io.set_nodelay(true).unwrap();
        Self::over(io)
    }

    /// Returns the socket, for its options.
    pub fn socket(&self) -> &TcpStream {
        &self.io
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Http1<Io> {
    /// Speaks over `io`.
    pub fn over(io: Io) -> Self {
        Self {
            io,
            input: Vec::new(),
        }
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// The other side has gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon(async {
            self.io.write_all(bytes.as_ref()).await?;
            self.io.flush().await
        })
        .await
    }

    /// Ends our direction.
    pub async fn finish(&mut self) {
        soon(self.io.shutdown()).await.unwrap();
    }

    /// Ends our direction, if the other side is still there.
    pub async fn finish_quietly(&mut self) {
        let _gone = soon(self.io.shutdown()).await;
    }

    /// Sends a request without content and reads the answer.
    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        self.answer().await
    }

    /// Sends a request with content and reads the answer.
    pub async fn post(&mut self, host: &str, path: &str, body: &[u8]) -> Answer {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.send([head.as_bytes(), body].concat()).await;
        self.answer().await
    }

    /// Reads the answer to a request that is not HEAD.
    pub async fn answer(&mut self) -> Answer {
        self.try_answer("GET").await.unwrap()
    }

    /// Reads the answer to a request with `method`.
    ///
    /// # Errors
    /// The connection ended before its head.
    pub async fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        soon(self.read_answer(method)).await
    }

    /// Reads until the other side has ended.
    pub async fn rest(&mut self) -> Vec<u8> {
        soon(async { while self.fill().await.is_ok_and(|count| count > 0) {} }).await;
        std::mem::take(&mut self.input)
    }

    /// Reads until the other side has ended in an orderly way.
    ///
    /// # Errors
    /// It was reset instead.
    pub async fn whole(&mut self) -> io::Result<Vec<u8>> {
        soon(async {
            while self.fill().await? > 0 {}
            Ok(std::mem::take(&mut self.input))
        })
        .await
    }

    /// Reads whatever comes next; empty when the other side has ended.
    pub async fn some(&mut self) -> Vec<u8> {
        if self.input.is_empty() {
            let _ = soon(self.fill()).await;
        }
        std::mem::take(&mut self.input)
    }

    /// Reads exactly so many bytes.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        soon(async {
            while self.input.len() < count {
                assert!(self.fill().await.unwrap() > 0, "ended early");
            }
            self.input.drain(..count).collect()
        })
        .await
    }

    /// Reads the head of an answer, and leaves its content.
    pub async fn head_only(&mut self) -> (StatusCode, HeaderMap) {
        soon(self.head()).await.unwrap()
    }

    /// Reads one chunk of an answer's content; `None` is the last one.
    ///
    /// # Errors
    /// The content is cut, or is not chunked.
    pub async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        soon(async {
            let size = usize::from_str_radix(&self.line().await?, 16).map_err(io::Error::other)?;
            let mut data = Vec::new();
            self.take(size, &mut data).await?;
            if !self.line().await?.is_empty() {
                return Err(io::Error::other("a chunk is too long"));
            }
            Ok((size > 0).then_some(data))
        })
        .await
    }

    async fn read_answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut interim = Vec::new();
        let (status, headers) = loop {
            let (status, headers) = self.head().await?;
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                break (status, headers);
            }
            interim.push((status, headers));
        };
        let mut answer = Answer {
            interim,
            status,
            headers,
            body: Bytes::new(),
            trailers: HeaderMap::new(),
            cut: None,
        };
        let bodiless = method == "HEAD"
            || (method == "CONNECT" && status.is_success())
            || status == StatusCode::SWITCHING_PROTOCOLS
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        if !bodiless {
            let mut body = Vec::new();
            if let Err(error) = self.content(&mut answer, &mut body).await {
                answer.cut = Some(error.to_string());
            }
            answer.body = body.into();
        }
        Ok(answer)
    }

    async fn head(&mut self) -> io::Result<(StatusCode, HeaderMap)> {
        let mut text = String::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            text.push_str(&line);
            text.push_str("\r\n");
        }
        let (first, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("status line {first:?}")))?;
        Ok((status, fields_of(fields)))
    }

    async fn content(&mut self, answer: &mut Answer, body: &mut Vec<u8>) -> io::Result<()> {
        if answer.header("transfer-encoding") == "chunked" {
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
                if size == 0 {
                    break;
                }
                self.take(size, body).await?;
                if !self.line().await?.is_empty() {
                    return Err(io::Error::other("a chunk is too long"));
                }
            }
            let mut fields = String::new();
            loop {
                let line = self.line().await?;
                if line.is_empty() {
                    break;
                }
                fields.push_str(&line);
                fields.push_str("\r\n");
            }
            answer.trailers = fields_of(&fields);
            return Ok(());
        }
        if let Ok(length) = answer.header("content-length").parse() {
            return self.take(length, body).await;
        }
        while self.fill().await? > 0 {}
        body.append(&mut self.input);
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = line
                    .strip_suffix(b"\r\n")
                    .ok_or_else(|| io::Error::other("a bare LF"))?;
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            self.fill_some().await?;
        }
    }

    async fn take(&mut self, mut count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        while count > 0 {
            if self.input.is_empty() {
                self.fill_some().await?;
            }
            let now = count.min(self.input.len());
            into.extend(self.input.drain(..now));
            count -= now;
        }
        Ok(())
    }

    async fn fill_some(&mut self) -> io::Result<()> {
        match self.fill().await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.input.reserve(64 * 1024);
        self.io.read_buf(&mut self.input).await
    }
}

fn fields_of(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(
            HeaderName::try_from(name).unwrap(),
            HeaderValue::try_from(value).unwrap(),
        );
    }
    headers
}

/// One HTTP/2 connection, which many requests may share.
#[derive(Debug)]
pub struct Http2 {
    sender: SendRequest<Bytes>,
    driver: JoinSet<Result<(), h2::Error>>,
}

impl Http2 {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let io = soon(TcpStream::connect(address)).await.unwrap();
        io.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 22);
        Self::over(io, &builder).await
    }

    /// Speaks over `io`.
    pub async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: &h2::client::Builder,
    ) -> Self {
        let (sender, connection) = soon(builder.handshake(io)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self { sender, driver }
    }

    /// Returns what begins streams.
    pub async fn sender(&self) -> SendRequest<Bytes> {
        soon(self.sender.clone().ready()).await.unwrap()
    }

    /// Waits for the end of the connection.
    ///
    /// # Errors
    /// Why it ended, but for an orderly end.
    pub async fn ended(&mut self) -> Result<(), h2::Error> {
        soon(self.driver.join_next()).await.unwrap().unwrap()
    }

    /// Sends a request with content (and trailers, if there are any), and reads the answer.
    ///
    /// # Errors
    /// The stream or the connection failed before an answer.
    pub async fn send(
        &self,
        request: Request<()>,
        body: impl Into<Bytes>,
        trailers: HeaderMap,
    ) -> Result<Answer, h2::Error> {
        soon(exchange(
            self.sender.clone(),
            request,
            body.into(),
            trailers,
        ))
        .await
    }

    /// Sends a request without content and reads the answer.
    pub async fn get(&self, authority: &str, path: &str) -> Answer {
        let request = Request::get(format!("http://{authority}{path}"));
        self.send(request.body(()).unwrap(), "", HeaderMap::new())
            .await
            .unwrap()
    }

    /// Sends a request with content and reads the answer.
    pub async fn post(&self, authority: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::post(format!("http://{authority}{path}"));
        self.send(request.body(()).unwrap(), body, HeaderMap::new())
            .await
            .unwrap()
    }
}

/// A gRPC call as its head has it.
pub fn grpc_call(authority: &str, path: &str) -> Request<()> {
    let request = Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(()).unwrap()
}

async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
    trailers: HeaderMap,
) -> Result<Answer, h2::Error> {
    let bare = body.is_empty() && trailers.is_empty();
    let (response, mut stream) = sender.ready().await?.send_request(request, bare)?;
    let send = async {
        if bare {
            return Ok::<_, h2::Error>(());
        }
        send_all(&mut stream, body, trailers.is_empty()).await?;
        if !trailers.is_empty() {
            stream.send_trailers(trailers)?;
        }
        Ok(())
    };
    // An answer may come before the request has been sent whole.
    let (_sent, answer) = tokio::join!(send, receive(response));
    answer
}

/// Sends `body` as the other side gives credit.
///
/// # Errors
/// The stream was reset.
pub async fn send_all(
    stream: &mut h2::SendStream<Bytes>,
    mut body: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(credit) => {
                let part = body.split_to(credit?.min(body.len()));
                stream.send_data(part, end && body.is_empty())?;
            }
            None => return Err(h2::Reason::CANCEL.into()),
        }
    }
    Ok(())
}

/// Reads an answer to its end.
///
/// # Errors
/// It has no head.
pub async fn receive(mut response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let mut interim = Vec::new();
    let response = std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
            interim.push((early.status(), early.headers().clone()));
        }
        std::pin::Pin::new(&mut response).poll(cx)
    })
    .await?;
    let (parts, mut stream) = response.into_parts();
    let mut answer = Answer {
        interim,
        status: parts.status,
        headers: parts.headers,
        body: Bytes::new(),
        trailers: HeaderMap::new(),
        cut: None,
    };
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        match data {
            Ok(data) => {
                body.extend_from_slice(&data);
                let _ = stream.flow_control().release_capacity(data.len());
            }
            Err(error) => {
                answer.cut = Some(error.to_string());
                break;
            }
        }
    }
    answer.body = body.into();
    if answer.cut.is_none() {
        match stream.trailers().await {
            Ok(trailers) => answer.trailers = trailers.unwrap_or_default(),
            Err(error) => answer.cut = Some(error.to_string()),
        }
    }
    Ok(answer)
}

/// Does a TLS handshake with a proxy's inbound port, as a calling proxy would, for the service's port 80.
///
/// # Errors
/// What the handshake says; a refused client certificate is learnt of only with the first read.
pub async fn mesh_tls(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("outbound_.80_._.orders.default.svc.cluster.local").unwrap();
    let io = soon(TcpStream::connect(address)).await?;
    soon(TlsConnector::from(config).connect(name, io)).await
}
