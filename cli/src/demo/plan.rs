//! The shop on paper: where everything listens, what each process is told, and the files they read.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;

use super::identities::{self, AUDIENCE, ISSUER, NAMESPACE, TRUST_DOMAIN, identity};
use super::network::{Network, Place};
use super::process::Start;
use super::scratch::Scratch;
use crate::app::AppName;

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
    pub(crate) network: Network,
    /// Last, so that the files go after all who read them.
    scratch: Scratch,
}

#[derive(Debug)]
struct Files {
    ca_directory: PathBuf,
    key_set: PathBuf,
    services: PathBuf,
    tokens: PathBuf,
    /// A file an app: what its pod would be annotated with.
    annotations: PathBuf,
    /// The CA's root for the proxies, who may not look into its directory.
    root: PathBuf,
}

impl Plan {
    /// Places everything in `network` and writes the files.
    ///
    /// # Errors
    /// No free ports, no key, or a file cannot be written.
    pub(crate) fn new(
        network: Network,
        scratch: Scratch,
        collector: SocketAddr,
    ) -> anyhow::Result<Self> {
        let (ca, [web, orders, users]) = network.places()?;
        let files = Files::write(
            &scratch,
            &services(&[&web, &orders, &users], network.impostor()),
        )?;
        Ok(Self {
            program: std::env::current_exe().context("find this program's file")?,
            collector,
            ca,
            web,
            orders,
            users,
            files,
            network,
            scratch,
        })
    }

    /// Returns the apps in the order in which a call meets them.
    pub(crate) fn places(&self) -> [&Place; 3] {
        [&self.web, &self.orders, &self.users]
    }

    /// Returns the virtual address of a service, where something redirects it.
    pub(crate) fn address_of(&self, service: &str) -> Option<SocketAddr> {
        if service == IMPOSTOR {
            return Some(SocketAddr::new(self.network.impostor()?, 80));
        }
        let named = self
            .places()
            .into_iter()
            .find(|place| place.name.as_str() == service);
        named?.service
    }

    /// Returns where the CA leaves its root.
    pub(crate) fn published_root(&self) -> PathBuf {
        self.files.ca_directory.join("ca.crt")
    }

    /// Puts what the proxies read where they can.
    ///
    /// # Errors
    /// A file cannot be written or given away.
    pub(crate) fn hand_out_root(&self) -> anyhow::Result<()> {
        let root = std::fs::read_to_string(self.published_root()).context("read the CA's root")?;
        self.scratch.file(ROOT, &root)?;
        let Some(user) = self.network.proxy_user() else {
            return Ok(());
        };
        let mut all = vec![self.scratch.path(""), self.files.tokens.clone()];
        all.extend([self.files.root.clone(), self.files.services.clone()]);
        all.extend(AppName::ALL.map(|app| self.files.tokens.join(app.as_str())));
        all.push(self.files.annotations.clone());
        all.extend(AppName::ALL.map(|app| self.files.annotations.join(app.as_str())));
        all.iter().try_for_each(|path| {
            let given = std::os::unix::fs::chown(path, Some(user), Some(user));
            given.with_context(|| format!("give {} to the proxies", path.display()))
        })
    }

