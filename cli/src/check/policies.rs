//! Policy as the cluster's objects ask for it: what cannot be read, and pods of one service that ask for different things of their callers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weft_policy::layer::{Layer, LayerKind};
use weft_policy::problem::PREFIX;
use weft_policy::scope::Scope;
use weft_policy::spiffe::TrustDomain;

use super::finding::{Findings, some};
use super::seen::Seen;
use crate::objects::{Pod, name, text};

/// Looks at the annotations of everything that may have some.
pub(super) fn look(seen: &Seen, findings: &mut Findings) {
    let domain = seen
        .variable("weft-discovery", "WEFT_TRUST_DOMAIN")
        .unwrap_or("cluster.local");
    let Ok(domain) = TrustDomain::parse(domain) else {
        return;
    };
    let kinds = [
        (LayerKind::Namespace, &seen.namespaces),
        (LayerKind::Workload, &seen.workloads),
        (LayerKind::Service, &seen.services),
        (LayerKind::Pod, &seen.pods),
    ];
    let mut told = 0_usize;
    for (kind, objects) in kinds {
        for object in objects {
            let read = layer(kind, object, &domain);
            told += usize::from(read.as_ref().is_ok_and(|layer| !layer.is_empty()));
            if let Err(problems) = read {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let what = format!(
                    "its annotations cannot be used, so the last good ones stay:\n{}",
                    problems.join("\n")
                );
                findings.problem(
                    AREA,
                    &place(object),
                    (
                        what,
                        "write them as it says; weft lint FILE checks before anything is applied",
                    ),
                );
            }
        }
    }
    disagreement(seen, &domain, findings);
    if !findings.bad_in(AREA) {
        findings.good(
            AREA,
            "",
            format!("{told} objects have annotations, all of which can be used"),
        );
    }
}

fn layer(
    kind: LayerKind,
    object: &Value,
    domain: &TrustDomain,
) -> Result<Layer, Vec<weft_policy::problem::Problem>> {
    let namespace = match kind {
        LayerKind::Namespace => name(object),
        _ => text(object, "/metadata/namespace"),
    };
    let scope = Scope {
        trust_domain: domain.clone(),
        namespace: namespace.to_owned(),
    };
    let annotations = object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    let ours = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(PREFIX));
    let texts = ours.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    Layer::from_annotations(kind, place(object), texts, &scope)
}

fn place(object: &Value) -> String {
    match text(object, "/metadata/namespace") {
        "" => format!("{} {}", text(object, "/kind"), name(object)),
        namespace => format!("{} {namespace}/{}", text(object, "/kind"), name(object)),
    }
}

/// How a service is called is said by its pods; callers follow the newest.
fn disagreement(seen: &Seen, domain: &TrustDomain, findings: &mut Findings) {
    for service in &seen.services {
        let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in seen
            .meshed()
            .filter(|pod| pod.ready() && selects(service, *pod))
        {
            if let Ok(layer) = layer(LayerKind::Pod, pod.0, domain) {
                said.entry(layer.calls().json())
                    .or_default()
                    .push(pod.name().to_owned());
            }
        }
        if said.len() < 2 {
            continue;
        }
        let different: BTreeSet<String> = said
            .iter()
            .map(|(policy, pods)| format!("{policy}: {}", some(pods)))
            .collect();
        let different: Vec<String> = different.into_iter().collect();
        let what = format!(
            "its pods ask different things of their callers, who follow the newest:\n{}",
            different.join("\n")
        );
        findings.warning(
            AREA,
            &place(service),
            (
                what,
                "finish the rollout, or say it once: on the Service or the workload",
            ),
        );
    }
}

fn selects(service: &Value, pod: Pod<'_>) -> bool {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    let labels = pod.0.pointer("/metadata/labels");
    text(service, "/metadata/namespace") == pod.namespace()
        && selector.is_some_and(|selector| {
            let has = |(key, value): (&String, &Value)| {
                labels.and_then(|labels| labels.get(key)) == Some(value)
            };
            !selector.is_empty() && selector.iter().all(has)
        })
}

const AREA: &str = "policy";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, annotations: Value) -> Value {
        json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": name, "labels": {"app": "orders"}, "annotations": annotations},
            "spec": {"initContainers": [{"name": "weft-proxy"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn looked(pods: Vec<Value>) -> Vec<String> {
        let seen = Seen {
            services: vec![
                json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "orders"}, "spec": {"selector": {"app": "orders"}}}),
            ],
            pods,
            ..Seen::default()
        };
        let mut findings = Findings::default();
        look(&seen, &mut findings);
        findings.bad()
    }

    #[test]
    fn pods_of_a_service_that_ask_different_things_of_callers_are_told() {
        let (one, other) = (
            json!({"weft.dev/retry": "2", "weft.dev/allow": "web"}),
            json!({"weft.dev/retry": "3"}),
        );
        let same_for_callers = json!({"weft.dev/retry.attempts": "2"});
        assert_eq!(
            looked(vec![pod("a", one.clone()), pod("b", same_for_callers)]),
            Vec::<String>::new()
        );
        let bad = looked(vec![pod("a", one), pod("b", other)]);
        assert!(
            bad[0].starts_with("Warning Service shop/orders: its pods ask different things"),
            "{bad:?}"
        );
        assert!(bad[0].contains(": a") && bad[0].contains(": b"), "{bad:?}");
    }

    #[test]
    fn annotations_that_cannot_be_used_are_told_with_their_reason() {
        let bad = looked(vec![pod(
            "a",
            json!({"weft.dev/timeout": "10", "other": "x"}),
        )]);
        assert!(
            bad[0].starts_with("Problem Pod shop/a: its annotations cannot be used"),
            "{bad:?}"
        );
        assert!(bad[0].contains("\"10\" has no unit"), "{bad:?}");
    }
}
