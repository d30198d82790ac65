//! `weft-proxy redirect`: makes the kernel hand a pod's TCP connections to the proxy.
//!
//! Runs once in the pod's network namespace, before the proxy and the app, as an init container with `NET_ADMIN`.
//! It writes one nftables table, `inet weft`, for IPv4 and IPv6, and gives loopback the address `::6`. It keeps no state
//! and changes nothing else; a second run replaces the table in one transaction. What happens to a redirected
//! connection is the business of the listeners, which read its original destination.

mod arguments;
mod check;
mod cidr;
mod loopback;
mod nft;
mod port;
mod table;

use std::io::{self, Write};
use std::process::Command;

use anyhow::Context;

use self::arguments::{Action, Arguments};
use self::cidr::Cidr;
use self::port::PortRange;

/// What is redirected where, and what is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectConfig {
    inbound_port: u16,
    outbound_port: u16,
    uid: u32,
    gid: u32,
    skip_inbound_ports: Vec<PortRange>,
    skip_outbound_ports: Vec<PortRange>,
    skip_outbound_cidrs: Vec<Cidr>,
}

impl Default for RedirectConfig {
    fn default() -> Self {
        Self {
            inbound_port: 15006,
            outbound_port: 15001,
            uid: 1337,
            gid: 1337,
            // The proxy's own metrics and readiness ports answer the kubelet and Prometheus directly.
            skip_inbound_ports: vec![PortRange::single(15020), PortRange::single(15021)],
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
        }
    }
}

/// Runs `weft-proxy redirect` with the arguments that follow that word.
///
/// # Errors
/// On an argument it does not know or cannot read, when the `nft` program or the right to use it is missing, and when
/// the kernel refuses the table; each with what to do about it.
pub fn run(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let Arguments { action, config } = Arguments::parse(arguments)?;
    match action {
        Action::Help => print(&arguments::help()),
        Action::Print => print(&table::script(&config)),
        Action::Check => check::run(&config),
        Action::Remove => {
            nft::apply(Command::new("nft"), table::REMOVE).context("remove the redirection")?;
            loopback::remove_inbound_source().context("remove ::6 from loopback")
        }
        Action::Apply => {
            loopback::add_inbound_source().context("add ::6 to loopback")?;
            nft::apply(Command::new("nft"), &table::script(&config))
                .context("redirect the pod's connections")
        }
    }
}

/// Proves that a connection of this process, which is the proxy, is redirected to one of its `inbound` listeners.
///
/// # Errors
/// It is not: traffic would pass by the proxy.
pub(crate) fn verify(inbound: &[&std::net::TcpListener]) -> anyhow::Result<()> {
    Ok(check::of_listeners(inbound)?)
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("write to standard output")
}
