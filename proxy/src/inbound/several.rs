//! Plaintext where several apps are declared and nothing redirects: the port in Host or `:authority` says which is meant.
//!
//! Comes after `transport`, in place of an [`Inbound`] connection: there is one for each app that the connection calls. Only
//! HTTP can say whom it means. Each request is judged by the rules of the port that it names, so naming another one gains
//! nothing over dialling it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::HOST;
use http::uri::Authority;
use http::{Request, Response};

use super::app::App;
use super::{Inbound, rules, serve_http};
use crate::cx::{Cx, Worker};
use crate::detect::Protocol;
use crate::drain::Lifetime;
use crate::filter::limits;
use crate::http::body::Body;
use crate::http::grpc;
use crate::http::h1::server::Service;
use crate::http::interim::Interim;
use crate::io::Io;
use crate::policy::ports::Declared;
use crate::reject::{Caller, Reject};
use crate::rewind::Rewind;
use crate::telemetry::record::{ConnectionFacts, Direction};
use crate::tls::Speaks;

/// One connection that may call every declared app.
pub(super) struct Several {
    cx: Cx,
    client: SocketAddr,
    called: RefCell<BTreeMap<u16, Rc<Inbound>>>,
}

impl Several {
    pub(super) async fn serve(
        worker: Rc<Worker>,
        client: SocketAddr,
        io: Rewind,
        protocol: Protocol,
    ) {
        let metrics = worker.telemetry.metrics();
        let ports = worker.settings.apps.keys();
        let mut ports = ports.filter_map(|port| app(&worker, *port));
        let (none, strict) = (
            worker.settings.apps.is_empty(),
            ports.all(|app| rules(&worker, Some(app)).strict),
        );
        let speaks = match protocol {
            Protocol::Http1 => Speaks::Http1,
            Protocol::Http2 => Speaks::Http2,
            Protocol::Tls | Protocol::Opaque | Protocol::Silent => Speaks::Opaque,
        };
        if strict && !none {
            return metrics.refused(Direction::Inbound, "plaintext");
        }
        metrics.plaintext_connection();
        if none || speaks == Speaks::Opaque {
            return metrics.refused(Direction::Inbound, Reject::NoApp.label());
        }
        let _open = metrics.connection(Direction::Inbound, false);
        let lifetime = Lifetime::new(worker.drain.clone(), None);
        let this = Rc::new(Self {
            cx: plain_cx(Rc::clone(&worker), client),
            client,
            called: RefCell::default(),
        });
        serve_http(&this.cx, (Io::Tcp(io), speaks), &lifetime, Rc::clone(&this)).await;
    }

    /// Whom the request means.
    fn choose(&self, request: &Request<Body>) -> Option<Rc<Inbound>> {
        let port = port(request)?;
        if let Some(inbound) = self.called.borrow().get(&port) {
            return Some(Rc::clone(inbound));
        }
        let worker = &self.cx.worker;
        let app = app(worker, port)?;
        // What is declared not to be HTTP is not reached by it.
        if let Some(Declared::Opaque | Declared::OwnTls) = rules(worker, Some(app)).declared {
            return None;
        }
        let inbound = Rc::new(Inbound::new(Rc::clone(worker), self.client, app, None));
        self.called.borrow_mut().insert(port, Rc::clone(&inbound));
        Some(inbound)
    }
}

impl Service for Several {
    async fn call(&self, request: Request<Body>, interim: Interim) -> Response<Body> {
        match self.choose(&request) {
            Some(inbound) => inbound.call(request, interim).await,
            None if grpc::is_grpc(request.headers()) => self.refuse(Reject::NoApp, Caller::Grpc),
            None => self.refuse(Reject::NoApp, Caller::Http),
        }
    }

    fn refuse(&self, reject: Reject, caller: Caller) -> Response<Body> {
        let metrics = self.cx.worker.telemetry.metrics();
        match reject {
            Reject::Malformed(malformed) => metrics.malformed(malformed.label()),
            other => metrics.refused(Direction::Inbound, other.label()),
        }
        reject.response(caller)
    }

    fn stalled(&self) {
        let metrics = self.cx.worker.telemetry.metrics();
        metrics.refused(Direction::Inbound, "idle");
    }
}

fn app(worker: &Worker, port: u16) -> Option<App> {
    let address = *worker.settings.apps.get(&port)?;
    Some(App {
        address,
        port,
        redirected: false,
    })
}

/// RFC 9110 section 4.2.1: "If the port is empty or not given, TCP port 80 ... is the default".
fn port(request: &Request<Body>) -> Option<u16> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(request.headers().get(HOST)?.as_bytes()).ok()?,
    };
    Some(authority.port_u16().unwrap_or(80))
}

fn plain_cx(worker: Rc<Worker>, client: SocketAddr) -> Cx {
    let facts = Rc::new(ConnectionFacts {
        direction: Direction::Inbound,
        client,
        peer: None,
        secure: false,
    });
    let rule = worker.policies.current().policy.inbound.limits;
    let limits = limits::of_connection(&worker.settings.limits, &rule);
    Cx {
        worker,
        facts,
        port: 0,
        caller: None,
        limits,
    }
}
