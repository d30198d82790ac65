//! The proxy's own log: events of `tracing` on standard error, by `WEFT_LOG` and `WEFT_LOG_FORMAT`.
//!
//! The filter can be exchanged while the process runs (`PUT /log-level`). There is one log a process, however many proxies.

use std::sync::OnceLock;

use tracing::info;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Config, LogFormat};

/// The filter of the log that [`start`] made; unset where the process had one of its own.
static FILTER: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log; where the process has one already, that one stays.
pub(crate) fn start(config: &Config) {
    // It was read when the configuration was.
    let targets: Targets = config.log.parse().unwrap_or_default();
    let (filter, handle) = reload::Layer::new(targets);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(lines);
    if started.try_init().is_ok() {
        // A second proxy in the same process writes to the first one's log.
        let _first = FILTER.set(handle);
    }
}

/// The filter as it is now, if the log is ours.
pub(crate) fn filter() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

/// Exchanges the filter.
///
/// # Errors
/// Says what is wrong with the filter, or that the log is not ours.
pub(crate) fn set_filter(text: &str) -> Result<(), String> {
    let parsed = text.parse::<Targets>();
    let parsed = parsed.map_err(|error| format!("{text:?} is no filter: {error}"))?;
    let filter = FILTER.get().ok_or("this process keeps its own log")?;
    filter.reload(parsed).map_err(|error| error.to_string())?;
    info!(filter = text, "log filter exchanged");
    Ok(())
}
