//! The commands that are not for people: each process of the demo runs the code that ships.

use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Gid, Signal, Uid, set_parent_process_death_signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tracing_subscriber::EnvFilter;

use crate::app::{self, AppConfig};
use crate::config;

/// Runs one app of the shop.
///
/// # Errors
/// What [`app::run`] says.
pub(crate) fn app(config: &AppConfig) -> anyhow::Result<ExitCode> {
    end_with_parent()?;
    app::run(config)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the certificate authority, configured by the environment as `weft-ca` is.
///
/// # Errors
/// What the authority says.
pub(crate) fn ca() -> anyhow::Result<ExitCode> {
    end_with_parent()?;
    let config = weft_ca::config::Config::from_env(config::environment)?;
    let filter = EnvFilter::try_new(&config.log).context("read WEFT_LOG")?;
    tracing_subscriber::fmt().with_env_filter(filter).init();
    weft_ca::app::run(config)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a proxy, configured by the environment as `weft-proxy` is; as user `uid` if given.
///
/// # Errors
/// What the proxy says.
pub(crate) fn proxy(uid: Option<u32>) -> anyhow::Result<ExitCode> {
    if let Some(uid) = uid {
        become_user(uid).with_context(|| format!("become user {uid}"))?;
    }
    // After the change of user, which the kernel takes for a reason to forget it.
    end_with_parent()?;
    weft_proxy::shutdown::run(weft_proxy::config::Config::from_env()?)
}

/// Programs the redirection of the network namespace we are in, as `weft-proxy redirect` does.
///
/// # Errors
/// What the redirection says.
pub(crate) fn redirect() -> anyhow::Result<ExitCode> {
    end_with_parent()?;
    // The dashboard asks the admin listeners from outside of the namespaces.
    let skipped = ["--skip-inbound-ports", "15000,15020,15021"];
    weft_proxy::redirect::run(skipped.map(str::to_owned))?;
    Ok(ExitCode::SUCCESS)
}

/// Has the kernel end us when the demo is gone, even when it was killed.
fn end_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to end with the demo")
}

/// Changes the user for good. The process has one thread at this point, so that all of it changes.
fn become_user(id: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
