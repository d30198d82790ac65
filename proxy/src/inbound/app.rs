//! The app that an inbound connection is for: where it listens, and the port by which the mesh knows it.
//!
//! With redirection the kernel knows it before the first byte; without it the SNI names one of the declared ports. Nothing
//! else is ever served, so that the proxy is no open relay.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tracing::debug;

use crate::cx::Worker;
use crate::orig_dst::orig_dst;
use crate::tls::accept;

/// The app a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct App {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// The port by which the mesh knows it.
    pub(super) port: u16,
    /// By redirection: the leg to it needs its own source address.
    pub(super) redirected: bool,
}

/// With redirection the kernel knows; without it, a single declared app needs no choice, and `None` leaves it to the SNI.
pub(super) fn destination(worker: &Worker, io: &TcpStream) -> Result<Option<App>, &'static str> {
    let settings = &worker.settings;
    if settings.redirect {
        let original = orig_dst(io, &settings.own_ports).map_err(|error| {
            debug!(%error, "inbound connection refused");
            "original_destination"
        })?;
        let address = original.0;
        return Ok(Some(App {
            address,
            port: address.port(),
            redirected: true,
        }));
    }
    let mut apps = settings.apps.iter();
    Ok(match (apps.next(), apps.next()) {
        (Some((port, address)), None) => Some(App {
            address: *address,
            port: *port,
            redirected: false,
        }),
        _ => None,
    })
}

/// The app that the SNI names, where more than one is declared. Only declared ports are ever served.
pub(super) fn named_app(
    worker: &Worker,
    server_name: Option<&str>,
    app: Option<App>,
) -> Option<App> {
    if app.is_some_and(|app| app.redirected) {
        return app;
    }
    match server_name.and_then(accept::port_of) {
        Some(port) => {
            let address = *worker.settings.apps.get(&port)?;
            Some(App {
                address,
                port,
                redirected: false,
            })
        }
        None => app,
    }
}
