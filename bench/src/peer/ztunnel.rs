//! ztunnel as a peer: one process that is both hops, as on a node that holds caller and app; it moves bytes only and reads no
//! HTTP. Entered by SOCKS5, for lack of redirection. It must be built with `--features testing`, which lets it sign its own
//! certificate, and its fixed ports (15000, 15001, 15006, 15008, 15020, 15021, 15080) must be free.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::args::Settings;
use crate::chain::{Launch, Wiring};
use crate::load::Entry;

pub(super) fn find(settings: &Settings) -> Result<PathBuf, String> {
    settings
        .ztunnel
        .clone()
        .ok_or_else(|| "give its binary with --ztunnel PATH".to_owned())
}

pub(super) fn launch(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<Launch> {
    let state = json!({ "workloads": [{
        "uid": "bench//Pod/bench/app",
        "name": "app",
        "namespace": "bench",
        "serviceAccount": "app",
        "workloadIps": ["127.0.0.1"],
        "protocol": "HBONE",
        "node": "local",
        "network": "",
        "services": {},
    }]});
    let file = wiring.dir.join("state.yaml");
    fs::write(&file, state.to_string())?;
    let mut command = Command::new(binary);
    command
        .env_clear()
        .current_dir(wiring.dir)
        .env("FAKE_CA", "true")
        .env("XDS_ADDRESS", "")
        .env("LOCAL_XDS_PATH", file)
        .env("PROXY_MODE", "dedicated")
        .env("PROXY_WORKLOAD_INFO", "bench/app/app")
        .env("NODE_NAME", "local")
        .env("UNSTABLE_ENABLE_SOCKS5", "true")
        .env("ENABLE_ORIG_SRC", "false")
        .env("ZTUNNEL_WORKER_THREADS", "1")
        .env("RUST_LOG", "warn");
    let entry = Entry {
        socks_to: Some(wiring.app),
        ..Entry::at(SOCKS)
    };
    Ok(Launch {
        commands: vec![command],
        entry,
    })
}

const SOCKS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15080);
