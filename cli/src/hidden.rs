//! The commands that are not for people: each process of the demo runs the code that ships.

use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::app::{self, AppConfig};

/// Runs one app of the shop.
///
/// # Errors
/// What [`app::run`] says.
pub(crate) fn app(config: &AppConfig) -> anyhow::Result<()> {
    end_with_parent()?;
    app::run(config)
}

/// Runs the certificate authority, configured by the environment as `weft-ca` is.
///
/// # Errors
/// What the authority says.
pub(crate) fn ca() -> anyhow::Result<()> {
    end_with_parent()?;
    anyhow::bail!("this build has no certificate authority yet")
}

/// Runs a proxy, configured by the environment as `weft-proxy` is.
///
/// # Errors
/// What the proxy says.
pub(crate) fn proxy(_uid: Option<u32>) -> anyhow::Result<()> {
    end_with_parent()?;
    anyhow::bail!("this build has no proxy yet")
}

/// Programs the redirection of the network namespace we are in, as `weft-proxy redirect` does.
///
/// # Errors
/// What the redirection says.
pub(crate) fn redirect() -> anyhow::Result<()> {
    end_with_parent()?;
    anyhow::bail!("this build has no redirection yet")
}

/// Has the kernel end us when the demo is gone, even when it was killed.
fn end_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to end with the demo")
}
