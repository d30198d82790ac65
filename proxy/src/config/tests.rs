//! The environment as an operator writes it.

use std::collections::BTreeMap;

use super::env::EnvReader;
use super::otel::OtlpProtocol;
use super::propagators::Propagators;
use super::sampling::{Parent, Roots, Sampling};
use super::*;

fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    Config::from_lookup(|name| variables.get(name).map(|value| (*value).to_owned()))
}

#[test]
fn an_empty_environment_gives_every_default() {
    let config = read(&[]).unwrap();
    assert_eq!(config.outbound_listen.len(), 2);
    assert_eq!(
        config.spiffe_id.as_str(),
        "spiffe://cluster.local/ns/default/sa/default"
    );
    assert_eq!(config.workload, "default");
    assert_eq!(config.trace_sample.parent, Parent::Followed);
    assert_eq!(config.otel.export, None);
    assert!(config.workers >= 1);
}

#[test]
fn a_full_line_is_read() {
    let config = read(&[
        (
            "WEFT_INBOUND_PORTS",
            "8080=127.0.0.1:3000, 9090=[::1]:3001/http2",
        ),
        ("WEFT_OPAQUE_PORTS", "5432, 25,25"),
        ("WEFT_REDIRECT", "on"),
        ("WEFT_MTLS", " strict "),
        ("WEFT_NAMESPACE", "shop"),
        ("WEFT_SERVICE_ACCOUNT", "web"),
        ("WEFT_VERSION_LABEL", ""),
        ("WEFT_MAX_HEADER_BYTES", "16KiB"),
    ])
    .unwrap();
    let [one, other] = config.inbound_ports[..] else {
        panic!("two ports")
    };
    assert_eq!((one.port, one.protocol), (8080, None));
    assert_eq!(
        (other.port, other.protocol),
        (9090, Some(AppProtocol::Http2))
    );
    assert_eq!(config.opaque_ports, [25, 5432]);
    assert!(config.redirect);
    assert_eq!(config.mtls, MtlsMode::Strict);
    assert_eq!(
        config.spiffe_id.as_str(),
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert_eq!(config.workload, "web");
    assert_eq!(config.version_label, None);
    assert_eq!(config.max_header_bytes, 16 * 1024);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let rows: &[(&str, &str, &str)] = &[
        ("WEFT_CONNECT_TIMEOUT", "5", "has no unit"),
        ("WEFT_DETECT_TIMEOUT", "0s", "longer than nothing"),
        ("WEFT_IDLE_TIMEOUT", "100000h", "ten years"),
        ("WEFT_INBOUND_LISTEN", "8080", "is no ip:port"),
        ("WEFT_INBOUND_PORTS", "8080=127.0.0.1:1/ftp", "none of http"),
        ("WEFT_MTLS", "on", "none of the known words"),
        ("WEFT_OPAQUE_PORTS", "25,0", "\"0\" is no port"),
        ("WEFT_WORKERS", "0", "no whole number above 0"),
        ("WEFT_MAX_HEADER_BYTES", "10", "out of range"),
        ("WEFT_TRUST_DOMAIN", "a b", ""),
        ("WEFT_NAMESPACE", "a/b", "contains '/'"),
        ("WEFT_CA_ADDRESS", "http://ca:1", "has the scheme"),
        ("WEFT_SERVICES_FILE", "/a\u{FFFD}", "is not UTF-8"),
        ("WEFT_LOG", "info=debug=x", ""),
        ("WEFT_TRACE_SAMPLE", "10", "is no rate"),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "no protocol that we write",
        ),
        (
            "OTEL_TRACES_SAMPLER",
            "jaeger_remote",
            "no sampler that we have",
        ),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "more than 100%"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", "no whole number above 0"),
    ];
    let variables: Vec<(&str, &str)> = rows
        .iter()
        .map(|(name, value, _)| (*name, *value))
        .collect();
    let errors = read(&variables).unwrap_err();
    for (name, value, reason) in rows {
        let mistake = errors.mistakes.iter().find(|mistake| mistake.name == *name);
        let mistake = mistake.unwrap_or_else(|| panic!("{name} is missing in {errors}"));
        assert_eq!(mistake.value, *value, "{name}");
        assert!(
            mistake.reason.contains(reason),
            "{name}: {}",
            mistake.reason
        );
        assert!(!mistake.fix.is_empty(), "{name}");
    }
    assert_eq!(errors.mistakes.len(), rows.len(), "{errors}");
    assert!(
        errors
            .to_string()
            .contains("\n  WEFT_CONNECT_TIMEOUT=\"5\": has no unit"),
        "{errors}"
    );
}

