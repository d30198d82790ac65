//! A keep-alive HTTP/1.1 client, as cheap as it can be: the request is one constant, the answer is checked for its status and
//! length and thrown away.

use std::rc::Rc;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Entry, Tally};
use crate::app::BODY_BYTES;

/// One connection, made again when the other side closes it.
pub(crate) struct Client {
    entry: Entry,
    stream: TcpStream,
    buffer: BytesMut,
    request: String,
}

/// Sends one request after the other until the tally stops.
pub(crate) async fn drive(mut client: Client, tally: Rc<Tally>) {
    while tally.running() {
        let started = Instant::now();
        match client.request().await {
            Ok(()) => tally.answered(started),
            Err(_) => {
                tally.failed();
                if client.reconnect().await.is_err() {
                    return;
                }
            }
        }
    }
    // The connection stays open, so that memory is read with all of them.
    std::future::pending::<()>().await;
}

impl Client {
    pub(crate) async fn new(entry: Entry) -> anyhow::Result<Self> {
        let stream = entry.connect().await?;
        let authorization = match &entry.token {
            Some(token) => format!("authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        let request = format!(
            "GET /bench HTTP/1.1\r\nhost: {}\r\nuser-agent: weft-bench\r\n{authorization}\r\n",
            entry.authority
        );
        Ok(Self {
            entry,
            stream,
            buffer: BytesMut::with_capacity(8 * 1024),
            request,
        })
    }

    /// Sends one request and reads its whole answer.
    pub(crate) async fn request(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(self.request.as_bytes()).await?;
        let (head, length) = loop {
            if let Some(found) = parse_head(&self.buffer)? {
                break found;
            }
            self.read().await?;
        };
        while self.buffer.len() < head + length {
            self.read().await?;
        }
        self.buffer.advance(head + length);
        Ok(())
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.buffer.clear();
        self.stream = self.entry.connect().await?;
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(4 * 1024);
        ensure!(
            self.stream.read_buf(&mut self.buffer).await? > 0,
            "connection closed"
        );
        Ok(())
    }
}

/// Returns the length of a complete head, and of the body that follows it.
fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("answered {}", head.replace("\r\n", " | "));
    }
    let length = head
        .lines()
        .find_map(content_length)
        .context("no content-length")?;
    ensure!(length == BODY_BYTES, "body of {length} bytes");
    Ok(Some((end + 4, length)))
}

/// The value of a `content-length` line.
pub(crate) fn content_length(line: &str) -> Option<usize> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("content-length")
        .then(|| value.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_answer_of_the_app_is_taken() {
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n";
        assert_eq!(
            parse_head(good.as_bytes()).unwrap(),
            Some((good.len(), 1024))
        );
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Len").unwrap(), None);
        let rows: &[(&str, &str)] = &[
            (
                "refused",
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 1024\r\n\r\n",
            ),
            ("no length", "HTTP/1.1 200 OK\r\n\r\n"),
            (
                "another length",
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            ),
        ];
        for (name, head) in rows {
            assert!(parse_head(head.as_bytes()).is_err(), "{name}");
        }
    }
}
