//! `weft-proxy`: the sidecar. `weft-proxy redirect` writes the nftables table instead, `wait` and `drain` are hooks of its container.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use weft_proxy::config::Config;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => return weft_proxy::shutdown::run(Config::from_env()?),
        Some("redirect") => weft_proxy::redirect::run(arguments)?,
        Some("wait") => weft_proxy::hooks::wait(&Config::from_env()?)?,
        Some("drain") => weft_proxy::hooks::drain(&Config::from_env()?)?,
        Some(word) => anyhow::bail!("{word:?} is not one of redirect, wait, drain"),
    }
    Ok(ExitCode::SUCCESS)
}
