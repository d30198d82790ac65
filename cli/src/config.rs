//! What the demo reads from its environment. The only place of this program that does; the processes it starts read
//! theirs through the programs they are.

use std::path::PathBuf;

use crate::args::DemoArgs;
use crate::demo::Paint;

/// How the demo runs.
#[derive(Debug)]
pub(crate) struct DemoConfig {
    pub(crate) args: DemoArgs,
    pub(crate) paint: Paint,
    /// Where the run's directory is made.
    pub(crate) temporary: PathBuf,
    /// The operator's own collector, gRPC.
    pub(crate) collector: Option<String>,
}

impl DemoConfig {
    /// Reads what `lookup` knows; `terminal` tells whether a person reads the output.
    pub(crate) fn read(
        args: DemoArgs,
        terminal: Terminal,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let set = |name| lookup(name).filter(|value| !value.is_empty());
        let paint = match terminal {
            Terminal::Yes if set("NO_COLOR").is_none() => Paint::Colours,
            Terminal::Yes | Terminal::No => Paint::Plain,
        };
        Self {
            args,
            paint,
            temporary: set("TMPDIR").unwrap_or_else(|| "/tmp".to_owned()).into(),
            collector: set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
                .or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT")),
        }
    }
}

/// Whether standard output is a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Terminal {
    Yes,
    No,
}

/// Looks up a variable of this process.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the environment"
)]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(terminal: Terminal, set: &[(&str, &str)]) -> DemoConfig {
        let lookup = |name: &str| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        DemoConfig::read(DemoArgs::default(), terminal, lookup)
    }

    #[test]
    fn colours_are_for_terminals_whose_owner_wants_them() {
        let plain = |config: DemoConfig| matches!(config.paint, Paint::Plain);
        assert!(!plain(read(Terminal::Yes, &[])));
        assert!(!plain(read(Terminal::Yes, &[("NO_COLOR", "")])));
        assert!(plain(read(Terminal::Yes, &[("NO_COLOR", "1")])));
        assert!(plain(read(Terminal::No, &[])));
    }

    #[test]
    fn the_collector_for_traces_goes_before_the_one_for_everything() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317");
        let named = |set: &[(&str, &str)]| read(Terminal::No, set).collector;
        assert_eq!(named(&[]), None);
        assert_eq!(named(&[all]).as_deref(), Some("http://all:4317"));
        assert_eq!(named(&[all, traces]).as_deref(), Some("http://traces:4317"));
    }
}