#[test]
fn two_sources_of_identity_are_refused() {
    let errors = read(&[
        ("WEFT_CA_ADDRESS", "https://ca:15012"),
        ("WEFT_IDENTITY_DIR", "/id"),
    ])
    .unwrap_err();
    assert_eq!(errors.mistakes.len(), 1, "{errors}");
}

#[test]
fn an_unknown_variable_gets_the_nearest_name() {
    let names = [
        "WEFT_CONECT_TIMEOUT",
        "WEFT_CA_PORT_15012_TCP_ADDR",
        "WEFT_CA_SERVICE_HOST",
        "WEFT_CA_SERVICE_PORT",
        "WEFT_CA_SERVICE_PORT_GRPC",
        "WEFT_CA_PORT",
        "PATH",
    ];
    let mut env = EnvReader::new(|name| names.contains(&name).then(|| "x".to_owned()));
    let config = Config::read(&mut env);
    env.refuse_unknown(&names.map(str::to_owned));
    let errors = env.finish(config).unwrap_err();
    let [mistake] = &errors.mistakes[..] else {
        panic!("{errors}")
    };
    assert_eq!(mistake.name, "WEFT_CONECT_TIMEOUT");
    assert_eq!(
        mistake.fix,
        "the nearest known name is WEFT_CONNECT_TIMEOUT"
    );
}

#[test]
fn collectors_are_read_as_opentelemetry_says() {
    let all = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let http = OtlpProtocol::HttpProtobuf;
    let check = |name: &str, variables: &[(&str, &str)], protocol, endpoint: &str| {
        let export = read(variables).unwrap().otel.export.unwrap();
        assert_eq!(export.protocol, protocol, "{name}");
        assert_eq!(export.endpoint.to_string(), endpoint, "{name}");
    };
    check(
        "path appended",
        &[(all, "http://c:1")],
        http,
        "http://c:1/v1/traces",
    );
    check(
        "below a path",
        &[(all, "http://c:1/a/")],
        http,
        "http://c:1/a/v1/traces",
    );
    check(
        "as it is",
        &[(traces, "https://c/x"), (all, "http://d")],
        http,
        "https://c/x",
    );
    check(
        "by port",
        &[(all, "http://c:4317")],
        OtlpProtocol::Grpc,
        "http://c:4317/",
    );
    check(
        "by protocol",
        &[(all, "http://c:1"), protocol],
        OtlpProtocol::Grpc,
        "http://c:1/",
    );
    for off in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        assert_eq!(
            read(&[(all, "http://c:4318"), off]).unwrap().otel.export,
            None,
            "{off:?}"
        );
    }
}

#[test]
fn policy_names_a_collector_where_the_environment_does_not() {
    let named = |variables: &[(&str, &str)], url: &str| {
        let export = read(variables)
            .unwrap()
            .otel
            .with_collector(Some(url))
            .export;
        export.map(|export| export.endpoint.to_string())
    };
    let own = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://own:4317");
    assert_eq!(
        named(&[], "http://c:4317").as_deref(),
        Some("http://c:4317/")
    );
    assert_eq!(
        named(&[], "http://c:4318").as_deref(),
        Some("http://c:4318/v1/traces")
    );
    assert_eq!(
        named(&[own], "http://c:4317").as_deref(),
        Some("http://own:4317/")
    );
    assert_eq!(
        named(&[("OTEL_SDK_DISABLED", "true")], "http://c:4317"),
        None
    );
}

#[test]
fn a_collector_without_a_scheme_is_reached_as_insecure_says() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317");
    let rows = [
        ("", "", "https://c:4317/"),
        ("false", "", "https://c:4317/"),
        ("true", "", "http://c:4317/"),
        ("false", "true", "http://c:4317/"),
    ];
    for (all, traces, want) in rows {
        let config = read(&[
            endpoint,
            ("OTEL_EXPORTER_OTLP_INSECURE", all),
            ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", traces),
        ]);
        let export = config.unwrap().otel.export.unwrap();
        assert_eq!(export.endpoint.to_string(), want, "{all:?} {traces:?}");
        assert_eq!(export.protocol, OtlpProtocol::Grpc);
    }
    let both = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "false"),
    ]);
    let export = both.unwrap().otel.export.unwrap();
    assert_eq!(
        export.endpoint.to_string(),
        "http://c:4317/",
        "a scheme wins"
    );
}

#[test]
fn a_key_for_the_collector_comes_with_its_certificate() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317");
    let key = ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/a/key");
    let certificate = ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/a/crt");
    let export = read(&[endpoint, key, certificate]).unwrap().otel.export;
    let client = export.unwrap().client.unwrap();
    assert_eq!(client.key, std::path::Path::new("/a/key"));
    let alone = read(&[endpoint, key]).unwrap_err();
    assert!(
        alone.to_string().contains("OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        "{alone}"
    );
}

