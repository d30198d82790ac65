//! What an inbound connection comes in: mesh TLS, which is terminated here, TLS that is the app's own, or plaintext.
//!
//! Comes after `detect`; policy says what of it is let in. What was let in is served as an [`Inbound`] connection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use tracing::debug;

use super::app::{App, named_app};
use super::several::Several;
use super::{Inbound, rules};
use crate::cx::Worker;
use crate::detect::Protocol;
use crate::forward::Early;
use crate::io::Io;
use crate::policy::ports::Declared;
use crate::reject::Reject;
use crate::rewind::Rewind;
use crate::telemetry::record::Direction;
use crate::tls::Speaks;
use crate::tls::accept::{self, Hello};

/// Mesh TLS is terminated, other TLS is the app's.
pub(super) async fn tls(worker: Rc<Worker>, io: Rewind, client: SocketAddr, app: Option<App>) {
    let limit = worker.settings.handshake_timeout;
    let refused = |reason| {
        worker
            .telemetry
            .metrics()
            .handshake_failed(Direction::Inbound, reason);
    };
    let hello = match accept::hello(io, limit).await {
        Ok(hello) => hello,
        Err(error) => {
            debug!(%client, %error, "inbound handshake failed");
            return refused(error.reason());
        }
    };
    let Some(speaks) = hello.speaks else {
        return Box::pin(app_tls(worker, hello, client, app)).await;
    };
    let Some(app) = named_app(&worker, hello.server_name.as_deref(), app) else {
        let metrics = worker.telemetry.metrics();
        return metrics.refused(Direction::Inbound, Reject::NoApp.label());
    };
    let Some(identity) = worker.identities.current() else {
        return refused(Reject::NoIdentity.label());
    };
    let Ok(config) = worker.accept_configs.config(&identity, speaks) else {
        return refused("own_certificate");
    };
    let stream = match accept::accept(hello.io, config, limit).await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%client, %error, reason = error.reason(), "inbound handshake failed");
            return refused(error.reason());
        }
    };
    let peer = match weft_certs::verify::peer_of(
        stream.get_ref().1.peer_certificates(),
        SystemTime::now(),
    ) {
        Ok(peer) => peer,
        Err(error) => return refused(error.reason()),
    };
    worker
        .telemetry
        .metrics()
        .handshake_done(Direction::Inbound);
    let io = Io::Accepted(Box::new(Rewind::new(Bytes::new(), stream)));
    let speaks = match io.alpn() {
        Some(b"h2" | b"istio-h2") => Speaks::Http2,
        Some(b"http/1.1" | b"istio-http/1.1") => Speaks::Http1,
        _ => Speaks::Opaque,
    };
    let early = match rules(&worker, Some(app)).declared {
        Some(Declared::Opaque) => Early::Opaque,
        _ => Early::Unknown,
    };
    let connection = Inbound::new(worker, client, app, Some((&peer, &identity)));
    connection.serve(io, speaks, early).await;
}

/// TLS that the app itself will terminate: untouched where policy is permissive, closed where it is strict.
async fn app_tls(worker: Rc<Worker>, hello: Hello, client: SocketAddr, app: Option<App>) {
    plain(worker, hello.io, client, app, Protocol::Tls).await;
}

pub(super) async fn plain(
    worker: Rc<Worker>,
    io: Rewind,
    client: SocketAddr,
    app: Option<App>,
    protocol: Protocol,
) {
    let Some(app) = app else {
        // On the heap, as what is rare is.
        return Box::pin(Several::serve(worker, client, io, protocol)).await;
    };
    let metrics = worker.telemetry.metrics();
    let rules = rules(&worker, Some(app));
    let own_tls = protocol == Protocol::Tls && rules.declared == Some(Declared::OwnTls);
    if rules.strict && !own_tls {
        metrics.refused(Direction::Inbound, "plaintext");
        return;
    }
    metrics.plaintext_connection();
    let speaks = match (rules.declared, protocol) {
        (Some(Declared::Opaque), _) => Speaks::Opaque,
        (_, Protocol::Http1) => Speaks::Http1,
        (_, Protocol::Http2) => Speaks::Http2,
        // HTTP that is none is answered as such.
        (Some(Declared::Http), _) => Speaks::Http1,
        (Some(Declared::Http2), Protocol::Silent) => Speaks::Http2,
        (Some(Declared::Http2), _) => Speaks::Http1,
        (Some(Declared::OwnTls) | None, _) => Speaks::Opaque,
    };
    let silent = protocol == Protocol::Silent && rules.declared != Some(Declared::Opaque);
    let early = if silent {
        Early::Unknown
    } else {
        Early::Opaque
    };
    Inbound::new(worker, client, app, None)
        .serve(Io::Tcp(io), speaks, early)
        .await;
}
