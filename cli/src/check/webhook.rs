//! The webhook: is it set up, does the API server trust the injector, and does a pod get its proxy.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weft_certs::bundle::Bundle;

use super::finding::Findings;
use super::seen::{Kind, SYSTEM, Seen};
use super::{clocks, roots};
use crate::kubectl::{Kubectl, KubectlError};
use crate::objects::{Namespace, Pod, array, text};

/// Looks at the configuration.
pub(super) fn look(seen: &Seen, findings: &mut Findings) {
    let Some(configuration) = &seen.webhook else {
        if !seen.read(&[Kind::Webhook]) {
            return;
        }
        let what = "is not there: no pod gets a proxy".to_owned();
        findings.problem(AREA, PLACE, (what, "weft upgrade | kubectl apply -f -"));
        return;
    };
    let webhooks = array(configuration, "/webhooks");
    for name in NAMES {
        if !webhooks.iter().any(|one| text(one, "/name") == name) {
            let what = format!("the rule {name} is not there");
            findings.problem(AREA, PLACE, (what, "weft upgrade | kubectl apply -f -"));
        }
    }
    for webhook in webhooks {
        if PODS.contains(&text(webhook, "/name")) && text(webhook, "/failurePolicy") != "Fail" {
            let what = format!(
                "{}: failurePolicy is not Fail: pods start without a proxy when the injector is away",
                text(webhook, "/name")
            );
            findings.warning(AREA, PLACE, (what, "weft upgrade | kubectl apply -f -"));
        }
        if PODS.contains(&text(webhook, "/name")) && array(webhook, "/matchConditions").is_empty() {
            let what = format!(
                "{}: has no matchConditions, so pods of the node's own network cannot be made while the injector is away",
                text(webhook, "/name")
            );
            let remedy = "weft upgrade | kubectl apply -f -; an API server drops them before 1.28, and until 1.30 where AdmissionWebhookMatchConditions is off";
            findings.warning(AREA, PLACE, (what, remedy));
        }
        if !excluded(webhook) {
            let what = format!(
                "{}: looks at the pods of {SYSTEM} too, which then cannot start by themselves",
                text(webhook, "/name")
            );
            findings.problem(AREA, PLACE, (what, "weft upgrade | kubectl apply -f -"));
        }
    }
    trust(seen, configuration, findings);
}

fn excluded(webhook: &Value) -> bool {
    let rules = array(webhook, "/namespaceSelector/matchExpressions");
    let names = rules.iter().filter(|rule| {
        text(rule, "/key") == "kubernetes.io/metadata.name" && text(rule, "/operator") == "NotIn"
    });
    let mut names = names.flat_map(|rule| array(rule, "/values"));
    names.any(|name| name == SYSTEM)
}

/// Whether the caBundle of every rule has all roots that the authority signs with.
fn trust(seen: &Seen, configuration: &Value, findings: &mut Findings) {
    let remedy = "weft-injector writes it: kubectl -n weft-system logs deployment/weft-injector";
    let annotations = configuration
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    let elsewhere = annotations.is_some_and(|all| {
        all.keys()
            .any(|key| key.starts_with("cert-manager.io/inject-ca"))
    });
    let roots = roots::current(seen).filter(|_| !elsewhere);
    let mut well = true;
    for webhook in array(configuration, "/webhooks") {
        let name = text(webhook, "/name");
        let wrong = match bundle(webhook) {
            None => Some("has no caBundle: the API server cannot trust the injector"),
            Some(Err(())) => Some("has a caBundle that cannot be read"),
            Some(Ok(bundle)) => {
                let lacks = roots.as_ref().is_some_and(|roots| {
                    !roots
                        .roots()
                        .iter()
                        .all(|root| bundle.roots().contains(root))
                });
                lacks.then_some("has a caBundle without the roots of now")
            }
        };
        if let Some(wrong) = wrong {
            well = false;
            findings.problem(AREA, PLACE, (format!("{name} {wrong}"), remedy));
        }
    }
    if well {
        findings.good(
            AREA,
            PLACE,
            "the API server has the roots to trust the injector by",
        );
    }
}

fn bundle(webhook: &Value) -> Option<Result<Bundle, ()>> {
    let coded = text(webhook, "/clientConfig/caBundle");
    if coded.is_empty() {
        return None;
    }
    let pem = STANDARD
        .decode(coded)
        .ok()
        .and_then(|pem| String::from_utf8(pem).ok());
    Some(pem.and_then(|pem| Bundle::from_pem(&pem).ok()).ok_or(()))
}

/// Has the API server make a pod that is then not kept: the webhook is called as for any other.
pub(super) async fn ask(kubectl: &Kubectl, seen: &Seen, now: SystemTime, findings: &mut Findings) {
    if seen.webhook.is_none() && seen.read(&[Kind::Webhook]) {
        return;
    }
    let Try { namespace, labels } = Try::of(seen);
    if Namespace::is_excluded(namespace) {
        let place = format!("namespace {namespace}");
        findings.good(
            AREA,
            &place,
            "its pods never get a proxy, so none was tried",
        );
        return;
    }
    let flag = format!("--namespace={namespace}");
    let words = [
        "create",
        &flag,
        "--dry-run=server",
        "--validate=false",
        "--output=json",
        "--filename=-",
    ];
    let made = kubectl.told(&words, &pod(&labels).to_string()).await;
    judge(&made, namespace, findings);
    if let Some(made) = made
        .ok()
        .and_then(|made| serde_json::from_str::<Value>(&made).ok())
    {
        clocks::here(&made, now, findings);
    }
}

