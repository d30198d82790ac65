//! The shop as it is started: a certificate authority, three apps, and a proxy for each app.
//!
//! [`Plan`] says where each listens and what it is told; [`Shop`] starts it, waits until it is ready, and ends it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use http::{HeaderMap, StatusCode};

use super::identities::{AUDIENCE, ISSUER, NAMESPACE, TRUST_DOMAIN, TokenIssuer, identity};
use super::journal::{Death, Journal};
use super::process::{Ended, Processes, Start};
use super::scratch::Scratch;
use crate::app::AppName;
use crate::client;

/// Where one app and its proxy listen.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: AppName,
    pub(crate) app: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) ready: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Where everything listens and what it is told.
#[derive(Debug)]
pub(crate) struct Plan {
    program: PathBuf,
    collector: SocketAddr,
    ca: SocketAddr,
    pub(crate) web: Place,
    pub(crate) orders: Place,
    pub(crate) users: Place,
    files: Files,
    /// Last, so that the files go after all who read them.
    _scratch: Scratch,
}

#[derive(Debug)]
struct Files {
    ca_directory: PathBuf,
    key_set: PathBuf,
    services: PathBuf,
    tokens: PathBuf,
}

impl Plan {
    /// Picks ports that are free now and writes the files.
    ///
    /// # Errors
    /// No free ports, no key, or a file cannot be written.
    pub(crate) fn new(scratch: Scratch, collector: SocketAddr) -> anyhow::Result<Self> {
        let mut ports = free_ports(1 + 3 * 6)?.into_iter();
        let mut next = || {
            let port = ports.next().context("one more free port")?;
            anyhow::Ok(SocketAddr::new(LOCALHOST, port))
        };
        let ca = next()?;
        let mut place = |name| {
            anyhow::Ok(Place {
                name,
                app: next()?,
                inbound: next()?,
                outbound: next()?,
                metrics: next()?,
                ready: next()?,
                admin: next()?,
            })
        };
        let web = place(AppName::Web)?;
        let orders = place(AppName::Orders)?;
        let users = place(AppName::Users)?;
        let files = Files::write(&scratch, &services(&[&web, &orders, &users]))?;
        Ok(Self {
            program: std::env::current_exe().context("find this program's file")?,
            collector,
            ca,
            web,
            orders,
            users,
            files,
            _scratch: scratch,
        })
    }

    /// Returns the apps in the order in which a call meets them.
    pub(crate) fn places(&self) -> [&Place; 3] {
        [&self.web, &self.orders, &self.users]
    }

    fn ca_root(&self) -> PathBuf {
        self.files.ca_directory.join("ca.crt")
    }

    fn start_ca(&self) -> Start {
        let env = [
            ("WEFT_CA_LISTEN", self.ca.to_string()),
            (
                "WEFT_CA_METRICS_LISTEN",
                SocketAddr::new(LOCALHOST, 0).to_string(),
            ),
            ("WEFT_CA_DIR", text(&self.files.ca_directory)),
            ("WEFT_CA_JWKS", text(&self.files.key_set)),
            ("WEFT_CA_TOKEN_ISSUER", ISSUER.to_owned()),
            ("WEFT_CA_AUDIENCES", AUDIENCE.to_owned()),
            ("WEFT_TRUST_DOMAIN", TRUST_DOMAIN.to_owned()),
        ];
        self.start("certificate authority".to_owned(), &["__ca"], &env)
    }

    fn start_app(&self, place: &Place) -> Start {
        let (listen, via) = (place.app.to_string(), place.outbound.to_string());
        let name = place.name.as_str();
        let args = ["__app", name, "--listen", &listen, "--via", &via];
        self.start(format!("app {name}"), &args, &[])
    }

