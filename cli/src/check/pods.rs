//! Pods: who is in the mesh and should not be, who should be and is not, and whose redirection failed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::control::{DOMAIN, why};
use super::finding::{Findings, some};
use super::seen::{Kind, Seen};
use crate::objects::{Namespace, Pod, label, text, variable_of};

/// Looks at all pods that are alive.
pub(super) fn look(seen: &Seen, findings: &mut Findings) {
    if !seen.read(&[Kind::Pods, Kind::Namespaces]) {
        // Who should have a proxy is said by both; each container speaks for itself.
        containers(seen, findings);
        return;
    }
    let injecting: Vec<&str> = seen
        .namespaces
        .iter()
        .map(Namespace)
        .filter(|one| one.injects())
        .map(Namespace::name)
        .collect();
    let meshed = seen.meshed().count();
    if injecting.is_empty() && meshed == 0 {
        findings.good(
            AREA,
            "",
            "no namespace is in the mesh yet: kubectl label namespace NAME weft.dev/inject=enabled",
        );
        return;
    }
    half_injected(seen, &injecting, findings);
    security(seen, findings);
    domains(seen, findings);
    containers(seen, findings);
    if !findings.bad_in(AREA) {
        let what = format!(
            "{} namespaces are in the mesh, {meshed} pods with a proxy",
            injecting.len()
        );
        findings.good(AREA, "", what);
    }
}

fn half_injected(seen: &Seen, injecting: &[&str], findings: &mut Findings) {
    let (mut without, mut with): (ByNamespace, ByNamespace) = Default::default();
    for pod in seen.pods.iter().map(Pod).filter(|pod| !pod.finished()) {
        let wanted = injecting.contains(&pod.namespace()) && pod.asks() != Some("disabled")
            || pod.asks() == Some("enabled");
        let can = !pod.host_network() && pod.annotation(MIRROR).is_none();
        let list = match (pod.proxy().is_some(), wanted && can) {
            (false, true) => &mut without,
            (true, false) => &mut with,
            _ => continue,
        };
        list.entry(pod.namespace().to_owned())
            .or_default()
            .push(pod.name().to_owned());
    }
    for (namespace, pods) in without {
        let what = format!(
            "{} pods run without a proxy, though they should have one: {}",
            pods.len(),
            some(&pods)
        );
        let remedy = format!(
            "they are older than the label: kubectl -n {namespace} rollout restart deployment, statefulset and daemonset"
        );
        findings.warning(AREA, &format!("namespace {namespace}"), (what, &remedy));
    }
    for (namespace, pods) in with {
        let what = format!(
            "{} pods have a proxy, and will have none when they start anew: {}",
            pods.len(),
            some(&pods)
        );
        let remedy =
            format!("kubectl label namespace {namespace} weft.dev/inject=enabled, or restart them");
        findings.warning(AREA, &format!("namespace {namespace}"), (what, &remedy));
    }
}

/// Redirection needs a right in an init container that the stricter Pod Security Standards refuse.
fn security(seen: &Seen, findings: &mut Findings) {
    for namespace in &seen.namespaces {
        let level = label(namespace, "pod-security.kubernetes.io/enforce").unwrap_or("privileged");
        if Namespace(namespace).injects() && level != "privileged" {
            let name = Namespace(namespace).name();
            let what = format!(
                "enforces Pod Security {level}, which refuses the init container that redirects (NET_ADMIN)"
            );
            let remedy = format!(
                "kubectl label namespace {name} --overwrite pod-security.kubernetes.io/enforce=privileged"
            );
            findings.problem(AREA, &format!("namespace {name}"), (what, &remedy));
        }
    }
}

/// A proxy keeps the trust domain with which it was injected.
fn domains(seen: &Seen, findings: &mut Findings) {
    let Some(ours) = seen.variable("weft-injector", DOMAIN) else {
        return;
    };
    let mut others: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for pod in seen.meshed() {
        let domain = pod.proxy().and_then(|proxy| variable_of(proxy, DOMAIN));
        if let Some(domain) = domain.filter(|domain| *domain != ours) {
            others.entry(domain).or_default().push(pod.place());
        }
    }
    for (domain, pods) in others {
        let what = format!(
            "{} pods have the trust domain {domain}, and the control plane has {ours}: they and the others refuse each other: {}",
            pods.len(),
            some(&pods)
        );
        let remedy = "restart their workloads; see docs/kubernetes.md, Another trust domain";
        findings.problem(AREA, "", (what, remedy));
    }
}

fn containers(seen: &Seen, findings: &mut Findings) {
    for pod in seen.meshed() {
        if let Some(ended) = redirect_failed(pod) {
            let what = format!("its redirection could not be set up: {ended}");
            let remedy = format!(
                "kubectl -n {} logs {} -c weft-redirect; the node's kernel must have nftables",
                pod.namespace(),
                pod.name()
            );
            findings.problem(AREA, &pod.place(), (what, &remedy));
        } else if let Some(what) = proxy_failed(pod) {
            let remedy = format!(
                "kubectl -n {} logs {} -c weft-proxy",
                pod.namespace(),
                pod.name()
            );
            findings.problem(AREA, &pod.place(), (what, &remedy));
        }
    }
}

/// How the container that redirects ended, if not well.
fn redirect_failed(pod: Pod<'_>) -> Option<String> {
    let status = pod.status("weft-redirect")?;
    let code = |state: &str| {
        status
            .pointer(&format!("{state}/exitCode"))
            .and_then(Value::as_u64)
    };
    let code = code("/state/terminated").or_else(|| code("/lastState/terminated"))?;
    let message = text(status, "/state/terminated/message");
    (code != 0).then(|| {
        format!("it ended with {code} {message}")
            .trim_end()
            .to_owned()
    })
}