/// Where a pod is tried, and with which labels.
struct Try<'a> {
    namespace: &'a str,
    labels: Value,
}

impl<'a> Try<'a> {
    /// The namespace that is looked at, or else the first of the mesh; where a namespace asks for no proxy, the pod does.
    fn of(seen: &'a Seen) -> Self {
        let asks = |namespace| Self {
            namespace,
            labels: json!({"weft.dev/inject": "enabled"}),
        };
        let wanted =
            |one: &Namespace<'_>| seen.scope.as_deref().is_none_or(|only| one.name() == only);
        let mut injecting = seen
            .namespaces
            .iter()
            .map(Namespace)
            .filter(|one| one.injects());
        match injecting.find(wanted) {
            Some(namespace) => Self {
                namespace: namespace.name(),
                labels: json!({}),
            },
            None => asks(seen.scope.as_deref().unwrap_or("default")),
        }
    }
}

/// Asks for nothing itself, so that what is refused is refused for the sake of what was added.
fn pod(labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "weft-check-", "labels": labels},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "nothing", "image": "weft.dev/nothing",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

fn judge(made: &Result<String, KubectlError>, namespace: &str, findings: &mut Findings) {
    let place = format!("a pod in {namespace}");
    let error = match made {
        Ok(text) => {
            let made: Value = serde_json::from_str(text).unwrap_or_default();
            match Pod(&made).proxy() {
                Some(_) => findings.good(AREA, &place, "would get its proxy"),
                None => {
                    let what = "would be made without a proxy: the webhook was not asked, or changed nothing".to_owned();
                    findings.problem(AREA, &place, (what, "kubectl -n weft-system logs deployment/weft-injector; weft upgrade | kubectl apply -f -"));
                }
            }
            return;
        }
        Err(error) => {
            if let Some(right) = error.missing().first() {
                let what = format!("not tried, as you may not {right}");
                let remedy = format!(
                    "ask for that right; {} says whether you have it",
                    right.question()
                );
                findings.warning(AREA, &place, (what, &remedy));
                return;
            }
            error.to_string()
        }
    };
    let remedy = if error.contains("violates PodSecurity") {
        "redirection needs NET_ADMIN in an init container: label the namespace pod-security.kubernetes.io/enforce=privileged"
    } else if error.contains("x509") || error.contains("certificate") {
        "the API server does not trust the injector: look at caBundle above, and at kubectl -n weft-system logs deployment/weft-injector"
    } else if error.contains("failed calling webhook") {
        "the API server does not reach the injector: look at its pods, at NetworkPolicies and firewalls between both on port 8443"
    } else if error.contains("inject.weft.dev") {
        "the injector refuses it: look at the annotations that are named"
    } else {
        "the API server refuses it for another reason: look at what it says"
    };
    findings.problem(AREA, &place, (format!("cannot be made: {error}"), remedy));
}

/// When the API server made an object.
pub(super) fn made_at(object: &Value) -> Option<SystemTime> {
    seconds(text(object, "/metadata/creationTimestamp"))
}

/// RFC 3339, as the API server writes it: in UTC, `2026-05-01T12:00:00.123456Z` or without a part of a second.
pub(super) fn seconds(text: &str) -> Option<SystemTime> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-');
    let year = date.next()?.parse().ok()?;
    let month = time::Month::try_from(date.next()?.parse::<u8>().ok()?).ok()?;
    let date = time::Date::from_calendar_date(year, month, date.next()?.parse().ok()?).ok()?;
    let mut clock = clock.splitn(3, ':');
    let (hour, minute) = (clock.next()?.parse().ok()?, clock.next()?.parse().ok()?);
    let second = clock.next()?.parse::<f64>().ok()?;
    let whole = date.with_hms(hour, minute, 0).ok()?.assume_utc();
    Some(SystemTime::from(whole) + Duration::try_from_secs_f64(second).ok()?)
}

const AREA: &str = "webhook";
const PLACE: &str = "MutatingWebhookConfiguration weft-injector";
const NAMES: [&str; 3] = [PODS[0], PODS[1], "annotations.weft.dev"];
/// Without which a pod would start without its proxy.
const PODS: [&str; 2] = ["inject.weft.dev", "pod.inject.weft.dev"];

#[cfg(test)]
mod tests {
    use weft_tests::ca::Ca;

    use super::*;

