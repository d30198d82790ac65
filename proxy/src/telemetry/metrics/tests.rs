//! Metrics as a scrape sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::collect::Metrics;
use super::labels::{self, Own};
use super::*;
use crate::discovery::endpoint::Workload;
use crate::telemetry::record::End;
use crate::telemetry::sample;

fn own() -> Own {
    Own {
        workload: "orders".to_owned(),
        namespace: "shop".to_owned(),
        principal: "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap(),
        version: Some("v2".to_owned()),
    }
}

fn metrics(series: usize) -> Metrics {
    Metrics::with_families(own(), Families::with_limit(series))
}

/// One line of the text format.
#[derive(Clone, Debug)]
struct Line {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the text format (version 0.0.4) and refuses what Prometheus would refuse or guess at.
fn parse(text: &str) -> Vec<Line> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut lines = Vec::new();
    assert!(text.ends_with('\n'), "ends in a line feed");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "type of {name} twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("no value: {line}"));
        assert!(seen.insert(series), "series twice: {series}");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let family = family
            .filter(|family| types.get(family) == Some(&"histogram"))
            .unwrap_or(name);
        assert!(types.contains_key(family), "no type: {line}");
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{line}"
        );
        let labels = parse_labels(labels);
        lines.push(Line {
            name: name.to_owned(),
            labels,
            value: value.parse().unwrap(),
        });
    }
    check_histograms(&lines);
    lines
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut rest = text
        .strip_suffix('}')
        .unwrap_or_else(|| panic!("not closed: {text}"));
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        let end = after.find('"').unwrap();
        assert!(
            !after[..end].contains('\\'),
            "none of our values needs escapes: {text}"
        );
        assert!(
            labels
                .insert(name.to_owned(), after[..end].to_owned())
                .is_none(),
            "label twice: {text}"
        );
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}

/// Buckets never fall, and the last one is the count.
fn check_histograms(lines: &[Line]) {
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    let key = |line: &Line, name: &str| {
        let labels = line.labels.iter().filter(|(name, _)| *name != "le");
        format!("{name} {:?}", labels.collect::<Vec<_>>())
    };
    for line in lines {
        if let Some(name) = line.name.strip_suffix("_bucket") {
            let before = last.insert(key(line, name), line.value);
            assert!(before.is_none_or(|before| before <= line.value), "{line:?}");
        } else if let Some(name) = line.name.strip_suffix("_count") {
            assert_eq!(last.get(&key(line, name)), Some(&line.value), "{line:?}");
        }
    }
}

fn find<'a>(lines: &'a [Line], name: &str, labels: &[(&str, &str)]) -> Option<&'a Line> {
    lines.iter().find(|line| {
        let same =
            |(name, value): &(&str, &str)| line.labels.get(*name).is_some_and(|own| own == value);
        line.name == name && labels.iter().all(same)
    })
}

fn value(lines: &[Line], name: &str, labels: &[(&str, &str)]) -> f64 {
    find(lines, name, labels)
        .unwrap_or_else(|| panic!("no {name} {labels:?}"))
        .value
}

#[test]
fn cells_of_all_workers_are_summed() {
    let metrics = metrics(100);
    let (one, other) = (metrics.families().worker(), metrics.families().worker());
    let open = one.connection(Direction::Inbound, true);
    drop(one.connection(Direction::Inbound, true));
    let _open = other.connection(Direction::Inbound, true);
    one.handshake_failed(Direction::Inbound, "expired");
    other.handshake_failed(Direction::Inbound, "expired");
    other.handshake_done(Direction::Outbound);
    let lines = parse(&metrics.text().unwrap());
    let mutual = [("security", "mutual_tls")];
    assert_eq!(value(&lines, "weft_inbound_connections_open", &mutual), 2.0);
    assert_eq!(
        value(&lines, "weft_inbound_connections_accepted_total", &mutual),
        3.0
    );
    let failed = [
        ("direction", "inbound"),
        ("result", "failed"),
        ("reason", "expired"),
    ];
    assert_eq!(value(&lines, "weft_tls_handshakes_total", &failed), 2.0);
    drop(open);
    assert_eq!(
        value(
            &parse(&metrics.text().unwrap()),
            "weft_inbound_connections_open",
            &mutual
        ),
        1.0
    );
}

