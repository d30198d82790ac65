//! Where spans go and what they say of us: the `OTEL_*` variables of OpenTelemetry's specification.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::env::EnvReader;
use super::kind::{COUNT, HTTP_URL, Kind, MILLISECONDS, PATH};

/// Span export and the resource attributes of our spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Otel {
    /// `None` where no collector is configured, or export is switched off.
    pub(crate) export: Option<OtlpExport>,
    /// How to send to a collector that policy names; `None` where export is switched off.
    otherwise: Option<OtlpExport>,
    /// What this workload is, `service.name` among it.
    pub(crate) resource: Vec<(String, String)>,
}

/// A collector, and how to send to it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct OtlpExport {
    /// With the path of the traces for `http/protobuf`.
    pub(crate) endpoint: Uri,
    pub(crate) protocol: OtlpProtocol,
    /// `None` where the port tells.
    asked: Option<OtlpProtocol>,
    /// With every request; where access tokens are.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) timeout: Duration,
    pub(crate) compression: Compression,
    /// Roots for an `https` endpoint.
    pub(crate) certificate: PathBuf,
    /// What we show an `https` endpoint that asks who we are.
    pub(crate) client: Option<ClientFiles>,
    pub(crate) batch: Batch,
}

impl std::fmt::Debug for OtlpExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("OtlpExport")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &headers)
            .field("timeout", &self.timeout)
            .field("compression", &self.compression)
            .field("certificate", &self.certificate)
            .field("client", &self.client)
            .field("batch", &self.batch)
            .finish()
    }
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// How exports are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
}

/// How spans wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Longest wait before a batch that is not full is sent.
    pub(crate) delay: Duration,
    pub(crate) export_timeout: Duration,
    /// Spans beyond these are dropped and counted.
    pub(crate) queue: usize,
    pub(crate) size: usize,
}

/// The forms of OTLP that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtlpProtocol {
    Grpc,
    HttpProtobuf,
}

impl Otel {
    /// `resource` is what we know ourselves; the variables win over it.
    pub(super) fn read(
        env: &mut EnvReader<impl Fn(&str) -> Option<String>>,
        resource: &[(&str, Option<&String>)],
    ) -> Self {
        let off = env.choice(
            "OTEL_SDK_DISABLED",
            "false",
            &[("false", false), ("true", true)],
        );
        let exporter = env.choice(
            "OTEL_TRACES_EXPORTER",
            "otlp",
            &[("otlp", true), ("none", false)],
        );
        let (export, otherwise) = OtlpExport::read(env);
        let on = exporter && !off;
        let (export, otherwise) = (export.filter(|_| on), otherwise.filter(|_| on));
        let mut own: Vec<(String, String)> = Vec::new();
        for (name, value) in resource {
            own.extend(value.map(|value| ((*name).to_owned(), value.clone())));
        }
        for (name, value) in env.or("OTEL_RESOURCE_ATTRIBUTES", "", PAIRS) {
            set(&mut own, &name, value);
        }
        if let Some(name) = env.optional("OTEL_SERVICE_NAME", TEXT) {
            set(&mut own, "service.name", name);
        }
        Self {
            export,
            otherwise,
            resource: own,
        }
    }
}

impl Otel {
    /// With the collector that `trace.otlp` names, where the environment names none.
    pub(crate) fn with_collector(&self, url: Option<&str>) -> Self {
        let mut own = self.clone();
        if own.export.is_none() {
            let named = url.and_then(|url| url.parse::<Uri>().ok());
            own.export = named.and_then(|endpoint| own.otherwise.clone()?.to(endpoint));
        }
        own
    }
}

fn set(pairs: &mut Vec<(String, String)>, name: &str, value: String) {
    match pairs.iter_mut().find(|(known, _)| known == name) {
        Some(known) => known.1 = value,
        None => pairs.push((name.to_owned(), value)),
    }
}