    fn start_proxy(&self, place: &Place) -> Start {
        let name = place.name.as_str();
        let env = [
            ("WEFT_INBOUND_LISTEN", place.inbound.to_string()),
            ("WEFT_OUTBOUND_LISTEN", place.outbound.to_string()),
            ("WEFT_METRICS_LISTEN", place.metrics.to_string()),
            ("WEFT_READY_LISTEN", place.ready.to_string()),
            ("WEFT_ADMIN_LISTEN", place.admin.to_string()),
            ("WEFT_INBOUND_PORTS", inbound_port(place)),
            ("WEFT_MTLS", mtls(place.name).to_owned()),
            ("WEFT_SERVICES_FILE", text(&self.files.services)),
            ("WEFT_TRUST_DOMAIN", TRUST_DOMAIN.to_owned()),
            ("WEFT_NAMESPACE", NAMESPACE.to_owned()),
            ("WEFT_SERVICE_ACCOUNT", name.to_owned()),
            ("WEFT_CA_ADDRESS", format!("https://{}", self.ca)),
            ("WEFT_CA_ROOT", text(&self.ca_root())),
            ("WEFT_TOKEN_FILE", text(&self.files.tokens.join(name))),
            ("WEFT_WORKERS", "1".to_owned()),
            ("WEFT_DRAIN_QUIET", "100ms".to_owned()),
            ("WEFT_DRAIN_TIMEOUT", "3s".to_owned()),
            ("WEFT_TRACE_SAMPLE", "always".to_owned()),
            ("WEFT_LOG_FORMAT", "text".to_owned()),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", self.collector),
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ];
        self.start(format!("proxy of {name}"), &["__proxy"], &env)
    }

    fn start(&self, name: String, args: &[&str], env: &[(&str, String)]) -> Start {
        let own = |(key, value): &(&str, String)| ((*key).to_owned(), value.clone());
        Start {
            name,
            program: self.program.clone(),
            args: args.iter().map(Into::into).collect(),
            env: env.iter().map(own).collect(),
        }
    }
}

impl Files {
    fn write(scratch: &Scratch, services: &str) -> anyhow::Result<Self> {
        let issuer = TokenIssuer::generate()?;
        let tokens = scratch.directory("tokens")?;
        for app in AppName::ALL {
            let token = issuer.token(app, SystemTime::now())?;
            scratch.file(&format!("tokens/{}", app.as_str()), &token)?;
        }
        Ok(Self {
            ca_directory: scratch.directory("ca")?,
            key_set: scratch.file("jwks.json", &issuer.key_set()?)?,
            services: scratch.file("services.yaml", services)?,
            tokens,
        })
    }
}

/// The running shop.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) plan: Plan,
    processes: Processes,
}

