//! `weft-proxy`: the sidecar. `weft-proxy redirect` writes the nftables table instead.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use weft_proxy::config::Config;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("redirect") {
        weft_proxy::redirect::run(arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    weft_proxy::shutdown::run(Config::from_env()?)
}