#[test]
fn a_request_has_istios_labels() {
    let metrics = metrics(100);
    let worker = metrics.families().worker();
    let mut record = sample::request(Direction::Inbound);
    record.start = Instant::now();
    worker.request(&record);
    record.grpc = true;
    record.grpc_status = Some(14);
    (record.request_messages, record.response_messages) = (3, 2);
    record.reject = Some("connect");
    record.end = End::Rejected;
    worker.request(&record);
    let mut out = sample::request(Direction::Outbound);
    out.destination = None;
    out.status = None;
    out.end = End::DownstreamGone;
    worker.request(&out);
    worker.request(&sample::request(Direction::Outbound));
    let lines = parse(&metrics.text().unwrap());
    let name = "istio_requests_total";
    let inbound = find(
        &lines,
        name,
        &[("reporter", "destination"), ("request_protocol", "http")],
    )
    .unwrap();
    let rows = [
        ("source_workload", "web"),
        ("source_workload_namespace", "shop"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/web"),
        ("destination_workload", "orders"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/shop/sa/orders",
        ),
        ("destination_version", "v2"),
        ("destination_service", "orders.shop.svc.cluster.local"),
        ("destination_service_name", "orders"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ];
    for (label, want) in rows {
        assert_eq!(
            inbound.labels.get(label).map(String::as_str),
            Some(want),
            "{label}"
        );
    }
    assert_eq!(inbound.labels.len(), 25);
    let grpc = [
        ("request_protocol", "grpc"),
        ("grpc_response_status", "14"),
        ("response_flags", "UF"),
    ];
    assert_eq!(value(&lines, name, &grpc), 1.0);
    let messages = |name| value(&lines, name, &grpc);
    assert_eq!(messages("istio_request_messages_total"), 3.0);
    assert_eq!(messages("istio_response_messages_total"), 2.0);
    let http = [("request_protocol", "http")];
    assert!(find(&lines, "istio_request_messages_total", &http).is_none());
    let nowhere = [
        ("destination_service", "unknown"),
        ("response_code", "0"),
        ("response_flags", "DC"),
    ];
    assert_eq!(value(&lines, name, &nowhere), 1.0);
    let out = [
        ("reporter", "source"),
        ("source_workload", "orders"),
        ("destination_workload", "users"),
    ];
    assert_eq!(value(&lines, name, &out), 1.0);
    let refused = [("direction", "inbound"), ("reason", "connect")];
    assert_eq!(value(&lines, "weft_rejects_total", &refused), 1.0);
}

#[test]
fn workloads_of_one_identity_are_told_apart_by_what_discovery_has_told() {
    let metrics = metrics(100);
    let worker = metrics.families().worker();
    let workload = |name: &str, revision: &str| {
        Some(Arc::new(Workload {
            name: name.into(),
            namespace: "shop".into(),
            app: "users-app".into(),
            revision: revision.into(),
        }))
    };
    let same = workload("users-v1", "latest");
    // The very same, an equal one, another, and none.
    for workload in [
        same.clone(),
        same,
        workload("users-v1", "latest"),
        workload("users-v2", "2"),
        None,
    ] {
        let mut record = sample::request(Direction::Outbound);
        record.destination.as_mut().unwrap().workload = workload;
        worker.request(&record);
    }
    let lines = parse(&metrics.text().unwrap());
    let counted = |workload: &str, app: &str, version: &str, revision: &str| {
        let labels = [
            ("reporter", "source"),
            ("source_workload", "orders"),
            (
                "destination_principal",
                "spiffe://cluster.local/ns/shop/sa/users",
            ),
            ("destination_workload", workload),
            ("destination_workload_namespace", "shop"),
            ("destination_app", app),
            ("destination_canonical_service", app),
            ("destination_version", version),
            ("destination_canonical_revision", revision),
        ];
        value(&lines, "istio_requests_total", &labels)
    };
    assert_eq!(counted("users-v1", "users-app", "unknown", "latest"), 3.0);
    assert_eq!(counted("users-v2", "users-app", "2", "2"), 1.0);
    assert_eq!(counted("users", "users", "unknown", "unknown"), 1.0);
    let edges = metrics.families().edges();
    assert_eq!(edges.len(), 1, "an edge goes to a service: {edges:?}");
    assert_eq!(edges[0]["requests"], 5);
}

#[test]
fn a_refusal_has_the_flag_that_dashboards_know() {
    let rows = [
        ("rate_limited", "RL"),
        ("jwt_expired", "UAEX"),
        ("authz_denied", "UAEX"),
        ("plaintext", "UAEX"),
        ("timeout_request", "UT"),
        ("timeout_try", "UT"),
        ("deadline", "UT"),
        ("breaker_open", "UH"),
        ("no_endpoint", "UH"),
        ("overloaded", "UO"),
        ("pool_full", "UO"),
        ("fault_abort", "FI"),
        ("egress_denied", "NR"),
        ("connect", "UF"),
        ("upstream_reset", "UR"),
        ("te_and_cl", "DPE"),
    ];
    for (reason, want) in rows {
        let flags = istio::response_flags(Some(reason), End::Rejected);
        assert_eq!(flags, want, "{reason}");
    }
}

#[test]
fn durations_are_milliseconds_in_istios_buckets() {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async {
            let metrics = metrics(100);
            let worker = metrics.families().worker();
            for (wait, bytes) in [
                (Duration::from_micros(500), 0),
                (Duration::from_millis(7), 10),
                (Duration::from_secs(7200), 11),
            ] {
                let mut record = sample::request(Direction::Inbound);
                tokio::time::advance(wait).await;
                record.response_bytes = bytes;
                worker.request(&record);
            }
            let lines = parse(&metrics.text().unwrap());
            let bucket = |le| {
                value(
                    &lines,
                    "istio_request_duration_milliseconds_bucket",
                    &[("le", le)],
                )
            };
            assert_eq!(
                [
                    bucket("0.5"),
                    bucket("5"),
                    bucket("10"),
                    bucket("3600000"),
                    bucket("+Inf")
                ],
                [1.0, 1.0, 2.0, 2.0, 3.0]
            );
            assert_eq!(
                value(&lines, "istio_request_duration_milliseconds_sum", &[]),
                7_200_007.5
            );
            let bytes = |le| value(&lines, "istio_response_bytes_bucket", &[("le", le)]);
            assert_eq!([bytes("0.5"), bytes("10"), bytes("25")], [1.0, 2.0, 3.0]);
        });
}

#[test]
fn opaque_connections_are_counted_when_they_open_and_end() {
    let metrics = metrics(100);
    let worker = metrics.families().worker();
    let mut record = sample::tcp(Direction::Outbound);
    worker.tcp_opened(&record.connection, record.destination.as_ref());
    worker.tcp_opened(&record.connection, record.destination.as_ref());
    worker.tcp_closed(&record);
    record.error = Some("connect_timeout");
    worker.tcp_closed(&record);
    record.error = Some("reset");
    worker.tcp_closed(&record);
    let lines = parse(&metrics.text().unwrap());
    let fine = [
        ("response_flags", "-"),
        ("request_protocol", "tcp"),
        ("reporter", "source"),
    ];
    assert_eq!(
        value(&lines, "istio_tcp_connections_opened_total", &fine),
        2.0
    );
    assert_eq!(
        value(&lines, "istio_tcp_connections_closed_total", &fine),
        1.0
    );
    assert_eq!(value(&lines, "istio_tcp_sent_bytes_total", &fine), 2000.0);
    assert_eq!(
        value(&lines, "istio_tcp_received_bytes_total", &fine),
        100.0
    );
    assert_eq!(
        value(
            &lines,
            "istio_tcp_connections_closed_total",
            &[("response_flags", "UF")]
        ),
        1.0
    );
    let rejects: Vec<&Line> = lines
        .iter()
        .filter(|line| line.name == "weft_rejects_total")
        .collect();
    assert_eq!(rejects.len(), 1, "a reset is no reject: {rejects:?}");
}

#[test]
fn too_many_series_are_counted_together() {
    let metrics = metrics(3);
    let (one, other) = (metrics.families().worker(), metrics.families().worker());
    let mut record = sample::request(Direction::Inbound);
    for code in 200..210 {
        record.status = StatusCode::from_u16(code).ok();
        one.request(&record);
        one.request(&record);
        other.request(&record);
    }
    let lines = parse(&metrics.text().unwrap());
    let all: Vec<&Line> = lines
        .iter()
        .filter(|line| line.name == "istio_requests_total")
        .collect();
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(
        all.iter().map(|line| line.value).sum::<f64>(),
        30.0,
        "nothing is lost"
    );
    assert_eq!(
        value(
            &lines,
            "istio_requests_total",
            &[("destination_service", "overflow")]
        ),
        21.0
    );
}

#[test]
fn other_threads_count_and_are_asked() {
    let metrics = metrics(1);
    let renewed = metrics.number(table::IDENTITY_RENEWALS.at(&["ok"]));
    std::thread::scope(|scope| {
        scope.spawn(|| renewed.add(2));
    });
    metrics.read_from(table::DNS_NAMES.at(&[]), || 7.0);
    let lines = parse(&metrics.text().unwrap());
    assert_eq!(
        value(&lines, "weft_identity_renewals_total", &[("result", "ok")]),
        2.0
    );
    assert_eq!(value(&lines, "weft_dns_names", &[]), 7.0);
    assert_eq!(
        value(
            &lines,
            "weft_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))]
        ),
        1.0
    );
    assert!(value(&lines, "process_resident_memory_bytes", &[]) > 0.0);
}

#[test]
fn five_thousand_series_are_scraped_within_a_moment() {
    let metrics = metrics(1000);
    let worker = metrics.families().worker();
    let mut record = sample::request(Direction::Outbound);
    // 75 label sets make 75 * (1 + 3 * 22) lines.
    for number in 0..75 {
        record.destination.as_mut().unwrap().service =
            sample::service(&format!("service-{number}"));
        worker.request(&record);
    }
    let lines = parse(&metrics.text().unwrap()).len();
    assert!(lines >= 5000, "{lines}");
    let shortest = (0..5).map(|_| {
        let begun = Instant::now();
        metrics.text().unwrap();
        begun.elapsed()
    });
    let shortest = shortest.min().unwrap();
    assert!(
        shortest < Duration::from_millis(50),
        "{shortest:?} for {lines} lines"
    );
}

#[tokio::test]
async fn an_exemplar_names_a_trace_of_its_bucket() {
    let metrics = metrics(10);
    let worker = metrics.families().worker();
    let mut record = sample::request(Direction::Inbound);
    record.trace.sampled = false;
    worker.request(&record);
    assert!(
        !metrics.open_metrics().contains("trace_id"),
        "only what is sampled can be found"
    );
    record.trace.sampled = true;
    worker.request(&record);
    let text = metrics.open_metrics();
    let id = format!("# {{trace_id=\"{}\"}} ", "ab".repeat(16));
    let with: Vec<&str> = text.lines().filter(|line| line.contains(&id)).collect();
    assert_eq!(with.len(), 1, "{text}");
    assert!(
        with[0].starts_with("istio_request_duration_milliseconds_bucket{"),
        "{}",
        with[0]
    );
    assert!(text.contains("# TYPE istio_requests counter\n"), "{text}");
    assert!(text.contains("\nistio_requests_total{"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_gateway_counts_by_route_template() {
    let metrics = Metrics::with_families(own(), Families::with_limit(1).with_gateway());
    let worker = metrics.families().worker();
    let mut record = sample::request(Direction::Outbound);
    worker.request(&record);
    record.route = Some(crate::telemetry::record::RouteFacts {
        name: "routes[0]".into(),
        template: Some("/orders/{id}".into()),
    });
    worker.request(&record);
    worker.request(&sample::request(Direction::Inbound));
    let lines = parse(&metrics.text().unwrap());
    for route in ["unmatched", "/orders/{id}"] {
        let labels = [("method", "POST"), ("route", route)];
        assert_eq!(
            value(&lines, "api_gateway_requests_total", &labels),
            1.0,
            "{route}"
        );
        let count = "api_gateway_request_duration_seconds_count";
        assert_eq!(value(&lines, count, &labels), 1.0, "{route}");
    }
    let bound = [("le", "0.0005"), ("route", "unmatched")];
    assert!(
        find(
            &lines,
            "api_gateway_request_duration_seconds_bucket",
            &bound
        )
        .is_some()
    );
}

#[test]
fn the_documented_metrics_are_the_ones_in_the_code() {
    let mut code: BTreeMap<&str, String> = BTreeMap::new();
    for metric in table::ALL {
        let known = code.insert(metric.name, metric.labels.join(", "));
        assert!(known.is_none(), "{} twice", metric.name);
    }
    let requests = labels::REQUESTS.into_iter().chain(labels::MESSAGES);
    for (name, _) in requests.chain(labels::TCP) {
        code.insert(name, "see below".to_owned());
    }
    code.insert(gateway::REQUESTS.0, "method, route, status".to_owned());
    code.insert(gateway::DURATION.0, "method, route".to_owned());
    let text = include_str!("../../../../docs/metrics.md");
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.trim().trim_end_matches('`');
        Some((name, cells.next()?.trim().replace('`', "")))
    };
    let docs: BTreeMap<&str, String> = text.lines().filter_map(row).collect();
    assert_eq!(docs, code, "docs/metrics.md and the code differ");
}
