//! Two pods with a proxy each, and a host outside of the mesh: `web` calls, `app` is called.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use crate::ca::{Ca, id};
use crate::netns::{Host, Network, User};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::sidecar::Sidecar;

/// The pods and what keeps them running. Fields are dropped in their order: proxies before the hosts they run on.
#[derive(Debug)]
pub struct Pair {
    /// The proxy of `web`.
    pub web_proxy: Sidecar,
    /// The proxy of `app`.
    pub app_proxy: Sidecar,
    /// The calling pod, identity `web`.
    pub web: Host,
    /// The called pod, identity `app`.
    pub app: Host,
    /// A host without a proxy.
    pub outside: Host,
    /// Who signed for both.
    pub ca: Ca,
    /// A folder for the test.
    pub scratch: Scratch,
    network: Network,
}

/// What `app` offers, and how its proxy treats plaintext.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Ports, each with its declared protocol or `-` for none.
    pub ports: &'a [(u16, &'a str)],
    /// `permissive` or `strict`.
    pub mtls: &'a str,
}

impl Pair {
    /// Starts both pods; `program` is the proxy.
    pub fn new(program: &Path, offer: Offer<'_>) -> Self {
        let network = Network::new();
        let (web, app, outside) = (network.host(), network.host(), network.host());
        let (ca, scratch) = (Ca::new(), Scratch::new());
        let services = scratch.file("services.yaml", services(&app, offer));
        let start = |host: &Host, account: &str| {
            let identity = identity(&ca, &scratch, account);
            let variables = [
                ("WEFT_IDENTITY_DIR", identity.as_str()),
                ("WEFT_SERVICES_FILE", services.to_str().unwrap()),
                ("WEFT_SERVICE_ACCOUNT", account),
                ("WEFT_MTLS", offer.mtls),
            ];
            Sidecar::start(host, program, &variables)
        };
        let (web_proxy, app_proxy) = (start(&web, "web"), start(&app, "app"));
        Self {
            web_proxy,
            app_proxy,
            web,
            app,
            outside,
            ca,
            scratch,
            network,
        }
    }

    /// Starts a server on the called pod and waits until it accepts on each of `ports`.
    pub fn serve(&self, name: &str, command: Command, ports: &[u16]) -> Process {
        serve_on(&self.app, name, command, ports)
    }

    /// Returns a folder for a server of the called pod, and its path as text.
    pub fn folder(&self, name: &str) -> String {
        self.scratch
            .folder_of(name, User::APP.uid)
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// Adds a host without a proxy.
    pub fn another_host(&self) -> Host {
        self.network.host()
    }
}

/// Starts a server on `host` and waits until it accepts on each of `ports`.
pub fn serve_on(host: &Host, name: &str, command: Command, ports: &[u16]) -> Process {
    let mut process = Process::start(name, command);
    for port in ports {
        host.until_listening(
            &mut process,
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port),
        );
    }
    process
}

/// Returns the addresses of the app's services, one an address family.
pub fn services_of_app() -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 96, 0, 10).into(),
        Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10).into(),
    ]
}

/// Writes an address as it stands in a URL.
pub fn in_url(address: IpAddr) -> String {
    SocketAddr::new(address, 0)
        .to_string()
        .trim_end_matches(":0")
        .to_owned()
}

fn identity(ca: &Ca, scratch: &Scratch, account: &str) -> String {
    let folder = scratch.folder_of(account, User::PROXY.uid);
    let files = ca.files(account);
    for (name, text) in [
        ("tls.key", &files.key),
        ("tls.crt", &files.chain),
        ("ca.crt", &files.roots),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        chown(path, Some(User::PROXY.uid), Some(User::PROXY.gid)).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

/// One service for each port and address family, so that a test knows which one it used.
fn services(app: &Host, offer: Offer<'_>) -> String {
    if offer.ports.is_empty() {
        return "services: []\n".to_owned();
    }
    let mut text = "services:\n".to_owned();
    for (port, protocol) in offer.ports {
        for ((virtual_address, address), family) in services_of_app()
            .into_iter()
            .zip(app.addresses())
            .zip(["v4", "v6"])
        {
            let endpoint = SocketAddr::new(address, *port);
            let _ = write!(
                text,
                "- name: app-{family}\n  port: {port}\n  addresses: [\"{virtual_address}\"]\n"
            );
            if *protocol != "-" {
                let _ = writeln!(text, "  protocol: {protocol}");
            }
            let _ = write!(
                text,
                "  endpoints:\n  - address: \"{endpoint}\"\n    identity: {}\n",
                id("app")
            );
        }
    }
    text
}
