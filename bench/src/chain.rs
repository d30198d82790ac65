//! One peer's two proxies in front of the app: started, probed until a request comes through, ended when dropped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::args::Settings;
use crate::load::{self, Entry, Protocol};
use crate::peer::Peer;
use crate::pki::Pki;
use crate::process::Process;

/// What all chains of a run share: the app behind them, their certificates, a directory for their files.
pub(crate) struct Site {
    app: App,
    pki: Pki,
    scratch: Scratch,
    /// Instructions are counted.
    counted: bool,
}

/// What a peer needs to know to configure its two proxies.
pub(crate) struct Wiring<'a> {
    pub protocol: Protocol,
    pub app: SocketAddr,
    /// A collector of spans, over HTTP.
    pub spans: SocketAddr,
    /// Where the first proxy listens for plain requests.
    pub entry: SocketAddr,
    /// Where the second proxy listens for mTLS.
    pub middle: SocketAddr,
    /// For configuration and logs; each chain has its own.
    pub dir: &'a Path,
    pub pki: &'a Pki,
}

/// The commands of a chain's processes, the one next to the client first, and where requests go in.
pub(crate) struct Launch {
    pub commands: Vec<Command>,
    pub entry: Entry,
}

/// A running chain that has answered a request.
pub(crate) struct Chain {
    pub name: String,
    pub protocol: Protocol,
    pub entry: Entry,
    /// The proxy next to the client first.
    pub proxies: Vec<Process>,
}

impl Chain {
    /// Starts the proxies of `peer` and waits until a request passes. `None` when the peer does not speak the protocol.
    pub(crate) async fn start(
        peer: &Peer,
        protocol: Protocol,
        site: &Site,
    ) -> anyhow::Result<Option<Self>> {
        let dir = site
            .scratch
            .dir
            .join(format!("{}-{}", peer.name, protocol.name()));
        fs::create_dir_all(&dir)?;
        let [entry, middle] = free_addresses()?;
        let wiring = Wiring {
            protocol,
            app: site.app.address(protocol),
            spans: site.app.spans,
            entry,
            middle,
            dir: &dir,
            pki: &site.pki,
        };
        let Some(Launch { commands, entry }) = peer.launch(&wiring)? else {
            return Ok(None);
        };
        let start = |(place, mut command): (usize, Command)| {
            let log = dir.join(format!("{place}.log"));
            match site.counted {
                true => Process::start_counted(&command, &log),
                false => Process::start(&mut command, &log),
            }
        };
        let proxies = commands
            .into_iter()
            .enumerate()
            .map(start)
            .collect::<anyhow::Result<_>>()?;
        let mut chain = Self {
            name: peer.name.clone(),
            protocol,
            entry,
            proxies,
        };
        chain
            .wait_until_ready(if site.counted {
                COUNTED_WITHIN
            } else {
                READY_WITHIN
            })
            .await
            .with_context(|| format!("start {} for {}", peer.name, protocol.title()))?;
        Ok(Some(chain))
    }

    async fn wait_until_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            for proxy in &mut self.proxies {
                proxy.check_alive()?;
            }
            match load::probe(self.protocol, &self.entry).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    bail!("{error:#}\n{}", self.last_words())
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub(crate) fn last_words(&self) -> String {
        let words: Vec<String> = self.proxies.iter().map(Process::last_words).collect();
        words.join("\n--\n")
    }

    /// Reads something of each proxy's process.
    pub(crate) fn each<T>(
        &self,
        read: impl Fn(&Process) -> std::io::Result<T>,
    ) -> std::io::Result<Vec<T>> {
        self.proxies.iter().map(read).collect()
    }
}

impl Site {
    /// Starts the app and writes the certificates.
    pub(crate) fn start(settings: &Settings) -> anyhow::Result<Self> {
        let scratch = Scratch::create(settings.keep)?;
        Ok(Self {
            app: App::start()?,
            pki: Pki::create(&scratch.dir)?,
            scratch,
            counted: settings.instructions,
        })
    }
}

/// The app's process and its addresses.
struct App {
    child: Child,
    http1: SocketAddr,
    http2: SocketAddr,
    spans: SocketAddr,
}

impl App {
    /// Starts the app as a process of its own.
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("app")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the app has no output")?)
            .read_line(&mut line)?;
        let [http1, http2, spans] =
            serde_json::from_str(&line).context("the app did not say where it listens")?;
        Ok(Self {
            child,
            http1,
            http2,
            spans,
        })
    }

    fn address(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::Http2 => self.http2,
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A directory for the files of a run, removed when dropped unless it is to be kept.
struct Scratch {
    dir: PathBuf,
    keep: bool,
}

impl Scratch {
    fn create(keep: bool) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("weft-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { dir, keep })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _gone = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Returns addresses that were free a moment ago; not every peer can tell which port it got for 0.
pub(crate) fn free_addresses<const N: usize>() -> std::io::Result<[SocketAddr; N]> {
    let mut listeners = Vec::new();
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(addresses)
}

const READY_WITHIN: Duration = Duration::from_secs(15);
/// Under callgrind everything takes some fifty times as long.
const COUNTED_WITHIN: Duration = Duration::from_secs(180);