impl OtlpExport {
    /// The variables of traces win over those of all signals.
    #[rustfmt::skip]
    fn read(env: &mut EnvReader<impl Fn(&str) -> Option<String>>) -> (Option<Self>, Option<Self>) {
        let insecure = env.choice("OTEL_EXPORTER_OTLP_INSECURE", "false", TRUTHS);
        let insecure = env.optional("OTEL_EXPORTER_OTLP_TRACES_INSECURE", TRUTH).unwrap_or(insecure);
        let with_scheme = |endpoint: String| match endpoint.contains("://") {
            true => endpoint,
            false if insecure => format!("http://{endpoint}"),
            false => format!("https://{endpoint}"),
        };
        let all = env.optional("OTEL_EXPORTER_OTLP_ENDPOINT", COLLECTOR).map(with_scheme);
        let traces = env.optional("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", COLLECTOR).map(with_scheme);
        let protocol = env.optional("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL);
        let protocol = env.optional("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", PROTOCOL).or(protocol);
        let headers = env.or("OTEL_EXPORTER_OTLP_HEADERS", "", HEADERS);
        let headers = env.optional("OTEL_EXPORTER_OTLP_TRACES_HEADERS", HEADERS).unwrap_or(headers);
        let timeout = env.or("OTEL_EXPORTER_OTLP_TIMEOUT", "10000", MILLISECONDS);
        let timeout = env.optional("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", MILLISECONDS).unwrap_or(timeout);
        let certificate = env.or("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ssl/certs/ca-certificates.crt", PATH);
        let certificate = env.optional("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", PATH).unwrap_or(certificate);
        let compression = env.or("OTEL_EXPORTER_OTLP_COMPRESSION", "none", COMPRESSION);
        let compression = env.optional("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", COMPRESSION).unwrap_or(compression);
        let client = ClientFiles::read(env);
        let batch = Batch {
            delay: env.or("OTEL_BSP_SCHEDULE_DELAY", "5000", MILLISECONDS),
            export_timeout: env.or("OTEL_BSP_EXPORT_TIMEOUT", "30000", MILLISECONDS),
            queue: env.or("OTEL_BSP_MAX_QUEUE_SIZE", "2048", COUNT),
            size: env.or("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", COUNT),
        };
        let otherwise = Self { endpoint: Uri::default(), protocol: protocol.unwrap_or(OtlpProtocol::Grpc), asked: protocol, headers, timeout, compression, certificate, client, batch };
        let export = match (&traces, &all) {
            (Some(traces), _) => traces.parse().ok().map(|endpoint| otherwise.clone().sent_to(endpoint)),
            (None, Some(all)) => all.parse().ok().and_then(|endpoint| otherwise.clone().to(endpoint)),
            (None, None) => None,
        };
        (export, Some(otherwise))
    }

    /// To a collector, with the path of the traces where HTTP is spoken.
    fn to(self, endpoint: Uri) -> Option<Self> {
        let own = self.sent_to(endpoint);
        let endpoint = match own.protocol {
            OtlpProtocol::HttpProtobuf => with_traces_path(&own.endpoint)?,
            OtlpProtocol::Grpc => own.endpoint.clone(),
        };
        Some(Self { endpoint, ..own })
    }

    fn sent_to(self, endpoint: Uri) -> Self {
        let protocol = self.asked.unwrap_or_else(|| protocol_of(&endpoint));
        Self {
            endpoint,
            protocol,
            ..self
        }
    }
}

impl ClientFiles {
    /// The variables of traces win over those of all signals; one file without the other is a mistake.
    fn read(env: &mut EnvReader<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        let certificate = env.optional("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", PATH);
        let certificate = env
            .optional("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", PATH)
            .or(certificate);
        let key = env.optional("OTEL_EXPORTER_OTLP_CLIENT_KEY", PATH);
        let key = env
            .optional("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", PATH)
            .or(key);
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Self { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                let reason = "has no key beside it";
                let fix = "set OTEL_EXPORTER_OTLP_CLIENT_KEY too";
                env.mistake("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", reason, fix);
                None
            }
            (None, Some(_)) => {
                let reason = "has no certificate beside it";
                let fix = "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE too";
                env.mistake("OTEL_EXPORTER_OTLP_CLIENT_KEY", reason, fix);
                None
            }
        }
    }
}

