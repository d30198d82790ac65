//! Ports that contradict: an app on one of the proxy's own, and what policy says of a port that it also keeps from the proxy.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use weft_policy::Policy;
use weft_policy::own::{Mtls, PortProtocol};

use crate::problems::Problem;
use crate::sidecar;

/// What the proxy listens on in every pod.
pub(crate) const OWN: [(u16, &str); 5] = [
    (15000, "its admin pages"),
    (15001, "outgoing connections"),
    (15006, "incoming connections"),
    (15020, "its metrics"),
    (15021, "its readiness"),
];

/// Ports whose callers reach the app without the proxy, because policy says so.
pub(crate) fn skipped(policy: &Policy) -> BTreeSet<u16> {
    let declared = policy.inbound.ports.iter();
    let declared = declared.filter(|(_, port)| port.protocol == Some(PortProtocol::Skip));
    let listed = policy.skip.inbound_ports.iter().copied();
    declared.map(|(port, _)| *port).chain(listed).collect()
}

/// All that contradicts in `spec`.
pub(crate) fn taken(spec: &PodSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    for container in containers.filter(|one| !sidecar::is_ours(one)) {
        for number in numbers(container) {
            if let Some((port, purpose)) = own(number) {
                problems.push(Problem::Pod(format!(
                    "container {}: port {port} is the proxy's, for {purpose}; let the app listen on another one",
                    container.name
                )));
            }
        }
    }
    problems
}

fn numbers(container: &Container) -> impl Iterator<Item = i32> {
    let ports = container.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|name| name == "TCP"));
    tcp.map(|port| port.container_port)
}

fn own(number: i32) -> Option<(u16, &'static str)> {
    OWN.into_iter().find(|(port, _)| i32::from(*port) == number)
}

/// All that contradicts in `policy`.
pub(crate) fn contradictions(policy: &Policy) -> Vec<Problem> {
    let mut problems = Vec::new();
    let listed = &policy.skip.inbound_ports;
    for (number, port) in &policy.inbound.ports {
        let is_listed = listed.contains(number);
        let is_skipped = port.protocol == Some(PortProtocol::Skip);
        if is_listed && port.protocol.is_some() && !is_skipped {
            problems.push(Problem::annotation(
                format!("ports.{number}"),
                "says what the proxy is to read there, and weft.dev/skip.inbound-ports keeps the port from the proxy; keep one",
            ));
        }
        if (is_listed || is_skipped) && port.mtls == Some(Mtls::Strict) {
            problems.push(Problem::annotation(
                format!("ports.{number}.mtls"),
                "is strict, and the port is kept from the proxy, which could not refuse anybody; keep one",
            ));
        }
    }
    let declared = policy.inbound.ports.keys().copied();
    let named: BTreeSet<u16> = declared.chain(listed.iter().copied()).collect();
    for number in named {
        if let Some((port, purpose)) = own(number.into()) {
            let path = if listed.contains(&number) {
                "skip.inbound-ports".to_owned()
            } else {
                format!("ports.{port}")
            };
            problems.push(Problem::annotation(
                path,
                format!("{port} is the proxy's own port, for {purpose}"),
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_policy::scope::Scope;
    use weft_policy::spiffe::TrustDomain;

    use super::*;

    fn policy(text: &str) -> Policy {
        let scope = Scope {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            namespace: "shop".to_owned(),
        };
        Policy::parse(text, &scope).unwrap()
    }

    #[test]
    fn what_policy_says_of_a_port_must_go_together() {
        let rows: &[(&str, &[&str])] = &[
            (
                "ports: {8080: http, 9000: skip}\nskip: {inbound-ports: [9000, 9001]}",
                &[],
            ),
            ("ports: {8080: {mtls: strict}}", &[]),
            (
                "ports: {8080: http}\nskip: {inbound-ports: [8080]}",
                &[
                    "weft.dev/ports.8080: says what the proxy is to read there, and weft.dev/skip.inbound-ports keeps the port from the proxy; keep one",
                ],
            ),
            (
                "ports: {8080: {protocol: skip, mtls: strict}}",
                &[
                    "weft.dev/ports.8080.mtls: is strict, and the port is kept from the proxy, which could not refuse anybody; keep one",
                ],
            ),
            (
                "ports: {15001: http}\nskip: {inbound-ports: [15006]}",
                &[
                    "weft.dev/ports.15001: 15001 is the proxy's own port, for outgoing connections",
                    "weft.dev/skip.inbound-ports: 15006 is the proxy's own port, for incoming connections",
                ],
            ),
        ];
        for (text, want) in rows {
            let problems: Vec<String> = contradictions(&policy(text))
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(problems, *want, "{text}");
        }
    }

    #[test]
    fn the_proxys_ports_are_taken() {
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "weft-proxy", "ports": [{"containerPort": 15020}]}],
            "containers": [{"name": "app", "ports": [
                {"containerPort": 8080, "hostPort": 15001}, {"containerPort": 15021}, {"containerPort": 15001, "protocol": "UDP"},
            ]}],
        }))
        .unwrap();
        let problems: Vec<String> = taken(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "container app: port 15021 is the proxy's, for its readiness; let the app listen on another one"
            ]
        );
    }

    #[test]
    fn skipped_ports_are_those_of_both_keys() {
        let policy = policy("ports: {8080: http, 9000: skip}\nskip: {inbound-ports: [9001]}");
        assert_eq!(
            skipped(&policy).into_iter().collect::<Vec<_>>(),
            [9000, 9001]
        );
    }
}
