//! `weft-proxy`: the sidecar. `weft-proxy redirect` writes the nftables table instead, `wait` and `drain` are hooks of its container.

use std::io::Write as _;
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
        Some("--help" | "-h") => write!(std::io::stdout(), "{HELP}")?,
        Some("--version" | "-V") => writeln!(
            std::io::stdout(),
            "weft-proxy {}",
            env!("CARGO_PKG_VERSION")
        )?,
        Some(word) => {
            anyhow::bail!("{word:?} is not one of redirect, wait, drain, --help, --version")
        }
    }
    Ok(ExitCode::SUCCESS)
}

const HELP: &str = "\
The sidecar of a Weft mesh: takes an app's inbound and outbound traffic.

Usage: weft-proxy             serves until SIGTERM
       weft-proxy redirect    writes the nftables table that sends traffic to it
       weft-proxy wait        waits until the proxy beside it is ready
       weft-proxy drain       has the proxy beside it drain

Its settings are environment variables, WEFT_* and OTEL_*; docs/configuration.md lists them. Mistakes are told all at once.
";
