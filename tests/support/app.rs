//! Apps on real sockets: each has a thread of its own, and ends with the test.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

/// A running app.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    thread: Option<JoinHandle<()>>,
}

/// What an app does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepts and serves.
    Serves,
    /// Ends what runs, and accepts nothing more.
    Leaves,
    /// Is gone.
    Gone,
}

/// Content of an answer.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

impl App {
    /// Starts an app that does `serve` with every connection.
    pub fn tcp<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self::start(move |io, _state| serve(io))
    }

    /// Starts an app that does `serve` with every connection, and tells it when the app leaves.
    pub fn start<F>(serve: impl Fn(TcpStream, watch::Receiver<State>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (state, changes) = watch::channel(State::Serves);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, accept(listener, changes, serve));
        };
        let thread = std::thread::Builder::new().name("app".to_owned());
        Self {
            address,
            state,
            thread: Some(thread.spawn(run).unwrap()),
        }
    }

    /// Starts an app that speaks HTTP/1 and HTTP/2.
    pub fn http<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(move |io, state| http(io, state, answer.clone()))
    }

    /// Stops listening, ends what runs, closes what is idle.
    pub fn leave(&self) {
        self.state.send_replace(State::Leaves);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.state.send_replace(State::Gone);
        let outcome = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = outcome
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

async fn accept<F>(
    listener: std::net::TcpListener,
    mut state: watch::Receiver<State>,
    serve: impl Fn(TcpStream, watch::Receiver<State>) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let mut listener = Some(TcpListener::from_std(listener).unwrap());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            change = state.changed() => {
                let now = *state.borrow_and_update();
                if change.is_err() || now == State::Gone {
                    break;
                }
                listener = None;
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => ended.unwrap(),
            accepted = accepted(listener.as_ref()) => {
                accepted.set_nodelay(true).unwrap();
                connections.spawn_local(serve(accepted, state.clone()));
            }
        }
    }
}

async fn accepted(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => std::future::pending().await,
    }
}

async fn http<F>(
    io: TcpStream,
    mut state: watch::Receiver<State>,
    answer: impl Fn(Request<Incoming>) -> F + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut first = [0; 4];
    let known = io.peek(&mut first).await.is_ok_and(|count| count == 4);
    let left = async {
        let _ = state.wait_for(|state| *state != State::Serves).await;
    };
    // Why a connection ended is for the other side to see.
    if known && &first == b"PRI " {
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .max_header_list_size(1 << 20);
        let mut served = std::pin::pin!(server.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            _ = served.as_mut() => {}
            () = left => {
                served.as_mut().graceful_shutdown();
                let _ = served.await;
            }
        }
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        let connection = server.serve_connection(TokioIo::new(io), service);
        let mut served = std::pin::pin!(connection.with_upgrades());
        tokio::select! {
            _ = served.as_mut() => {}
            () = left => {
                served.as_mut().graceful_shutdown();
                let _ = served.await;
            }
        }
    }
}

/// An app that sends back what it gets: the content and trailers as they come, and each header as `seen-<name>`.
pub fn echo() -> App {
    App::http(async |request| echoed(request))
}

/// The answer of [`echo`].
pub fn echoed(request: Request<Incoming>) -> Response<Body> {
    let mut headers = seen(request.headers());
    let value = |text: String| HeaderValue::from_str(&text).unwrap();
    headers.insert("method", value(request.method().to_string()));
    headers.insert("target", value(request.uri().to_string()));
    headers.insert("version", value(format!("{:?}", request.version())));
    let mut response = Response::new(request.into_body().boxed_unsync());
    *response.headers_mut() = headers;
    response
}

fn seen(headers: &HeaderMap) -> HeaderMap {
    let rename = |(name, value): (&HeaderName, &HeaderValue)| {
        (
            HeaderName::try_from(format!("seen-{name}")).unwrap(),
            value.clone(),
        )
    };
    let mut seen = HeaderMap::new();
    headers.iter().map(rename).for_each(|(name, value)| {
        seen.append(name, value);
    });
    seen
}

/// A short content.
pub fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An app that sends back every byte, and ends its direction when the other one has ended.
pub fn tcp_echo() -> App {
    App::tcp(async |mut io| {
        let (mut from, mut to) = io.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
}

/// Reads one request head of HTTP/1 as it is on the wire, byte for byte, the empty line included.
///
/// `None` when the connection ends instead.
pub async fn read_head(io: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// An app that answers each request head of HTTP/1 with exactly the bytes that `answer` gives, and closes when they say so.
///
/// It reads no content.
pub fn scripted(answer: impl Fn(&str) -> Vec<u8> + Clone + Send + 'static) -> App {
    App::tcp(move |mut io| {
        let answer = answer.clone();
        async move {
            while let Some(head) = read_head(&mut io).await {
                let bytes = answer(&head);
                if io.write_all(&bytes).await.is_err() || ends(&bytes) {
                    break;
                }
            }
        }
    })
}

fn ends(answer: &[u8]) -> bool {
    let says = |text: &[u8]| answer.windows(text.len()).any(|window| window == text);
    answer.starts_with(b"HTTP/1.0") || says(b"connection: close")
}

/// A piece of an endless content in which a lost, doubled or swapped part shows; at most 1 MiB.
pub fn pattern(position: u64, length: usize) -> Bytes {
    static BLOCK: OnceLock<Bytes> = OnceLock::new();
    let block = BLOCK.get_or_init(|| {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        period
            .iter()
            .copied()
            .cycle()
            .take(PERIOD + MAX_PIECE)
            .collect::<Vec<_>>()
            .into()
    });
    let from = usize::try_from(position % PERIOD as u64).unwrap();
    block.slice(from..from + length)
}

/// A prime, so that no buffer's size divides it.
const PERIOD: usize = 65_521;
const MAX_PIECE: usize = 1024 * 1024;
