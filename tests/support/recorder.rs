//! An app that takes nothing for granted: it reads requests of HTTP/1 as the strictest reader would, and tells of each.

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::app::App;

/// A request that has reached the app in one unambiguous form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Target, as it stood.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: HeaderMap,
    /// Content, without chunks.
    pub body: Vec<u8>,
}

/// What the app has seen, in order; an error is a request that two readers may read in two ways.
#[derive(Debug)]
pub struct Record(Receiver<Result<Seen, String>>);

impl Record {
    /// Takes what has been seen since the last time.
    pub fn take(&mut self) -> Vec<Result<Seen, String>> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

/// Starts the app; it answers each request with 200 and no content.
pub fn recorder() -> (App, Record) {
    let (tell, record) = channel(10_000);
    let app = App::tcp(move |io| serve(io, tell.clone()));
    (app, Record(record))
}

async fn serve(mut io: TcpStream, tell: Sender<Result<Seen, String>>) {
    loop {
        let seen = match read(&mut io).await {
            Ok(None) => return,
            Ok(Some(seen)) => Ok(seen),
            Err(reason) => Err(reason),
        };
        let strange = seen.is_err();
        tell.try_send(seen).unwrap();
        let answer: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-app: yes\r\n\r\n";
        if io.write_all(answer).await.is_err() || strange {
            return;
        }
    }
}

async fn read(io: &mut TcpStream) -> Result<Option<Seen>, String> {
    let Some(first) = line(io).await? else {
        return Ok(None);
    };
    let (method, target) = request_line(&first)?;
    let mut headers = HeaderMap::new();
    loop {
        let line = line(io).await?.ok_or("the header is cut")?;
        if line.is_empty() {
            break;
        }
        let (name, value) = field(&line)?;
        headers.append(name, value);
    }
    if headers.get_all("host").iter().count() != 1 {
        return Err(format!("not one Host in {headers:?}"));
    }
    let body = content(io, &headers).await?;
    Ok(Some(Seen {
        method,
        target,
        headers,
        body,
    }))
}

fn request_line(line: &str) -> Result<(String, String), String> {
    let wrong = || format!("request line {line:?}");
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts.as_slice() else {
        return Err(wrong());
    };
    let good_method = !method.is_empty()
        && method
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    let good_target =
        (target.starts_with('/') || *target == "*") && target.bytes().all(|b| b.is_ascii_graphic());
    if good_method && good_target {
        Ok(((*method).to_owned(), (*target).to_owned()))
    } else {
        Err(wrong())
    }
}

fn field(line: &str) -> Result<(http::HeaderName, http::HeaderValue), String> {
    let wrong = || format!("header line {line:?}");
    let (name, value) = line.split_once(": ").ok_or_else(wrong)?;
    let name = http::HeaderName::from_bytes(name.as_bytes())
        .ok()
        .ok_or_else(wrong)?;
    let value = http::HeaderValue::from_bytes(value.as_bytes())
        .ok()
        .ok_or_else(wrong)?;
    Ok((name, value))
}

async fn content(io: &mut TcpStream, headers: &HeaderMap) -> Result<Vec<u8>, String> {
    let lengths: Vec<_> = headers.get_all("content-length").iter().collect();
    let codings: Vec<_> = headers.get_all("transfer-encoding").iter().collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Vec::new()),
        ([length], []) => {
            let length = length
                .to_str()
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = length.and_then(|text| text.parse().ok());
            exactly(io, length.ok_or("content-length")?).await
        }
        ([], [coding]) if *coding == "chunked" => chunks(io).await,
        _ => Err(format!("framing {lengths:?} and {codings:?}")),
    }
}

async fn chunks(io: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let line = line(io).await?.ok_or("the content is cut")?;
        if !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("chunk size {line:?}"));
        }
        let size = usize::from_str_radix(&line, 16).map_err(|error| error.to_string())?;
        if size == 0 {
            break;
        }
        body.extend(exactly(io, size).await?);
        if self::line(io).await? != Some(String::new()) {
            return Err("the end of a chunk".to_owned());
        }
    }
    while let Some(line) = line(io).await? {
        if line.is_empty() {
            return Ok(body);
        }
        field(&line)?;
    }
    Err("the trailers are cut".to_owned())
}

async fn exactly(io: &mut TcpStream, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length];
    io.read_exact(&mut bytes)
        .await
        .or(Err("the content is cut".to_owned()))?;
    Ok(bytes)
}

/// One line that ends in CRLF and has no other control byte; `None` at the end of the connection.
async fn line(io: &mut TcpStream) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    loop {
        match io.read_u8().await {
            Ok(b'\n') if line.last() == Some(&b'\r') => {
                line.pop();
                break;
            }
            Ok(byte) => line.push(byte),
            Err(_) if line.is_empty() => return Ok(None),
            Err(_) => return Err(format!("cut line {:?}", String::from_utf8_lossy(&line))),
        }
    }
    if line
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err(format!(
            "control byte in {:?}",
            String::from_utf8_lossy(&line)
        ));
    }
    String::from_utf8(line)
        .map(Some)
        .map_err(|error| error.to_string())
}
