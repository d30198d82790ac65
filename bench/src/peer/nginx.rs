//! nginx as a peer: one worker process, HTTP/1.1 only (it cannot speak HTTP/2 to an upstream). It verifies the chain, and the
//! server's DNS name; it cannot match a SPIFFE ID.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Settings;
use crate::chain::Wiring;
use crate::load::Protocol;
use crate::pki::Leaf;

pub(super) fn find(_settings: &Settings) -> Result<PathBuf, String> {
    super::in_path("nginx").ok_or_else(|| "not found; `apt install nginx`".to_owned())
}

pub(super) fn commands(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<Option<[Command; 2]>> {
    if wiring.protocol == Protocol::Http2 {
        return Ok(None);
    }
    let (first, second) = (&wiring.pki.first, &wiring.pki.second);
    let client = configuration(
        &format!("listen {};", wiring.entry),
        &wiring.middle.to_string(),
        &to_upstream(first, second),
    );
    let server = configuration(
        &from_downstream(&wiring.middle.to_string(), second),
        &wiring.app.to_string(),
        PLAIN,
    );
    Ok(Some([
        command(binary, wiring.dir, "first", &client)?,
        command(binary, wiring.dir, "second", &server)?,
    ]))
}

/// Each proxy has a prefix of its own, for its pid and temporary files.
fn command(binary: &Path, dir: &Path, name: &str, configuration: &str) -> anyhow::Result<Command> {
    let prefix = dir.join(name);
    fs::create_dir_all(&prefix)?;
    let file = prefix.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new(binary);
    command
        .arg("-p")
        .arg(prefix)
        .arg("-c")
        .arg(file)
        .args(["-e", "stderr"]);
    Ok(command)
}

fn to_upstream(own: &Leaf, other: &Leaf) -> String {
    format!(
        "proxy_pass https://next;
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_certificate {};
      proxy_ssl_certificate_key {};
      proxy_ssl_trusted_certificate {};
      proxy_ssl_verify on;
      proxy_ssl_server_name on;
      proxy_ssl_name {};",
        own.certificate().display(),
        own.key().display(),
        own.root().display(),
        other.dns_name,
    )
}

fn from_downstream(listen: &str, own: &Leaf) -> String {
    format!(
        "listen {listen} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {};
    ssl_certificate_key {};
    ssl_client_certificate {};
    ssl_verify_client on;",
        own.certificate().display(),
        own.key().display(),
        own.root().display(),
    )
}

/// `keepalive_requests` is raised, because by default a connection ends after 1000 requests.
fn configuration(listen: &str, next: &str, pass: &str) -> String {
    format!(
        "daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 100000000;
  upstream next {{
    server {next};
    keepalive 128;
    keepalive_requests 100000000;
  }}
  server {{
    {listen}
    location / {{
      {pass}
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $http_host;
    }}
  }}
}}
"
    )
}

const PLAIN: &str = "proxy_pass http://next;";
