//! A mesh in the test's own process: proxies with identities of one authority, and the services file they share.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weft_proxy::app::{self, Bound};
use weft_proxy::config::Config;

use crate::app::App;
use crate::ca::{Ca, Files, id};
use crate::eventually::eventually;
use crate::metrics::Scrape;
use crate::process::Process;
use crate::scratch::Scratch;

/// One authority, one services file, any number of proxies.
#[derive(Debug)]
pub struct Mesh {
    /// Who signs.
    pub ca: Ca,
    scratch: Scratch,
    proxies: AtomicU32,
}

/// An endpoint of a service, as the services file has it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where the app listens.
    pub address: SocketAddr,
    /// The proxy in front of it.
    pub inbound: Option<SocketAddr>,
    /// The account of that proxy.
    pub account: Option<String>,
    /// Its share.
    pub weight: u32,
}

impl Endpoint {
    /// One outside of the mesh.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            inbound: None,
            account: None,
            weight: 1,
        }
    }
}

impl Mesh {
    /// Makes a mesh without proxies.
    pub fn new() -> Self {
        refuse_panics();
        let mesh = Self {
            ca: Ca::new(),
            scratch: Scratch::new(),
            proxies: AtomicU32::new(0),
        };
        mesh.services(&[]);
        mesh
    }

    /// Writes the services file anew: each service with its port, its protocol (`-` for none) and its endpoints.
    pub fn services(&self, services: &[(&str, u16, &str, &[Endpoint])]) {
        let mut text = String::from("services:\n");
        if services.is_empty() {
            text = "services: []\n".to_owned();
        }
        for (name, port, protocol, endpoints) in services {
            let _ = writeln!(text, "- name: {name}\n  port: {port}");
            if *protocol != "-" {
                let _ = writeln!(text, "  protocol: {protocol}");
            }
            let _ = writeln!(text, "  endpoints:");
            for one in *endpoints {
                let _ = writeln!(
                    text,
                    "  - address: \"{}\"\n    weight: {}",
                    one.address, one.weight
                );
                if let Some(inbound) = one.inbound {
                    let _ = writeln!(text, "    inbound: \"{inbound}\"");
                }
                if let Some(account) = &one.account {
                    let _ = writeln!(text, "    identity: {}", id(account));
                }
            }
            if endpoints.is_empty() {
                let _ = writeln!(text, "  - address: \"127.0.0.1:1\"\n    weight: 0");
            }
        }
        self.services_text(&text);
    }

    /// Writes the services file anew, whatever the text.
    pub fn services_text(&self, text: &str) {
        let next = self.scratch.file("services.next", text);
        std::fs::rename(next, self.services_file()).unwrap();
    }

    /// Takes the services file away.
    pub fn services_gone(&self) {
        std::fs::remove_file(self.services_file()).unwrap();
    }

    /// Begins a proxy that proves to be `account`.
    pub fn proxy(&self, account: &str) -> Starting<'_> {
        Starting {
            mesh: self,
            account: account.to_owned(),
            files: Some(self.ca.files(account)),
            ports: Vec::new(),
            variables: BTreeMap::new(),
            policy: None,
            annotations: None,
        }
    }

    fn services_file(&self) -> PathBuf {
        self.scratch.path().join("services.yaml")
    }

    fn folder(&self, account: &str) -> PathBuf {
        let number = self.proxies.fetch_add(1, Ordering::Relaxed);
        let folder = self.scratch.path().join(format!("{account}-{number}"));
        std::fs::create_dir(&folder).unwrap();
        folder
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

/// A proxy about to start.
#[derive(Debug)]
pub struct Starting<'a> {
    mesh: &'a Mesh,
    account: String,
    files: Option<Files>,
    ports: Vec<(u16, SocketAddr)>,
    variables: BTreeMap<&'static str, String>,
    policy: Option<String>,
    annotations: Option<String>,
}

