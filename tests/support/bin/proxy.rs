//! The proxy that scenarios start as a process of its own: what the binary `weft-proxy` does.

use std::process::ExitCode;

use weft_proxy::config::Config;

fn main() -> anyhow::Result<ExitCode> {
    weft_proxy::shutdown::run(Config::from_env()?)
}