    fn looked(bundle: Option<&str>, root: &str) -> Vec<String> {
        let webhook = |name: &str| {
            json!({"name": name, "failurePolicy": "Fail", "matchConditions": [{"name": "a"}], "clientConfig": {"caBundle": bundle.map(|pem| STANDARD.encode(pem))},
                "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["weft-system"]}]}})
        };
        let seen = Seen {
            webhook: Some(json!({"webhooks": NAMES.map(webhook)})),
            bundles: vec![
                json!({"metadata": {"namespace": "weft-system"}, "data": {"ca.crt": root}}),
            ],
            ..Seen::default()
        };
        let mut findings = Findings::default();
        look(&seen, &mut findings);
        findings.bad()
    }

    #[test]
    fn the_bundle_must_have_the_roots_of_now() {
        let (root, other) = (Ca::new().roots(), Ca::new().roots());
        assert_eq!(
            looked(Some(&format!("{other}{root}")), &root),
            Vec::<String>::new()
        );
        assert!(
            looked(Some(&other), &root)[1]
                .contains("pod.inject.weft.dev has a caBundle without the roots of now")
        );
        assert!(looked(None, &root)[0].contains("has no caBundle"));
        assert!(looked(Some("x"), &root)[0].contains("cannot be read"));
    }

    #[test]
    fn a_rule_that_is_missing_or_looks_at_ourselves_is_told() {
        let seen = Seen {
            webhook: Some(
                json!({"webhooks": [{"name": "inject.weft.dev", "failurePolicy": "Ignore"}]}),
            ),
            ..Seen::default()
        };
        let mut findings = Findings::default();
        look(&seen, &mut findings);
        let bad = findings.bad().join("\n");
        for want in [
            "the rule pod.inject.weft.dev is not there",
            "failurePolicy is not Fail",
            "has no matchConditions",
            "the pods of weft-system too",
            "has no caBundle",
        ] {
            assert!(bad.contains(want), "{want}: {bad}");
        }
    }

    #[test]
    fn a_pod_is_tried_in_the_namespace_that_is_looked_at() {
        let labelled = |name: &str| json!({"metadata": {"name": name, "labels": {"weft.dev/inject": "enabled"}}});
        let plain = json!({"metadata": {"name": "plain"}});
        let asks = json!({"weft.dev/inject": "enabled"});
        let rows = [
            (None, "bank", json!({})),
            (Some("shop"), "shop", json!({})),
            (Some("plain"), "plain", asks.clone()),
            (Some("typo"), "typo", asks),
        ];
        for (scope, namespace, labels) in rows {
            let seen = Seen {
                scope: scope.map(str::to_owned),
                namespaces: vec![labelled("bank"), plain.clone(), labelled("shop")],
                ..Seen::default()
            };
            let tried = Try::of(&seen);
            assert_eq!(
                (tried.namespace, tried.labels),
                (namespace, labels),
                "{scope:?}"
            );
        }
    }

    #[test]
    fn what_came_of_the_dry_run_says_what_to_do() {
        let failed = |said: &str| {
            Err(KubectlError::Failed {
                what: "create".to_owned(),
                said: said.to_owned(),
            })
        };
        let rows = [
            (
                Ok(json!({"spec": {"initContainers": [{"name": "weft-proxy"}]}}).to_string()),
                None,
            ),
            (
                Ok(json!({"spec": {"containers": []}}).to_string()),
                Some("without a proxy"),
            ),
            (
                failed(
                    "failed calling webhook \"inject.weft.dev\": x509: certificate signed by unknown authority",
                ),
                Some("does not trust"),
            ),
            (
                failed("failed calling webhook \"inject.weft.dev\": connect: connection refused"),
                Some("does not reach"),
            ),
            (
                failed("pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\""),
                Some("NET_ADMIN"),
            ),
            (
                failed("admission webhook \"inject.weft.dev\" denied the request"),
                Some("annotations"),
            ),
            (
                failed("pods \"x\" is forbidden: exceeded quota"),
                Some("another reason"),
            ),
        ];
        for (made, want) in rows {
            let mut findings = Findings::default();
            judge(&made, "shop", &mut findings);
            let text = findings.text();
            assert_eq!(findings.problems(), usize::from(want.is_some()), "{text}");
            assert!(want.is_none_or(|want| text.contains(want)), "{text}");
        }
    }

    #[test]
    fn who_may_not_make_pods_is_told_so_and_no_more() {
        let refused = Err(KubectlError::Failed {
            what: "create".to_owned(),
            said: "pods is forbidden: User \"dev\" cannot create resource \"pods\" in API group \"\" in the namespace \"shop\"".to_owned(),
        });
        let mut findings = Findings::default();
        judge(&refused, "shop", &mut findings);
        assert_eq!(
            findings.bad(),
            ["Warning a pod in shop: not tried, as you may not create pods in namespace shop"]
        );
    }

    #[test]
    fn times_are_read_as_the_api_server_writes_them() {
        let at = |text: &str| {
            seconds(text).map(|time| {
                time.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_millis()
            })
        };
        assert_eq!(at("1970-01-01T00:01:00Z"), Some(60_000));
        assert_eq!(at("1970-01-01T00:01:00.250000Z"), Some(60_250));
        assert_eq!(at("now"), None);
    }
}