impl Starting<'_> {
    /// Gives it annotations, as the lines of a downward-API file.
    #[must_use]
    pub fn annotations(mut self, lines: impl Into<String>) -> Self {
        self.annotations = Some(lines.into());
        self
    }

    /// Gives it a policy document.
    #[must_use]
    pub fn policy(mut self, document: impl Into<String>) -> Self {
        self.policy = Some(document.into());
        self
    }

    /// Serves `app` under `port`.
    #[must_use]
    pub fn serves(mut self, port: u16, app: SocketAddr) -> Self {
        self.ports.push((port, app));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.variables.insert(name, value.to_string());
        self
    }

    /// Gives it other files than those of its account.
    #[must_use]
    pub fn with(mut self, files: Files) -> Self {
        self.files = Some(files);
        self
    }

    /// Gives it no identity.
    #[must_use]
    pub fn without_identity(mut self) -> Self {
        self.files = None;
        self
    }

    /// Starts it in a process of its own, which is `program`.
    pub fn spawn(mut self, program: &Path) -> Spawned {
        self.variables.insert("WEFT_LOG", "info".to_owned());
        self.variables.insert("WEFT_LOG_FORMAT", "text".to_owned());
        let (_folder, variables) = self.environment();
        let mut command = Command::new(program);
        command.env_clear().envs(variables);
        let mut process = Process::start("the proxy", command);
        let output = process.output();
        let [outbound, inbound] = process.until("listening", || {
            let log = std::fs::read_to_string(&output).ok()?;
            Some([first_of("outbound", &log)?, first_of("inbound", &log)?])
        });
        Spawned {
            outbound,
            inbound,
            process,
        }
    }

    /// Starts it.
    pub fn start(self) -> Proxy {
        let (folder, variables) = self.environment();
        let config = Config::from_lookup(|name| variables.get(name).cloned()).unwrap();
        let bound = app::start(config).unwrap();
        Proxy {
            outbound: *bound.outbound.first().unwrap(),
            inbound: *bound.inbound.first().unwrap(),
            metrics: bound.metrics,
            ready: bound.ready,
            admin: bound.admin,
            account: self.account,
            app: self.ports.first().map(|(_, app)| *app),
            folder,
            bound: Some(bound),
        }
    }

    fn environment(&self) -> (PathBuf, BTreeMap<&'static str, String>) {
        let folder = self.mesh.folder(&self.account);
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|(port, app)| format!("{port}={app}"))
            .collect();
        let mut variables: BTreeMap<&'static str, String> = DEFAULTS
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        variables.insert("WEFT_SERVICE_ACCOUNT", self.account.clone());
        variables.insert("WEFT_INBOUND_PORTS", ports.join(","));
        variables.insert("WEFT_SERVICES_FILE", text(&self.mesh.services_file()));
        if let Some(files) = &self.files {
            files.put(&folder);
            variables.insert("WEFT_IDENTITY_DIR", text(&folder));
        }
        if let Some(policy) = &self.policy {
            let file = folder.join(POLICY);
            std::fs::write(&file, policy).unwrap();
            variables.insert("WEFT_POLICY_FILE", text(&file));
        }
        if let Some(lines) = &self.annotations {
            let volume = folder.join(VOLUME);
            std::fs::create_dir(&volume).unwrap();
            write_volume(&volume, lines);
            variables.insert("WEFT_ANNOTATIONS_FILE", text(&volume.join(ANNOTATIONS)));
        }
        variables.extend(self.variables.clone());
        (folder, variables)
    }
}

/// A proxy in a process of its own; it ends when it is dropped.
#[derive(Debug)]
pub struct Spawned {
    /// Where its app calls.
    pub outbound: SocketAddr,
    /// Where it is called.
    pub inbound: SocketAddr,
    process: Process,
}

impl Spawned {
    /// Returns all that it has written so far, its access log among it.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns how much memory it has resident, in bytes.
    pub fn resident(&self) -> u64 {
        let pid = self.process.pid().as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// Reads the first of its addresses from what a proxy says when it has started.
fn first_of(direction: &str, log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once(&format!("{direction}=["))?;
    rest.split([',', ']']).next()?.parse().ok()
}

/// A running proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where its app calls.
    pub outbound: SocketAddr,
    /// Where it is called.
    pub inbound: SocketAddr,
    /// `/metrics`.
    pub metrics: SocketAddr,
    /// `/ready`.
    pub ready: SocketAddr,
    /// Dumps.
    pub admin: SocketAddr,
    /// Where its identity is read from.
    pub folder: PathBuf,
    account: String,
    app: Option<SocketAddr>,
    bound: Option<Bound>,
}

impl Proxy {
    /// What callers must know of the app behind it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.app.unwrap_or(self.inbound),
            inbound: Some(self.inbound),
            account: Some(self.account.clone()),
            weight: 1,
        }
    }

    /// Replaces its policy document, and waits until the new one acts.
    ///
    /// # Panics
    /// After ten seconds.
    pub async fn change_policy(&self, document: &str) {
        let version = async || {
            let scrape = Scrape::of(self.metrics).await;
            scrape.sum("weft_policy_version", &[])
        };
        let before = version().await;
        self.set_policy(document);
        eventually(Duration::from_secs(10), version, |now| *now > before).await;
    }

    /// Replaces its annotations as the kubelet does: a new folder, and a link that is swapped.
    pub fn set_annotations(&self, lines: &str) {
        write_volume(&self.folder.join(VOLUME), lines);
    }

    /// Replaces its policy document.
    pub fn set_policy(&self, document: &str) {
        let next = self.folder.join("policy.next");
        std::fs::write(&next, document).unwrap();
        std::fs::rename(next, self.folder.join(POLICY)).unwrap();
    }

    /// Begins its drain, as SIGTERM does.
    pub fn shutdown(&self) {
        if let Some(bound) = &self.bound {
            bound.shutdown();
        }
    }

    /// Waits until it has ended.
    pub async fn ended(mut self) {
        let bound = self.bound.take().unwrap();
        let (tx, rx) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            bound.wait();
            let _ = tx.send(());
        });
        crate::eventually::soon(rx).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(bound) = self.bound.take() {
            bound.shutdown();
            bound.wait();
        }
    }
}

