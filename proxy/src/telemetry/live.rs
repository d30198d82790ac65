//! What policy changes of telemetry while the proxy runs: `trace` and `log`.
//!
//! The data path reads one byte of it; all else is read where lines and spans are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwap;
use weft_policy::Policy;
use weft_policy::jwt::TokenSource;
use weft_policy::own::{AccessLog, LogFormat as Format};

use super::mask::Mask;
use crate::config::{AccessLogMode, Config, LogFormat};

/// The settings of the moment; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Live(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    access: AtomicU8,
    made: ArcSwap<Made>,
    /// What holds where policy says nothing.
    access_default: AccessLogMode,
    format_default: LogFormat,
}

/// How lines and spans are made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) format: LogFormat,
    pub(crate) mask: Mask,
    /// In each span.
    pub(crate) attributes: Vec<(String, String)>,
}

impl Live {
    pub(crate) fn new(access: AccessLogMode, format: LogFormat) -> Self {
        Self(Arc::new(Shared {
            access: AtomicU8::new(number(access)),
            made: ArcSwap::from_pointee(Made {
                format,
                mask: Mask::default(),
                attributes: Vec::new(),
            }),
            access_default: access,
            format_default: format,
        }))
    }

    /// As the environment says.
    pub(super) fn of(config: &Config) -> Self {
        Self::new(config.access_log, config.log_format)
    }

    /// Takes in what `policy` says.
    pub(crate) fn apply(&self, policy: &Policy) {
        let (log, trace) = (&policy.log, &policy.trace);
        let access = log
            .access
            .map_or(self.0.access_default, |access| match access {
                AccessLog::Off => AccessLogMode::Off,
                AccessLog::Errors => AccessLogMode::Errors,
                AccessLog::All => AccessLogMode::All,
            });
        let format = log
            .format
            .map_or(self.0.format_default, |format| match format {
                Format::Json => LogFormat::Json,
                Format::Text => LogFormat::Text,
            });
        self.0.made.store(Arc::new(Made {
            format,
            mask: Mask::new(&masked(policy)),
            attributes: trace.attributes.clone(),
        }));
        self.0.access.store(number(access), Ordering::Relaxed);
    }

    /// Which requests get a line.
    pub(super) fn access(&self) -> AccessLogMode {
        match self.0.access.load(Ordering::Relaxed) {
            0 => AccessLogMode::Off,
            1 => AccessLogMode::Errors,
            _ => AccessLogMode::All,
        }
    }

    /// How lines and spans are made.
    pub(crate) fn made(&self) -> Arc<Made> {
        self.0.made.load_full()
    }
}

/// `log.mask`, and the query parameters in which tokens come.
fn masked(policy: &Policy) -> Vec<String> {
    let sources = policy.inbound.jwt.iter().flat_map(|rule| &rule.from);
    let tokens = sources.filter_map(|source| match source {
        TokenSource::Query(name) => Some(name.clone()),
        TokenSource::Header(_) | TokenSource::Cookie(_) => None,
    });
    policy.log.mask.iter().cloned().chain(tokens).collect()
}

fn number(access: AccessLogMode) -> u8 {
    match access {
        AccessLogMode::Off => 0,
        AccessLogMode::Errors => 1,
        AccessLogMode::All => 2,
    }
}
