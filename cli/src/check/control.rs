//! The control plane: is every part there, ready, and of one version.

use std::collections::BTreeSet;

use serde_json::Value;

use super::finding::Findings;
use super::seen::{Kind, PARTS, Seen};
use crate::objects::{Pod, array, tag, text};

/// Looks at all three parts.
pub(super) fn look(seen: &Seen, findings: &mut Findings) {
    if !seen.read(&[Kind::Deployments]) {
        return;
    }
    for part in PARTS {
        let place = format!("Deployment weft-system/{part}");
        match seen.deployment(part) {
            _ if part == "weft-ca" && !seen.own_authority() => {
                findings.good(
                    AREA,
                    &place,
                    "not needed, as certificates come from elsewhere",
                );
            }
            Some(deployment) => ready(seen, (part, &place), deployment, findings),
            None => {
                findings.problem(
                    AREA,
                    &place,
                    (
                        "is not there".to_owned(),
                        "weft install | kubectl apply -f -",
                    ),
                );
            }
        }
    }
    versions(seen, findings);
    domains(seen, findings);
}

fn ready(seen: &Seen, (part, place): (&str, &str), deployment: &Value, findings: &mut Findings) {
    let number = |pointer| {
        deployment
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    let (wanted, available) = (
        number("/spec/replicas"),
        number("/status/availableReplicas"),
    );
    let what = format!("{available} of {wanted} replicas ready");
    if available >= wanted && wanted > 0 {
        findings.good(AREA, place, what);
        return;
    }
    let why: BTreeSet<String> = seen.pods_of(part).filter_map(why).collect();
    let why: Vec<String> = why.into_iter().collect();
    let what = match why.is_empty() {
        true => what,
        false => format!("{what}: {}", why.join("; ")),
    };
    let remedy = format!(
        "kubectl -n weft-system describe pods -l app.kubernetes.io/name={part}; kubectl -n weft-system logs deployment/{part}"
    );
    match available {
        0 => findings.problem(AREA, place, (what, &remedy)),
        _ => findings.warning(AREA, place, (what, &remedy)),
    }
}

/// Why a pod is not ready, if it says.
pub(super) fn why(pod: Pod<'_>) -> Option<String> {
    let statuses = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let statuses = statuses.into_iter().flat_map(|list| array(pod.0, list));
    for status in statuses {
        let told = |state: &str| {
            let reason = text(status, &format!("{state}/reason"));
            let message = text(status, &format!("{state}/message"));
            let message: String = message.chars().take(MESSAGE).collect();
            (!reason.is_empty()).then(|| {
                format!("{} {reason} {message}", text(status, "/name"))
                    .trim()
                    .to_owned()
            })
        };
        let ended = ["/state/terminated", "/lastState/terminated"]
            .into_iter()
            .filter(|state| failed(status, state))
            .find_map(told);
        // Why it waits says less than why it ended the last time.
        let waits = told("/state/waiting").filter(|_| !starting(status));
        if let Some(reason) = ended.or(waits) {
            return Some(reason);
        }
    }
    let conditions = array(pod.0, "/status/conditions");
    let unscheduled = conditions
        .iter()
        .find(|one| text(one, "/type") == "PodScheduled" && text(one, "/status") == "False");
    unscheduled
        .map(|one| text(one, "/message").to_owned())
        .filter(|message| !message.is_empty())
}

/// Whether a container is only on its way.
fn starting(status: &Value) -> bool {
    let reason = text(status, "/state/waiting/reason");
    ["PodInitializing", "ContainerCreating"].contains(&reason)
}

fn failed(status: &Value, state: &str) -> bool {
    let code = status.pointer(&format!("{state}/exitCode"));
    let ready = status.get("ready") == Some(&Value::Bool(true));
    !ready && code.and_then(Value::as_u64).is_some_and(|code| code != 0)
}

fn versions(seen: &Seen, findings: &mut Findings) {
    let versions: BTreeSet<&str> = PARTS
        .iter()
        .filter_map(|part| version(seen, part))
        .collect();
    let versions: Vec<&str> = versions.into_iter().collect();
    match versions.as_slice() {
        [] => {}
        [one] if *one == OURS => {
            findings.good(AREA, "", format!("version {one}, the same as this weft"));
        }
        [one] => {
            let what = format!("version {one}, and this weft is {OURS}");
            findings.warning(AREA, "", (what, "weft upgrade says what a change to this version does; or use the weft of the other"));
        }
        several => {
            let what = format!("its parts have several versions: {}", several.join(", "));
            findings.warning(
                AREA,
                "",
                (
                    what,
                    "weft upgrade | kubectl apply -f -, and wait for the rollout",
                ),
            );
        }
    }
}

/// What one signs for, the other tells proxies to expect.
fn domains(seen: &Seen, findings: &mut Findings) {
    let parts = PARTS.iter();
    let all: BTreeSet<&str> = parts
        .filter_map(|part| seen.variable(part, DOMAIN))
        .collect();
    let all: Vec<&str> = all.into_iter().collect();
    if all.len() > 1 {
        let what = format!("its parts have several trust domains: {}", all.join(", "));
        let remedy = "weft upgrade --trust-domain DOMAIN, with the one that your pods have: proxies refuse every other";
        findings.problem(AREA, "", (what, remedy));
    }
}

/// The tag of a part's image.
pub(super) fn version<'a>(seen: &'a Seen, part: &str) -> Option<&'a str> {
    let containers = array(seen.deployment(part)?, "/spec/template/spec/containers");
    tag(text(containers.first()?, "/image"))
}

