//! Weft as a peer: built from this checkout unless a binary is given, in explicit mode, identities from files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::json;

use crate::args::Settings;
use crate::chain::{Wiring, free_addresses};
use crate::load::Protocol;
use crate::pki::Leaf;

/// Returns the given binary, or builds this checkout's, so that a stale one is never measured.
pub(super) fn find(settings: &Settings) -> Result<PathBuf, String> {
    match &settings.weft_proxy {
        Some(path) => Ok(path.clone()),
        None => build().map_err(|error| format!("{error:#}")),
    }
}

pub(super) fn find_old(settings: &Settings) -> Result<PathBuf, String> {
    settings
        .weft_old
        .clone()
        .ok_or_else(|| "--weft-old is not given".to_owned())
}

/// As the image has it: linked statically, which is a good part of its memory.
fn build() -> anyhow::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/proxy");
    let status = Command::new(&script)
        .env("CARGO", env!("CARGO"))
        .status()
        .with_context(|| format!("run {}", script.display()))?;
    anyhow::ensure!(status.success(), "image/proxy: {status}");
    let beside = std::env::current_exe()?;
    let binary = beside
        .parent()
        .context("this program has no directory")?
        .join("weft-proxy");
    anyhow::ensure!(
        binary.is_file(),
        "{} was not built; run the bench with --release",
        binary.display()
    );
    Ok(binary)
}

pub(super) fn commands(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<[Command; 2]> {
    let (hint, port) = match wiring.protocol {
        Protocol::Http1 => ("http", format!("80={}/http", wiring.app)),
        Protocol::Http2 => ("http2", format!("80={}/http2", wiring.app)),
    };
    // JSON is YAML too.
    let services = json!({ "services": [{
        "name": "app",
        "port": 80,
        "protocol": hint,
        "endpoints": [{
            "address": wiring.app.to_string(),
            "inbound": wiring.middle.to_string(),
            "identity": wiring.pki.second.spiffe_id,
        }],
    }]});
    let file = wiring.dir.join("services.yaml");
    fs::write(&file, services.to_string())?;
    let [unused_in, unused_out] = free_addresses()?;

    let mut first = proxy(binary, &wiring.pki.first, "client")?;
    first.env("WEFT_OUTBOUND_LISTEN", wiring.entry.to_string());
    first.env("WEFT_INBOUND_LISTEN", unused_in.to_string());
    first.env("WEFT_SERVICES_FILE", file);

    let mut second = proxy(binary, &wiring.pki.second, "app")?;
    second.env("WEFT_OUTBOUND_LISTEN", unused_out.to_string());
    second.env("WEFT_INBOUND_LISTEN", wiring.middle.to_string());
    second.env("WEFT_INBOUND_PORTS", port);
    second.env("WEFT_MTLS", "strict");
    Ok([first, second])
}

/// With metrics, and `sample` of its requests traced.
pub(super) fn telling(
    binary: &Path,
    wiring: &Wiring<'_>,
    sample: &str,
) -> anyhow::Result<[Command; 2]> {
    let mut commands = commands(binary, wiring)?;
    let collector = format!("http://{}", wiring.spans);
    for command in &mut commands {
        command
            .env("WEFT_TRACE_SAMPLE", sample)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector)
            // Nothing may be dropped: that would be cheaper.
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "200000")
            .env("OTEL_BSP_SCHEDULE_DELAY", "500");
    }
    Ok(commands)
}

/// Without metrics of requests and without a collector.
pub(super) fn silent(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<[Command; 2]> {
    let mut commands = commands(binary, wiring)?;
    for command in &mut commands {
        command
            .env("WEFT_METRICS", "off")
            .env("WEFT_TRACE_SAMPLE", "never");
    }
    Ok(commands)
}

fn proxy(binary: &Path, leaf: &Leaf, service_account: &str) -> anyhow::Result<Command> {
    let [metrics, ready, admin] = free_addresses()?;
    let mut command = Command::new(binary);
    command
        .env_clear()
        .env("WEFT_METRICS_LISTEN", metrics.to_string())
        .env("WEFT_READY_LISTEN", ready.to_string())
        .env("WEFT_ADMIN_LISTEN", admin.to_string())
        .env("WEFT_IDENTITY_DIR", &leaf.dir)
        .env("WEFT_NAMESPACE", "bench")
        .env("WEFT_SERVICE_ACCOUNT", service_account)
        .env("WEFT_WORKERS", "1")
        .env("WEFT_ACCESS_LOG", "off")
        .env("WEFT_LOG", "warn");
    Ok(command)
}
