//! The proxy's own log: events of `tracing` on standard error, by `WEFT_LOG` and `WEFT_LOG_FORMAT`.
//!
//! The filter can be exchanged while the process runs (`PUT /log-level`). There is one log a process, however many proxies.

use std::sync::OnceLock;

use tracing::info;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Config, LogFormat};

/// The filter of the log that [`start`] made; unset where the process had one of its own.
static FILTER: OnceLock<Box<dyn Filter>> = OnceLock::new();

/// Starts the log; where the process has one already, that one stays.
pub(crate) fn start(config: &Config) {
    let log = fmt()
        .with_env_filter(EnvFilter::new(&config.log))
        .with_writer(std::io::stderr);
    let (first, filter): (_, Box<dyn Filter>) = match config.log_format {
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let filter = Box::new(log.reload_handle());
            (log.try_init(), filter)
        }
        LogFormat::Text => {
            let log = log.with_filter_reloading();
            let filter = Box::new(log.reload_handle());
            (log.try_init(), filter)
        }
    };
    if first.is_ok() {
        // A second proxy in the same process writes to the first one's log.
        let _first = FILTER.set(filter);
    }
}

/// The filter as it is now, if the log is ours.
pub(crate) fn filter() -> Option<String> {
    FILTER.get()?.get()
}

/// Exchanges the filter.
///
/// # Errors
/// Says what is wrong with the filter, or that the log is not ours.
pub(crate) fn set_filter(text: &str) -> Result<(), String> {
    let parsed = EnvFilter::try_new(text);
    let parsed = parsed.map_err(|error| format!("{text:?} is no filter: {error}"))?;
    let filter = FILTER.get().ok_or("this process keeps its own log")?;
    filter.set(parsed)?;
    info!(filter = text, "log filter exchanged");
    Ok(())
}

/// What can be done with a filter, whatever the log is made of.
trait Filter: Send + Sync {
    fn get(&self) -> Option<String>;
    fn set(&self, filter: EnvFilter) -> Result<(), String>;
}

impl<S> Filter for Handle<EnvFilter, S>
where
    Self: Send + Sync,
{
    fn get(&self) -> Option<String> {
        self.with_current(ToString::to_string).ok()
    }

    fn set(&self, filter: EnvFilter) -> Result<(), String> {
        self.reload(filter).map_err(|error| error.to_string())
    }
}