    /// Replaces the annotations of an app, each without `weft.dev/`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn annotate(
        &self,
        app: AppName,
        annotations: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let line = |(key, value): &(&str, &str)| format!("weft.dev/{key}={value:?}\n");
        let lines: String = annotations.iter().map(line).collect();
        let next = self.write("annotations/next", &lines)?;
        let path = self.files.annotations.join(app.as_str());
        std::fs::rename(next, &path).with_context(|| format!("replace {}", path.display()))
    }

    /// Writes a file that goes when the demo ends.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        self.scratch.file(name, text)
    }

    pub(crate) fn start_ca(&self) -> Start {
        let env = [
            ("WEFT_CA_LISTEN", self.ca.to_string()),
            (
                "WEFT_CA_METRICS_LISTEN",
                SocketAddr::new(self.ca.ip(), 0).to_string(),
            ),
            ("WEFT_CA_DNS_NAMES", self.ca.ip().to_string()),
            ("WEFT_CA_DIR", text(&self.files.ca_directory)),
            ("WEFT_CA_JWKS", text(&self.files.key_set)),
            ("WEFT_CA_TOKEN_ISSUER", ISSUER.to_owned()),
            ("WEFT_CA_AUDIENCES", AUDIENCE.to_owned()),
            ("WEFT_TRUST_DOMAIN", TRUST_DOMAIN.to_owned()),
        ];
        self.start("certificate authority".to_owned(), &["__ca"], &env)
    }

    /// Returns what programs the redirection of an app's namespace; `None` where nothing redirects.
    pub(crate) fn start_redirect(&self, place: &Place) -> Option<Start> {
        place.namespace.as_ref()?;
        let start = self.start(
            format!("redirection of {}", place.name.as_str()),
            &["__redirect"],
            &[],
        );
        Some(self.network.inside(place, start))
    }

    pub(crate) fn start_app(&self, place: &Place) -> Start {
        let name = place.name.as_str();
        let (listen, via) = (place.app.to_string(), self.way_out(place).to_string());
        let args = ["__app", name, "--listen", &listen, "--via", &via];
        self.network
            .inside(place, self.start(format!("app {name}"), &args, &[]))
    }

    pub(crate) fn start_proxy(&self, place: &Place) -> Start {
        let name = place.name.as_str();
        let mut env = vec![
            ("WEFT_INBOUND_LISTEN", place.inbound.to_string()),
            ("WEFT_OUTBOUND_LISTEN", place.outbound.to_string()),
            ("WEFT_METRICS_LISTEN", place.metrics.to_string()),
            ("WEFT_READY_LISTEN", place.ready.to_string()),
            ("WEFT_ADMIN_LISTEN", place.admin.to_string()),
            ("WEFT_MTLS", mtls(place.name).to_owned()),
            ("WEFT_SERVICES_FILE", text(&self.files.services)),
            ("WEFT_TRUST_DOMAIN", TRUST_DOMAIN.to_owned()),
            ("WEFT_NAMESPACE", NAMESPACE.to_owned()),
            ("WEFT_SERVICE_ACCOUNT", name.to_owned()),
            ("WEFT_CA_ADDRESS", format!("https://{}", self.ca)),
            ("WEFT_CA_ROOT", text(&self.files.root)),
            ("WEFT_TOKEN_FILE", text(&self.files.tokens.join(name))),
            (
                "WEFT_ANNOTATIONS_FILE",
                text(&self.files.annotations.join(name)),
            ),
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
        let mut args = vec!["__proxy".to_owned()];
        match self.network.proxy_user() {
            // The kernel says which app is meant, and lets alone what this user sends.
            Some(user) => {
                env.push(("WEFT_REDIRECT", "on".to_owned()));
                args.extend(["--uid".to_owned(), user.to_string()]);
            }
            None => env.push(("WEFT_INBOUND_PORTS", inbound_port(place))),
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        self.network
            .inside(place, self.start(format!("proxy of {name}"), &args, &env))
    }

    /// Returns where an app sends its calls: to its proxy, or where something redirects, to the service it means.
    fn way_out(&self, place: &Place) -> SocketAddr {
        let called = match place.name {
            AppName::Web => &self.orders,
            AppName::Orders | AppName::Users => &self.users,
        };
        called.service.unwrap_or(place.outbound)
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
        let issuer = identities::token_issuer()?;
        let key_set = issuer.key_set().context("write the key set")?;
        let tokens = scratch.directory("tokens")?;
        let annotations = scratch.directory("annotations")?;
        for app in AppName::ALL {
            let token = identities::token(&issuer, app, SystemTime::now())?;
            scratch.file(&format!("tokens/{}", app.as_str()), &token)?;
            scratch.file(&format!("annotations/{}", app.as_str()), "")?;
        }
        Ok(Self {
            ca_directory: scratch.directory("ca")?,
            key_set: scratch.file("jwks.json", &key_set)?,
            services: scratch.file("services.yaml", services)?,
            tokens,
            annotations,
            root: scratch.path(ROOT),
        })
    }
}

/// Writes the services file: who offers what, and who they must prove to be.
fn services(places: &[&Place], impostor: Option<IpAddr>) -> String {
    let mut text = "services:\n".to_owned();
    for place in places {
        let (port, protocol) = place.offer();
        let offer = (place.name.as_str(), port, protocol);
        let address = place.service.map(|service| service.ip());
        text.push_str(&service(offer, address, place, &identity(place.name)));
    }
    // Whoever calls this name expects users and meets orders: the mesh must refuse.
    if let Some(orders) = places.iter().find(|place| place.name == AppName::Orders) {
        let expected = identity(AppName::Users);
        text.push_str(&service(
            (IMPOSTOR, 80, "http"),
            impostor,
            orders,
            &expected,
        ));
        let expected = identity(AppName::Orders);
        text.push_str(&service((CANARY, 80, "http"), None, orders, &expected));
        text.push_str(&service((FLAKY, 80, "http"), None, orders, &expected));
        text.push_str(&dead_endpoint(&expected));
    }
    text
}

fn service(
    (name, port, protocol): (&str, u16, &str),
    address: Option<IpAddr>,
    place: &Place,
    identity: &str,
) -> String {
    let mut text = format!("  - name: {name}\n    port: {port}\n    protocol: {protocol}\n");
    if let Some(address) = address {
        text.push_str(&format!("    addresses: [\"{address}\"]\n"));
    }
    text.push_str(&format!(
        "    endpoints:\n      - address: \"{}\"\n",
        place.app
    ));
    if place.namespace.is_none() {
        text.push_str(&format!("        inbound: \"{}\"\n", place.inbound));
    }
    text.push_str(&format!("        identity: {identity}\n"));
    text
}

/// One more endpoint of the service above, where nobody listens: port 1 of this machine.
fn dead_endpoint(identity: &str) -> String {
    format!("      - address: \"127.0.0.1:1\"\n        identity: {identity}\n")
}

fn inbound_port(place: &Place) -> String {
    let (port, protocol) = place.offer();
    format!("{port}={}/{protocol}", place.app)
}

/// `web` is what visitors reach, who have no identity; the others are called by the mesh only.
fn mtls(app: AppName) -> &'static str {
    match app {
        AppName::Web => "permissive",
        AppName::Orders | AppName::Users => "strict",
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A service whose endpoint proves to be somebody else than the services file says.
pub(crate) const IMPOSTOR: &str = "impostor";
/// The next version of orders, for want of one the same.
pub(crate) const CANARY: &str = "orders-next";
/// Orders, with an endpoint that is dead.
pub(crate) const FLAKY: &str = "flaky";
const ROOT: &str = "root.crt";

#[cfg(test)]
mod tests {
    use super::super::network::tests::place;
    use super::*;

    #[test]
    fn services_name_the_proxy_to_dial_and_who_must_answer() {
        let text = services(&[&place(AppName::Orders)], None);
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
  - name: orders-next
    port: 80
    protocol: http
    endpoints:
      - address: \"127.0.0.1:1\"
        inbound: \"127.0.0.1:2\"
        identity: spiffe://cluster.local/ns/shop/sa/orders
  - name: flaky
    port: 80
    protocol: http
    endpoints:
      - address: \"127.0.0.1:1\"
        inbound: \"127.0.0.1:2\"
        identity: spiffe://cluster.local/ns/shop/sa/orders
      - address: \"127.0.0.1:1\"
        identity: spiffe://cluster.local/ns/shop/sa/orders
";
        assert_eq!(text, want);
    }

    #[test]
    fn redirected_services_have_an_address_and_no_proxy_to_dial() {
        let mut users = place(AppName::Users);
        users.namespace = Some("weft-demo-users".to_owned());
        users.service = Some("10.1.2.3:50051".parse().unwrap());
        let want = "\
services:
  - name: users
    port: 50051
    protocol: grpc
    addresses: [\"10.1.2.3\"]
    endpoints:
      - address: \"127.0.0.1:1\"
        identity: spiffe://cluster.local/ns/shop/sa/users
";
        assert_eq!(services(&[&users], None), want);
    }
}