/// What is wrong with its proxy, if anything; one that is only starting is not wrong.
fn proxy_failed(pod: Pod<'_>) -> Option<String> {
    let ready = pod.status(PROXY).and_then(|status| status.get("ready"));
    if ready.and_then(Value::as_bool).unwrap_or(false) {
        return None;
    }
    match why(pod) {
        Some(why) if why.starts_with(PROXY) => Some(format!("its proxy is not ready: {why}")),
        _ if pod.running() => Some("its proxy is not ready".to_owned()),
        _ => None,
    }
}

type ByNamespace = BTreeMap<String, Vec<String>>;

const AREA: &str = "pods";
const PROXY: &str = "weft-proxy";
const MIRROR: &str = "kubernetes.io/config.mirror";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, container: &str) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"initContainers": [{"name": container}]},
            "status": {"phase": "Running", "initContainerStatuses": [{"name": container, "ready": true}]}})
    }

    fn looked(namespace: Value, pods: Vec<Value>) -> Vec<String> {
        let seen = Seen {
            namespaces: vec![namespace, json!({"metadata": {"name": "plain"}})],
            pods,
            ..Seen::default()
        };
        let mut findings = Findings::default();
        look(&seen, &mut findings);
        findings.bad()
    }

    fn labelled() -> Value {
        json!({"metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}}})
    }

    #[test]
    fn pods_that_are_in_the_mesh_by_half_are_named() {
        let mut out = pod("shop", "out", "app");
        out["metadata"]["labels"] = json!({"weft.dev/inject": "disabled"});
        let mut host = pod("shop", "host", "app");
        host["spec"]["hostNetwork"] = json!(true);
        let mut done = pod("shop", "done", "app");
        done["status"]["phase"] = json!("Succeeded");
        let mut opted = pod("plain", "opted", "weft-proxy");
        opted["metadata"]["labels"] = json!({"weft.dev/inject": "enabled"});
        let mut late = pod("plain", "late", "app");
        late["metadata"]["labels"] = json!({"weft.dev/inject": "enabled"});
        let pods = vec![
            pod("shop", "well", "weft-proxy"),
            pod("shop", "old", "app"),
            out,
            host,
            done,
            opted,
            late,
            pod("plain", "left", "weft-proxy"),
            pod("plain", "plain", "app"),
        ];
        let want = [
            "Warning namespace plain: 1 pods run without a proxy, though they should have one: late",
            "Warning namespace shop: 1 pods run without a proxy, though they should have one: old",
            "Warning namespace plain: 1 pods have a proxy, and will have none when they start anew: left",
        ];
        assert_eq!(looked(labelled(), pods), want);
    }

    #[test]
    fn redirection_that_failed_and_proxies_that_are_not_ready_are_told() {
        let mut failed = pod("shop", "failed", "weft-proxy");
        failed["status"]["initContainerStatuses"] = json!([{"name": "weft-redirect", "state": {"terminated": {"exitCode": 1, "message": "no nft"}}}]);
        let mut unready = pod("shop", "unready", "weft-proxy");
        unready["status"]["initContainerStatuses"] = json!([{"name": "weft-proxy", "ready": false, "state": {"waiting": {"reason": "ErrImagePull"}}},
            {"name": "weft-redirect", "state": {"terminated": {"exitCode": 0}}}]);
        let status = |status: Value| {
            let mut pod = pod("shop", "dead", "weft-proxy");
            pod["status"] = json!({"phase": "Pending", "initContainerStatuses": [status]});
            pod
        };
        let dead = status(
            json!({"name": "weft-proxy", "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "wrong in the environment"}}}),
        );
        let new = status(
            json!({"name": "weft-proxy", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}),
        );
        let want = [
            "Problem shop/failed: its redirection could not be set up: it ended with 1 no nft",
            "Problem shop/unready: its proxy is not ready: weft-proxy ErrImagePull",
            "Problem shop/dead: its proxy is not ready: weft-proxy Error wrong in the environment",
        ];
        assert_eq!(looked(labelled(), vec![failed, unready, dead, new]), want);
    }

    #[test]
    fn pods_of_another_trust_domain_are_told() {
        let of = |name: &str, domain: &str| {
            let mut pod = pod("shop", name, "weft-proxy");
            pod["spec"]["initContainers"][0]["env"] = json!([{"name": DOMAIN, "value": domain}]);
            pod
        };
        let injector = json!({"metadata": {"name": "weft-injector"},
            "spec": {"template": {"spec": {"containers": [{"env": [{"name": DOMAIN, "value": "b.test"}]}]}}}});
        let seen = Seen {
            deployments: vec![injector],
            pods: vec![of("old", "a.test"), of("new", "b.test")],
            ..Seen::default()
        };
        let mut findings = Findings::default();
        domains(&seen, &mut findings);
        let bad = findings.bad();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(
            bad[0]
                .contains("1 pods have the trust domain a.test, and the control plane has b.test"),
            "{bad:?}"
        );
        assert!(bad[0].ends_with("shop/old"), "{bad:?}");
    }

    #[test]
    fn pod_security_that_refuses_redirection_is_told() {
        let mut namespace = labelled();
        namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = json!("baseline");
        let bad = looked(namespace, vec![]);
        assert!(bad[0].contains("enforces Pod Security baseline"), "{bad:?}");
    }
}