impl Shop {
    /// Starts everything, and waits until every proxy is ready.
    ///
    /// # Errors
    /// A process dies or is not ready within [`START`] (30 s).
    pub(crate) async fn start(plan: Plan, journal: &Journal) -> anyhow::Result<Self> {
        let mut processes = Processes::new(journal.clone());
        let starting = async {
            processes.start(&plan.start_ca())?;
            wait_until(|| plan.ca_root().exists()).await;
            for place in plan.places() {
                processes.start(&plan.start_app(place))?;
                processes.start(&plan.start_proxy(place))?;
            }
            for place in plan.places() {
                wait_until_ready(place).await;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            biased;
            death = journal.death() => Err(death.into()),
            started = tokio::time::timeout(START, starting) => {
                started.context("wait for the proxies to get ready")??;
                Ok(Self { plan, processes })
            }
        }
    }

    /// Ends everything.
    pub(crate) async fn stop(self) -> Vec<Ended> {
        self.processes.stop().await
    }
}

/// Tells whether a start failed because somebody took a port between our picking and using it.
pub(crate) fn lost_a_port(error: &anyhow::Error) -> bool {
    let death = error.downcast_ref::<Death>();
    death.is_some_and(|death| death.output.iter().any(|line| line.contains("in use")))
}

/// Writes the services file: who offers what, and who they must prove to be.
fn services(places: &[&Place]) -> String {
    let mut text = "services:\n".to_owned();
    for place in places {
        let (port, protocol) = offer(place.name);
        let identity = identity(place.name);
        text.push_str(&service(
            (place.name.as_str(), port, protocol),
            place,
            &identity,
        ));
    }
    // Whoever calls this name expects users and meets orders: the mesh must refuse.
    if let Some(orders) = places.iter().find(|place| place.name == AppName::Orders) {
        let expected = identity(AppName::Users);
        text.push_str(&service((IMPOSTOR, 80, "http"), orders, &expected));
    }
    text
}

fn service(offer: (&str, u16, &str), place: &Place, identity: &str) -> String {
    let (name, port, protocol) = offer;
    let (app, inbound) = (place.app, place.inbound);
    format!(
        "  - name: {name}\n    port: {port}\n    protocol: {protocol}\n    endpoints:\n      \
         - address: \"{app}\"\n        inbound: \"{inbound}\"\n        identity: {identity}\n"
    )
}

/// The port callers name, and what is spoken there.
fn offer(app: AppName) -> (u16, &'static str) {
    match app {
        AppName::Web | AppName::Orders => (80, "http"),
        AppName::Users => (50051, "grpc"),
    }
}

fn inbound_port(place: &Place) -> String {
    let (port, protocol) = offer(place.name);
    format!("{port}={}/{protocol}", place.app)
}

/// `web` is what visitors reach, who have no identity; the others are called by the mesh only.
fn mtls(app: AppName) -> &'static str {
    match app {
        AppName::Web => "permissive",
        AppName::Orders | AppName::Users => "strict",
    }
}

/// Returns ports that were free a moment ago; held together, so that they differ.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let bind = |_| TcpListener::bind((LOCALHOST, 0));
    let held: Vec<_> = (0..count)
        .map(bind)
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    held.iter().map(port).collect()
}

async fn wait_until_ready(place: &Place) {
    let none = HeaderMap::new();
    loop {
        let answer = client::get(place.ready, "localhost", "/ready", &none).await;
        if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_until(ready: impl Fn() -> bool) {
    while !ready() {
        tokio::time::sleep(POLL).await;
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A service whose endpoint proves to be somebody else than the services file says.
pub(crate) const IMPOSTOR: &str = "impostor";
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: AppName) -> Place {
        let at = |port| SocketAddr::new(LOCALHOST, port);
        Place {
            name,
            app: at(1),
            inbound: at(2),
            outbound: at(3),
            metrics: at(4),
            ready: at(5),
            admin: at(6),
        }
    }

    #[test]
    fn ports_differ() {
        let mut ports = free_ports(19).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 19);
    }

    #[test]
    fn services_name_the_proxy_to_dial_and_who_must_answer() {
        let text = services(&[&place(AppName::Orders)]);
        let want = "\
services:
  - name: orders
    port: 80
    protocol: http
    endpoints:
      - address: \"127.0.0.1:1\"
        inbound: \"127.0.0.1:2\"
        identity: spiffe://cluster.local/ns/shop/sa/orders
  - name: impostor
    port: 80
    protocol: http
    endpoints:
      - address: \"127.0.0.1:1\"
        inbound: \"127.0.0.1:2\"
        identity: spiffe://cluster.local/ns/shop/sa/users
";
        assert_eq!(text, want);
    }

    #[test]
    fn only_a_taken_port_is_worth_another_try() {
        let death = |line: &str| {
            anyhow::Error::from(Death {
                process: "proxy of web".to_owned(),
                status: "exit status: 1".to_owned(),
                output: vec![line.to_owned()],
            })
        };
        assert!(lost_a_port(&death(
            "bind 127.0.0.1:1: Address already in use (os error 98)"
        )));
        assert!(!lost_a_port(&death("no token file")));
        assert!(!lost_a_port(&anyhow::anyhow!("in use")));
    }
}
