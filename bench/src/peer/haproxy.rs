//! HAProxy as a peer: one thread, connections to servers shared by all requests. It verifies the chain, and the server's DNS
//! name; it cannot match a SPIFFE ID.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Settings;
use crate::chain::Wiring;
use crate::load::Protocol;

pub(super) fn find(_settings: &Settings) -> Result<PathBuf, String> {
    super::in_path("haproxy").ok_or_else(|| "not found; `apt install haproxy`".to_owned())
}

pub(super) fn commands(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<[Command; 2]> {
    let (proto, alpn) = match wiring.protocol {
        Protocol::Http1 => ("", "alpn http/1.1"),
        Protocol::Http2 => (" proto h2", "alpn h2"),
    };
    let tls = |leaf: &crate::pki::Leaf| {
        let (pem, root) = (leaf.combined(), leaf.root());
        format!(
            "ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3 {alpn}",
            pem.display(),
            root.display()
        )
    };
    let name = &wiring.pki.second.dns_name;
    let first = configuration(
        &format!("{}{proto}", wiring.entry),
        &format!(
            "{} {} sni str({name}) verifyhost {name}{proto}",
            wiring.middle,
            tls(&wiring.pki.first)
        ),
    );
    let second = configuration(
        &format!("{} {}{proto}", wiring.middle, tls(&wiring.pki.second)),
        &format!("{}{proto}", wiring.app),
    );
    Ok([
        command(binary, wiring.dir, "first", &first)?,
        command(binary, wiring.dir, "second", &second)?,
    ])
}

fn command(binary: &Path, dir: &Path, name: &str, configuration: &str) -> anyhow::Result<Command> {
    let file = dir.join(format!("{name}.cfg"));
    fs::write(&file, configuration)?;
    let mut command = Command::new(binary);
    command.args(["-db", "-f"]).arg(file);
    Ok(command)
}

fn configuration(bind: &str, server: &str) -> String {
    format!(
        "global
  nbthread 1
  maxconn 4096

defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  http-reuse always

frontend in
  bind {bind}
  default_backend next

backend next
  server next {server}
"
    )
}
