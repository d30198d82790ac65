//! `weft demo --netns`: a network namespace for each app, joined by a bridge, as pods are on a node.
//!
//! Everything is named `weft-demo`, so that what a killed run left is found and removed by the next.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use http::HeaderMap;
use rustix::fs::{FlockOperation, flock};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd as _;

use super::process::Start;
use crate::app::AppName;
use crate::client::{self, Answer, CallError};

/// The namespaces of one run; dropping it removes them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    ip: PathBuf,
    /// Held as long as we use the names.
    _lock: File,
}

impl Namespaces {
    /// Makes the bridge and a namespace for each app.
    ///
    /// # Errors
    /// We are not root, another run is using the names, or `ip` refuses.
    pub(crate) fn create() -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("--netns needs root: it makes network namespaces and redirects in them");
        }
        let lock = OpenOptions::new().create(true).append(true).open(LOCK);
        let lock = lock.with_context(|| format!("open {LOCK}"))?;
        let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        locked.context("another `weft demo --netns` is running")?;
        let ip = find("ip").context("find the program `ip` (of iproute2)")?;
        let namespaces = Self { ip, _lock: lock };
        namespaces.remove();
        namespaces.join()?;
        Ok(namespaces)
    }

    pub(crate) fn name(&self, app: AppName) -> String {
        format!("{PREFIX}-{}", app.as_str())
    }

    /// Returns the address of this side of the bridge.
    pub(crate) fn hub(&self) -> IpAddr {
        in_network(NODE, 1)
    }

    /// Returns the address of the app with this number.
    pub(crate) fn address(&self, number: usize) -> IpAddr {
        in_network(NODE, 2 + number)
    }

    /// Returns a virtual address; nothing has it, only the proxies know it.
    pub(crate) fn service(&self, number: usize) -> IpAddr {
        in_network(SERVICES, 2 + number)
    }

    /// Has `start` happen in the namespace `name`.
    pub(crate) fn inside(&self, name: &str, start: Start) -> Start {
        let words = ["netns", "exec", name].map(OsString::from).into_iter();
        let program = std::iter::once(start.program.into_os_string());
        let mut env = start.env;
        env.push(("PATH".to_owned(), PROGRAMS.join(":")));
        Start {
            name: start.name,
            program: self.ip.clone(),
            args: words.chain(program).chain(start.args).collect(),
            env,
        }
    }

    fn join(&self) -> anyhow::Result<()> {
        let (bridge, hub) = (PREFIX, self.hub());
        self.ip(&format!("link add {bridge} type bridge"))?;
        self.ip(&format!("addr add {hub}/24 dev {bridge}"))?;
        self.ip(&format!("link set {bridge} up"))?;
        for (number, app) in AppName::ALL.into_iter().enumerate() {
            let (name, address) = (self.name(app), self.address(number));
            let ours = format!("weft-{}", app.as_str());
            self.ip(&format!("netns add {name}"))?;
            self.ip(&format!(
                "link add {ours} type veth peer name eth0 netns {name}"
            ))?;
            self.ip(&format!("link set {ours} master {bridge} up"))?;
            self.ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
            self.ip(&format!("-n {name} link set lo up"))?;
            self.ip(&format!("-n {name} link set eth0 up"))?;
            self.ip(&format!("-n {name} route add default via {hub}"))?;
        }
        Ok(())
    }

    /// Removes everything that has our names; what is not there needs no removal.
    fn remove(&self) {
        for app in AppName::ALL {
            let _absent = self.ip(&format!("netns del {}", self.name(app)));
        }
        let _absent = self.ip(&format!("link del {PREFIX}"));
    }

    fn ip(&self, words: &str) -> anyhow::Result<()> {
        let output = Command::new(&self.ip)
            .args(words.split(' '))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("execute {}", self.ip.display()))?;
        if !output.status.success() {
            bail!(
                "ip {words}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Makes a call as [`client::get`] does, from the namespace `name`.
///
/// # Errors
/// As [`client::get`]; also when the namespace cannot be entered.
pub(crate) async fn get_from(
    name: &str,
    to: SocketAddr,
    host: &str,
    path: &str,
) -> Result<Answer, CallError> {
    let (file, host, path) = (
        Path::new(NAMESPACES).join(name),
        host.to_owned(),
        path.to_owned(),
    );
    // A namespace belongs to a thread, and this one ends with the call.
    let call = move || {
        let failed = |source| CallError::Connect { to, source };
        let namespace = File::open(file).map_err(failed)?;
        let entered =
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        entered.map_err(|errno| failed(errno.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .map_err(failed)?
            .block_on(client::get(to, &host, &path, &HeaderMap::new()))
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().spawn(move || drop(tell.send(call())));
    thread.map_err(|source| CallError::Connect { to, source })?;
    told.await.unwrap_or(Err(CallError::Deadline { to }))
}

fn find(program: &str) -> Option<PathBuf> {
    let places = PROGRAMS
        .iter()
        .map(|directory| Path::new(directory).join(program));
    places.into_iter().find(|path| path.exists())
}

fn in_network(network: [u8; 3], host: usize) -> IpAddr {
    let [a, b, c] = network;
    let host = u8::try_from(host).unwrap_or(u8::MAX);
    IpAddr::V4(Ipv4Addr::new(a, b, c, host))
}

const PREFIX: &str = "weft-demo";
const LOCK: &str = "/run/weft-demo.lock";
const NAMESPACES: &str = "/run/netns";
const PROGRAMS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// The apps' addresses.
const NODE: [u8; 3] = [10, 213, 77];
/// The services' virtual addresses.
const SERVICES: [u8; 3] = [10, 213, 78];
