//! What holds when several say something.

use super::*;
use crate::own::Mtls;
use crate::tests::scope;
use std::time::Duration;

fn layer(kind: LayerKind, text: &str) -> Layer {
    Layer::from_document(kind, kind.as_str(), text, &scope())
        .map_err(|problems| format!("{text}: {}", problems[0]))
        .unwrap()
}

/// Who says what.
type Said<'a> = (LayerKind, &'a str);

fn merged(texts: &[Said<'_>]) -> Effective {
    let layers: Vec<Layer> = texts
        .iter()
        .map(|(kind, text)| layer(*kind, text))
        .collect();
    Effective::merge(&layers, &scope()).unwrap()
}

fn values(effective: &[Value]) -> Vec<String> {
    let line = |value: &Value| format!("{}={} {}", value.path, value.value, value.layer);
    effective.iter().map(line).collect()
}

#[test]
fn maps_merge_scalars_and_lists_replace_and_null_takes_back() {
    use LayerKind::{Mesh, Namespace, Pod};
    let rows: &[(&[Said<'_>], &[&str])] = &[
        (
            &[(Mesh, "timeout: 10s"), (Pod, "timeout: {try: 1s}")],
            &["timeout.request=10s mesh", "timeout.try=1s pod"],
        ),
        (
            &[
                (Mesh, "timeout: 10s"),
                (Namespace, "timeout: 5s"),
                (Pod, "{}"),
            ],
            &["timeout.request=5s namespace"],
        ),
        (
            &[(Mesh, "allow: [web, users]"), (Pod, "allow: web")],
            &["allow=web pod"],
        ),
        (&[(Mesh, "retry: 5"), (Pod, "retry: null")], &[]),
        (
            &[
                (Mesh, "retry: {attempts: 5, budget: 1%}"),
                (Pod, "retry: {attempts: null}"),
            ],
            &["retry.budget.share=1% mesh"],
        ),
        (
            &[(Mesh, "deny: users"), (Pod, "deny: [{paths: [/admin/*]}]")],
            &["deny[0]=users mesh", "deny[1]={paths: [\"/admin/*\"]} pod"],
        ),
        (
            &[(Mesh, "deny: users"), (Pod, "deny: null")],
            &["deny[0]=users mesh"],
        ),
        (
            &[
                (Mesh, "rate-limit: 10/s"),
                (Pod, "rate-limit: [1/s, {rate: 5/min}]"),
            ],
            &["rate-limit=[1/s, {rate: 5/min}] pod"],
        ),
    ];
    for (texts, want) in rows {
        assert_eq!(values(&merged(texts).values), *want, "{texts:?}");
    }
}

#[test]
fn strict_stays() {
    use LayerKind::{Namespace, Pod};
    for text in [
        "mtls: permissive",
        "mtls: null",
        "ports: {80: {mtls: permissive}}",
    ] {
        let effective = merged(&[(Namespace, "mtls: strict"), (Pod, text)]);
        assert_eq!(effective.policy.inbound.mtls, Some(Mtls::Strict), "{text}");
        let ports = effective.policy.inbound.ports.values();
        assert!(ports.into_iter().all(|port| port.mtls.is_none()), "{text}");
        assert_eq!(effective.problems.len(), 1, "{text}");
    }
    for text in [
        "ports: null",
        "ports: {80: null}",
        "ports: {80: {mtls: null}}",
    ] {
        let effective = merged(&[(Namespace, "ports: {80: {mtls: strict}}"), (Pod, text)]);
        let port = &effective.policy.inbound.ports[&80];
        assert_eq!(port.mtls, Some(Mtls::Strict), "{text}");
        assert_eq!(effective.problems.len(), 1, "{text}");
    }
    let secured = "ports: {80: {mtls: strict}}";
    let effective = merged(&[
        (Namespace, secured),
        (Pod, "ports: {80: {mtls: permissive}, 81: tcp}"),
    ]);
    assert_eq!(effective.policy.inbound.ports[&80].mtls, Some(Mtls::Strict));
    let own = "mtls: strict\nports: {80: {mtls: permissive}}";
    let effective = merged(&[(Namespace, own), (Pod, "ports: {80: {mtls: permissive}}")]);
    assert_eq!(
        effective.policy.inbound.ports[&80].mtls,
        Some(Mtls::Permissive)
    );
    assert_eq!(effective.problems, []);
}

#[test]
fn a_service_says_only_how_it_is_called() {
    let text = "timeout: 1s\nallow: web\n";
    let problems = Layer::from_document(LayerKind::Service, "shop/orders", text, &scope());
    let problems = problems.unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0]
            .to_string()
            .starts_with("weft.dev/allow: a Service says only")
    );
}

#[test]
fn the_caller_has_the_last_word_for_its_own_calls() {
    let service = ServiceRef::parse("orders.store", &scope()).unwrap();
    let asked = [
        layer(
            LayerKind::Pod,
            "timeout: 10s\nretry: 3\nallow: web\nroutes: [{split: [v1, v2]}]",
        ),
        layer(LayerKind::Service, "timeout: 5s"),
    ];
    let own = [layer(
        LayerKind::File,
        "to: {orders.store: {timeout: {try: 1s}}, orders: {timeout: 1h}}\ntimeout: 2h",
    )];
    let effective = EffectiveCalls::merge(&service, &asked, &own, &scope()).unwrap();
    let want = [
        "retry.attempts=3 pod",
        "routes=[{split: [v1, v2]}] pod",
        "timeout.request=5s service",
        "timeout.try=1s caller",
    ];
    assert_eq!(values(&effective.values), want);
    assert_eq!(
        effective.calls.timeout.request,
        Some(Duration::from_secs(5))
    );
    let split = &effective.calls.routes[0].split[0];
    assert_eq!(split.service.namespace.as_deref(), Some("store"));
}

#[test]
fn a_layer_travels_as_json() {
    let text = "allow: [{from: \"*\", paths: [/a/*]}]\nfallback: \"订单\\n\\\"忙\\\"\"\nretry: ~\ntimeout: 10s\n";
    let sent = layer(LayerKind::Pod, text);
    let json: serde_json::Value = serde_json::from_str(&sent.json()).unwrap();
    assert_eq!(json["timeout"]["request"], "10s");
    assert_eq!(layer(LayerKind::Pod, &sent.json()), sent);
}

#[test]
fn secrets_are_not_told() {
    let text = "jwt: {issuer: \"https://i.test\", algorithms: [HS256], jwks: {secret: aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gMzI=}}";
    let told = values(&merged(&[(LayerKind::Pod, text)]).values).join("\n");
    assert!(!told.contains("aGVsbG8"), "{told}");
    // Headers that are set, by policy and by routes, and looked for.
    let text = "headers: {request: {set: {x-api-key: opens, x-team: shown}}}\n\
                deny: [{headers: {x-session: opens}, paths: [/shown]}]\n\
                routes: [{match: /a, headers: {request: {add: {Authorization: opens}}}}]";
    let told = values(&merged(&[(LayerKind::Pod, text)]).values).join("\n");
    assert!(!told.contains("opens"), "{told}");
    assert!(
        told.contains("x-team=shown") && told.contains("/shown"),
        "{told}"
    );
}

#[test]
fn what_is_wrong_only_as_a_whole_is_found() {
    let layers = [
        layer(LayerKind::Mesh, "jwt: {audiences: [a]}"),
        layer(LayerKind::Pod, "jwt: {required: false}"),
    ];
    let problems = Effective::merge(&layers, &scope()).unwrap_err();
    assert!(
        problems[0].to_string().contains("needs the key"),
        "{problems:?}"
    );
}

#[test]
fn a_file_says_nothing_of_how_a_pod_is_put_together() {
    let text =
        "inject: disabled\nskip: {outbound-ports: [5432]}\nproxy: {workers: 2}\ntimeout: 1s\n";
    let refused = Layer::from_document(LayerKind::File, "policy.yaml", text, &scope()).unwrap_err();
    let paths: Vec<&str> = refused.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(paths, ["inject", "skip", "proxy"]);
    assert!(refused[0].to_string().contains("write it on the pod"));
    let _taken = layer(LayerKind::Pod, text);
}