#[test]
fn propagators_are_read_as_opentelemetry_says() {
    use crate::config::propagators::Use::{Ignored, Written};
    let rows = [
        ("tracecontext,baggage", (Written, Ignored, Ignored)),
        ("tracecontext, b3multi", (Written, Ignored, Written)),
        ("b3", (Ignored, Written, Ignored)),
        ("none", (Ignored, Ignored, Ignored)),
    ];
    for (text, want) in rows {
        let config = read(&[("OTEL_PROPAGATORS", text)]).unwrap();
        let Propagators { w3c, b3, b3_multi } = config.trace_sample.propagators;
        assert_eq!((w3c, b3, b3_multi), want, "{text}");
    }
    let refused = read(&[("OTEL_PROPAGATORS", "tracecontext,xray")]).unwrap_err();
    assert!(refused.to_string().contains("xray"), "{refused}");
}

#[test]
fn resource_attributes_of_the_environment_win() {
    let config = read(&[
        ("WEFT_WORKLOAD", "web"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.version=1%2C5;x=y , team=shop,",
        ),
        ("OTEL_SERVICE_NAME", "shop web"),
        ("WEFT_VERSION_LABEL", "v1"),
    ])
    .unwrap();
    let of = |name: &str| {
        config
            .otel
            .resource
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(of("service.name"), Some("shop web"));
    assert_eq!(of("service.version"), Some("1,5"));
    assert_eq!(of("team"), Some("shop"));
    assert_eq!(of("k8s.namespace.name"), Some("default"));
    assert_eq!(of("k8s.pod.name"), None);
}

#[test]
fn headers_for_the_collector_are_never_shown() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
    let good = read(&[
        endpoint,
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "Authorization=Bearer%20secret",
        ),
    ])
    .unwrap();
    let export = good.otel.export.unwrap();
    assert_eq!(export.headers[0].1, "Bearer secret");
    assert!(!format!("{export:?}").contains("secret"), "{export:?}");
    let bad = read(&[("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz,authorization=secret")]).unwrap_err();
    assert!(!bad.to_string().contains("secret"), "{bad}");
}

#[test]
fn sampling_is_read_in_each_form() {
    let rate = |count, seconds| Roots::Rate {
        count: std::num::NonZeroU32::new(count).unwrap(),
        per: Duration::from_secs(seconds),
    };
    let share = |text| Roots::Share(weft_policy::units::parse_share(text).unwrap());
    let rows: &[(&str, &str, &str, Parent, Roots)] = &[
        ("10/s", "", "", Parent::Followed, rate(10, 1)),
        ("6/m", "", "", Parent::Followed, rate(6, 60)),
        ("0/s", "", "", Parent::Followed, Roots::Never),
        ("5%", "", "", Parent::Followed, share("5%")),
        ("always", "", "", Parent::Followed, Roots::Always),
        ("never", "always_on", "", Parent::Ignored, Roots::Always),
        (
            "always",
            "parentbased_always_off",
            "",
            Parent::Followed,
            Roots::Never,
        ),
        (
            "",
            "parentbased_traceidratio",
            "0.0125",
            Parent::Followed,
            share("1.25%"),
        ),
        ("", "traceidratio", "1", Parent::Ignored, share("100%")),
        ("", "traceidratio", ".5", Parent::Ignored, share("50%")),
    ];
    for (sample, sampler, argument, parent, roots) in rows {
        let config = read(&[
            ("WEFT_TRACE_SAMPLE", sample),
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ]);
        let want = Sampling {
            parent: *parent,
            roots: *roots,
            propagators: Propagators::DEFAULT,
        };
        assert_eq!(
            config.unwrap().trace_sample,
            want,
            "{sample} {sampler} {argument}"
        );
    }
}

#[test]
fn the_documented_table_is_the_one_in_the_code() {
    let mut env = EnvReader::new(|_| None);
    Config::read(&mut env);
    let mut code: Vec<(String, String)> = Vec::new();
    code.extend(
        env.knobs()
            .iter()
            .map(|knob| (knob.name.to_owned(), knob.default.to_owned())),
    );
    let text = include_str!("../../../docs/configuration.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.trim().trim_matches('`').to_owned();
        Some((name, cells.next()?.trim().trim_matches('`').to_owned()))
    };
    let mut docs: Vec<(String, String)> = text.lines().filter_map(row).collect();
    code.sort();
    docs.sort();
    assert_eq!(docs, code, "docs/configuration.md and config.rs differ");
}
