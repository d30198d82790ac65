//! The proxy's own log: events of `tracing` on standard error, by `WEFT_LOG` and `WEFT_LOG_FORMAT`.

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts the log; where the process has one already, that one stays.
pub(crate) fn start(config: &Config) {
    let filter = EnvFilter::new(&config.log);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second proxy in the same process writes to the first one's log.
    let _first = match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Text => log.try_init(),
    };
}