const AREA: &str = "control plane";
/// Told to proxies by the injector, and by the other parts to each other.
pub(super) const DOMAIN: &str = "WEFT_TRUST_DOMAIN";
/// Longest message of a container that is shown: it may be the end of its log.
const MESSAGE: usize = 500;
/// Of this program.
const OURS: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(name: &str, image: &str, available: u64) -> Value {
        json!({"metadata": {"name": name}, "status": {"availableReplicas": available},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": image, "env": []}]}}}})
    }

    #[test]
    fn what_is_missing_or_not_ready_is_told_with_its_reason() {
        let ours = format!("weft.dev/weft:{OURS}");
        let mut seen = Seen {
            deployments: vec![
                deployment("weft-ca", &ours, 2),
                deployment("weft-discovery", &ours, 1),
            ],
            ..Seen::default()
        };
        let mut findings = Findings::default();
        look(&seen, &mut findings);
        let want = [
            "Warning Deployment weft-system/weft-discovery: 1 of 2 replicas ready",
            "Problem Deployment weft-system/weft-injector: is not there",
        ];
        assert_eq!(findings.bad(), want);
        seen.deployments
            .push(deployment("weft-injector", "weft.dev/weft:0.0.1", 0));
        seen.pods.push(json!({
            "metadata": {"namespace": "weft-system", "labels": {"app.kubernetes.io/name": "weft-injector"}},
            "status": {"containerStatuses": [{"name": "weft-injector", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]},
        }));
        let mut findings = Findings::default();
        look(&seen, &mut findings);
        let bad = findings.bad();
        assert_eq!(
            bad[1],
            "Problem Deployment weft-system/weft-injector: 0 of 2 replicas ready: weft-injector ImagePullBackOff no such image"
        );
        assert!(bad[2].contains("several versions: 0.0.1"), "{bad:?}");
    }

    #[test]
    fn parts_of_several_trust_domains_are_told() {
        let part = |name: &str, domain: &str| {
            let mut part = deployment(name, "a", 2);
            part["spec"]["template"]["spec"]["containers"][0]["env"] =
                json!([{"name": DOMAIN, "value": domain}]);
            part
        };
        let looked = |domain: &str| {
            let seen = Seen {
                deployments: vec![part("weft-ca", "a.test"), part("weft-injector", domain)],
                ..Seen::default()
            };
            let mut findings = Findings::default();
            domains(&seen, &mut findings);
            findings.bad()
        };
        assert_eq!(looked("a.test"), Vec::<String>::new());
        assert_eq!(
            looked("b.test"),
            ["Problem : its parts have several trust domains: a.test, b.test"]
        );
    }

    #[test]
    fn why_a_pod_is_not_ready_is_what_its_container_says() {
        let status = |status: Value| json!({"status": {"containerStatuses": [status]}});
        let rows = [
            (
                status(
                    json!({"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "x"}}}),
                ),
                Some("a Error x"),
            ),
            (status(json!({"name": "a", "state": {"running": {}}})), None),
            (
                json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]}}),
                Some("no node"),
            ),
        ];
        for (pod, want) in rows {
            assert_eq!(why(Pod(&pod)).as_deref(), want, "{pod}");
        }
    }
}
