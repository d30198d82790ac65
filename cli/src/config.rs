//! What the demo reads from its environment. The only place of this program that does; the processes it starts read
//! theirs through the programs they are.

use std::path::PathBuf;

use http::Uri;

use crate::args::DemoArgs;
use crate::demo::Paint;

/// How the demo runs.
#[derive(Debug)]
pub(crate) struct DemoConfig {
    pub(crate) args: DemoArgs,
    pub(crate) paint: Paint,
    /// Where the run's directory is made.
    pub(crate) temporary: PathBuf,
    /// Where spans go besides.
    pub(crate) collector: Option<Collector>,
}

impl DemoConfig {
    /// Reads what `lookup` knows; `terminal` tells whether a person reads the output.
    ///
    /// # Errors
    /// The variables that name the operator's collector mean nothing to us.
    pub(crate) fn read(
        args: DemoArgs,
        terminal: Terminal,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CollectorError> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let paint = match terminal {
            Terminal::Yes if set("NO_COLOR").is_none() => Paint::Colours,
            Terminal::Yes | Terminal::No => Paint::Plain,
        };
        Ok(Self {
            args,
            paint,
            temporary: set("TMPDIR").unwrap_or_else(|| "/tmp".to_owned()).into(),
            collector: Collector::read(set)?,
        })
    }
}

/// The operator's own collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector {
    /// With the path for traces, which gRPC does not use.
    pub(crate) uri: Uri,
    pub(crate) protocol: Protocol,
}

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// Why the operator's collector cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectorError {
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT {0:?} is not of the form http://host:port")]
    Endpoint(String),
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL {0:?} is not grpc or http/protobuf")]
    Protocol(String),
}

impl Collector {
    /// Reads the variables by which all OpenTelemetry programs are told, those for traces first.
    fn read(set: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, CollectorError> {
        let traces = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(|named| (named, ""));
        let base = || set("OTEL_EXPORTER_OTLP_ENDPOINT").map(|named| (named, "/v1/traces"));
        let Some((named, path)) = traces.or_else(base) else {
            return Ok(None);
        };
        let uri = format!("{}{path}", named.trim_end_matches('/')).parse();
        let uri = uri.ok().filter(is_plain_http);
        let uri: Uri = uri.ok_or(CollectorError::Endpoint(named))?;
        let protocol = set("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL");
        let protocol = match protocol.or_else(|| set("OTEL_EXPORTER_OTLP_PROTOCOL")) {
            Some(named) => Protocol::parse(named)?,
            // As the proxy has it: 4317 is the port of OTLP over gRPC.
            None if uri.port_u16() == Some(4317) => Protocol::Grpc,
            None => Protocol::HttpProtobuf,
        };
        Ok(Some(Self { uri, protocol }))
    }
}

impl Protocol {
    fn parse(named: String) -> Result<Self, CollectorError> {
        match named.as_str() {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err(CollectorError::Protocol(named)),
        }
    }
}

fn is_plain_http(uri: &Uri) -> bool {
    uri.scheme_str() == Some("http") && uri.host().is_some()
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

    fn read(terminal: Terminal, set: &[(&str, &str)]) -> Result<DemoConfig, CollectorError> {
        let lookup = |name: &str| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        DemoConfig::read(DemoArgs::default(), terminal, lookup)
    }

    #[test]
    fn colours_are_for_terminals_whose_owner_wants_them() {
        let plain = |config: Result<DemoConfig, CollectorError>| {
            matches!(config.unwrap().paint, Paint::Plain)
        };
        assert!(!plain(read(Terminal::Yes, &[])));
        assert!(!plain(read(Terminal::Yes, &[("NO_COLOR", "")])));
        assert!(plain(read(Terminal::Yes, &[("NO_COLOR", "1")])));
        assert!(plain(read(Terminal::No, &[])));
    }

    #[test]
    fn the_collector_is_named_as_for_any_opentelemetry_program() {
        let (all, traces) = (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        );
        let protocol = "OTEL_EXPORTER_OTLP_PROTOCOL";
        let (grpc, http) = (Protocol::Grpc, Protocol::HttpProtobuf);
        type Set<'a> = &'a [(&'a str, &'a str)];
        let rows: &[(Set<'_>, Option<(&str, Protocol)>)] = &[
            (&[], None),
            (&[(all, "")], None),
            (
                &[(all, "http://a:4317")],
                Some(("http://a:4317/v1/traces", grpc)),
            ),
            (
                &[(all, "http://a:4318/")],
                Some(("http://a:4318/v1/traces", http)),
            ),
            (
                &[(all, "http://a:4318"), (traces, "http://b:1/x")],
                Some(("http://b:1/x", http)),
            ),
            (
                &[(all, "http://a:1"), (protocol, "grpc")],
                Some(("http://a:1/v1/traces", grpc)),
            ),
        ];
        for (set, want) in rows {
            let got = read(Terminal::No, set).unwrap().collector;
            let got = got.map(|found| (found.uri.to_string(), found.protocol));
            let want = want.map(|(uri, protocol)| (uri.to_owned(), protocol));
            assert_eq!(got, want, "{set:?}");
        }
    }

    #[test]
    fn a_collector_that_means_nothing_is_named() {
        let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let rows: &[(&[(&str, &str)], &str)] = &[
            (&[(endpoint, "https://a:4317")], "form http://host:port"),
            (
                &[(endpoint, "a b")],
                "\"a b\" is not of the form http://host:port",
            ),
            (
                &[
                    (endpoint, "http://a:1"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
                ],
                "\"http/json\" is not grpc or http/protobuf",
            ),
        ];
        for (set, want) in rows {
            let error = read(Terminal::No, set).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