/// 4317 is the port of OTLP over gRPC; the specification's default for all others is `http/protobuf`.
fn protocol_of(endpoint: &Uri) -> OtlpProtocol {
    match endpoint.port_u16() {
        Some(4317) => OtlpProtocol::Grpc,
        Some(_) | None => OtlpProtocol::HttpProtobuf,
    }
}

/// "the signal-specific URL is constructed by appending `v1/traces`" (OTLP exporter, endpoint URLs).
fn with_traces_path(endpoint: &Uri) -> Option<Uri> {
    let path = format!("{}/v1/traces", endpoint.path().trim_end_matches('/'));
    let mut parts = endpoint.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

const PROTOCOL: Kind<OtlpProtocol> = Kind {
    parse: |text| match text {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http/protobuf" => Ok(OtlpProtocol::HttpProtobuf),
        _ => Err("is no protocol that we write".to_owned()),
    },
    fix: "write grpc or http/protobuf",
};

const COMPRESSION: Kind<Compression> = Kind {
    parse: |text| match text {
        "none" => Ok(Compression::None),
        "gzip" => Ok(Compression::Gzip),
        _ => Err("is no compression that we know".to_owned()),
    },
    fix: "write none or gzip",
};

const TRUTHS: &[(&str, bool)] = &[("false", false), ("true", true)];

const TRUTH: Kind<bool> = Kind {
    parse: |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    },
    fix: "write true or false",
};

/// gRPC's users write `collector:4317` too.
const COLLECTOR: Kind<String> = Kind {
    parse: |text| match text.contains("://") {
        true => (HTTP_URL.parse)(text),
        false => (HTTP_URL.parse)(&format!("http://{text}")).map(|_url| text.to_owned()),
    },
    fix: HTTP_URL.fix,
};

const TEXT: Kind<String> = Kind {
    parse: |text| Ok(text.to_owned()),
    fix: "write any text",
};

/// W3C Baggage: `name=value` separated by commas, values with per cent encoding, properties after `;` ignored.
const PAIRS: Kind<Vec<(String, String)>> = Kind {
    parse: pairs,
    fix: "write name=value, several separated by commas",
};

const HEADERS: Kind<Vec<(HeaderName, HeaderValue)>> = Kind {
    parse: |text| pairs(text)?.into_iter().map(header).collect(),
    fix: "write name=value, several separated by commas, with per cent encoding in values",
};

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let members = text
        .split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty());
    members.map(pair).collect()
}

/// Never says the value: it may be a secret.
fn pair(member: &str) -> Result<(String, String), String> {
    let member = member.split(';').next().unwrap_or(member);
    let (name, value) = member.split_once('=').ok_or("has a member without '='")?;
    let name = name.trim();
    if name.is_empty() {
        return Err("has a member without a name".to_owned());
    }
    match percent_decoded(value.trim()) {
        Some(value) => Ok((name.to_owned(), value)),
        None => Err(format!("has wrong per cent encoding in {name:?}")),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'%' => 16 * hex(rest.next()?)? + hex(rest.next()?)?,
            plain => plain,
        };
        bytes.push(decoded);
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

fn header((name, value): (String, String)) -> Result<(HeaderName, HeaderValue), String> {
    let bad = || format!("has the header {name:?}, which cannot be sent");
    let parsed: HeaderName = name.to_ascii_lowercase().parse().or(Err(bad()))?;
    let mut value = HeaderValue::from_str(&value).or(Err(bad()))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}