/// The usual case: `web` calls `orders`, each behind its own proxy. Fields end in their order.
#[derive(Debug)]
pub struct Pair {
    /// The proxy of the caller.
    pub web: Proxy,
    /// The proxy of the app.
    pub orders: Proxy,
    /// The app.
    pub app: App,
    /// What both belong to.
    pub mesh: Mesh,
}

impl Pair {
    /// Starts both proxies around `app`, which is then the service `orders` on port 80.
    pub fn new(app: App) -> Self {
        Self::with(app, |web| web, |orders| orders)
    }

    /// Starts them with some settings of their own.
    pub fn with(
        app: App,
        web: impl FnOnce(Starting<'_>) -> Starting<'_>,
        orders: impl FnOnce(Starting<'_>) -> Starting<'_>,
    ) -> Self {
        let mesh = Mesh::new();
        let orders = orders(mesh.proxy("orders").serves(80, app.address)).start();
        mesh.services(&[("orders", 80, "-", &[orders.endpoint()])]);
        let web = web(mesh.proxy("web")).start();
        Self {
            web,
            orders,
            app,
            mesh,
        }
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A proxy that panics in one of its threads has failed the test, whatever the test has seen of it.
fn refuse_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            usual(info);
            let thread = std::thread::current();
            if thread
                .name()
                .is_some_and(|name| name == "control" || name.starts_with("worker-"))
            {
                std::process::abort();
            }
        }));
    });
}

/// A downward-API volume: `annotations -> ..data/annotations`, `..data -> ..N` (Kubernetes, `AtomicWriter`).
fn write_volume(folder: &Path, lines: &str) {
    static VERSION: AtomicU32 = AtomicU32::new(0);
    let version = format!("..{}", VERSION.fetch_add(1, Ordering::Relaxed));
    let next = folder.join(&version);
    std::fs::create_dir(&next).unwrap();
    std::fs::write(next.join(ANNOTATIONS), lines).unwrap();
    let (data, swapped) = (folder.join("..data"), folder.join("..data_tmp"));
    let before = std::fs::read_link(&data).ok();
    std::os::unix::fs::symlink(&version, &swapped).unwrap();
    std::fs::rename(&swapped, &data).unwrap();
    match before {
        Some(before) => std::fs::remove_dir_all(folder.join(before)).unwrap(),
        None => {
            let to = Path::new("..data").join(ANNOTATIONS);
            std::os::unix::fs::symlink(to, folder.join(ANNOTATIONS)).unwrap();
        }
    }
}

/// Apart from the identity, which is another volume.
const VOLUME: &str = "podinfo";
const ANNOTATIONS: &str = "annotations";
const POLICY: &str = "policy.yaml";
const DEFAULTS: &[(&str, &str)] = &[
    ("WEFT_OUTBOUND_LISTEN", "127.0.0.1:0"),
    ("WEFT_INBOUND_LISTEN", "127.0.0.1:0"),
    ("WEFT_METRICS_LISTEN", "127.0.0.1:0"),
    ("WEFT_READY_LISTEN", "127.0.0.1:0"),
    ("WEFT_ADMIN_LISTEN", "127.0.0.1:0"),
    ("WEFT_WORKERS", "1"),
    ("WEFT_LOG", "warn"),
    ("WEFT_ACCESS_LOG", "off"),
    ("WEFT_DRAIN_QUIET", "0s"),
    ("WEFT_DRAIN_TIMEOUT", "200ms"),
];
