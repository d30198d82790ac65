//! Signals and what follows: the first one drains, the second one ends the process at once.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::app::{self, Bound};
use crate::config::Config;
use crate::log;

/// Runs a proxy until a signal has ended it.
///
/// # Errors
/// It cannot start.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    log::start(&config);
    let bound = app::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("make a runtime")?;
    runtime.block_on(signals(&bound))?;
    let ended = std::thread::spawn(move || bound.wait());
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        loop {
            tokio::select! {
                biased;
                _ = term.recv() => break,
                _ = int.recv() => break,
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {
                    if ended.is_finished() {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
        }
        warn!("second signal: what still runs is cut");
        Ok(ExitCode::FAILURE)
    })
}

async fn signals(bound: &Bound) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    info!("signal: draining");
    bound.shutdown();
    Ok(())
}
