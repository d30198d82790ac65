//! `weft-injector`: the admission webhook of the mesh.

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use weft_injector::app;
use weft_injector::config::Config;

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn main() -> anyhow::Result<()> {
    let config = Config::from_env(|name| std::env::var(name).ok())?;
    let filter = EnvFilter::try_new(&config.log).context("read WEFT_LOG")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .json()
        .init();
    app::run(config)
}
