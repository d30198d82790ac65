//! What of a pod's security goes together with the mesh: users that would bypass the proxy, and Pod Security that would refuse it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Capabilities, PodSpec, SeccompProfile, SecurityContext};

use crate::problems::Problem;
use crate::sidecar;

/// The proxy's user and group: redirection leaves their connections alone.
pub(crate) const PROXY_ID: i64 = 1337;

/// Containers whose connections would pass by the proxy.
pub(crate) fn bypasses(spec: &PodSpec) -> Vec<Problem> {
    let pod = spec.security_context.as_ref();
    let pod = (
        pod.and_then(|cx| cx.run_as_user),
        pod.and_then(|cx| cx.run_as_group),
    );
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let mut problems = Vec::new();
    for container in containers.filter(|one| !sidecar::is_ours(one)) {
        let own = container.security_context.as_ref();
        let user = own.and_then(|cx| cx.run_as_user).or(pod.0);
        let group = own.and_then(|cx| cx.run_as_group).or(pod.1);
        for (id, noun) in [(user, "user"), (group, "group")] {
            if id == Some(PROXY_ID) {
                problems.push(Problem::Pod(format!(
                    "container {}: {noun} {PROXY_ID} is the proxy's, and its connections would bypass the mesh; take another one",
                    container.name
                )));
            }
        }
    }
    problems
}

/// Says that Pod Security will refuse what was just allowed; it looks at pods after all webhooks.
pub(crate) fn refused_later(namespace: &str, labels: &BTreeMap<String, String>) -> Option<String> {
    let level = labels.get(ENFORCE)?;
    let refuses = level == "restricted" || level == "baseline";
    refuses.then(|| {
        format!(
            "namespace {namespace} enforces Pod Security {level:?}, which refuses weft-redirect for its NET_ADMIN; \
             label the namespace {ENFORCE}=privileged"
        )
    })
}

/// Of the proxy: as Pod Security `restricted` wants it.
pub(crate) fn of_proxy() -> SecurityContext {
    SecurityContext {
        run_as_user: Some(PROXY_ID),
        run_as_group: Some(PROXY_ID),
        run_as_non_root: Some(true),
        ..least(None)
    }
}

/// Of the container that redirects: root, and nothing but NET_ADMIN.
pub(crate) fn of_redirect() -> SecurityContext {
    SecurityContext {
        run_as_user: Some(0),
        run_as_group: Some(0),
        run_as_non_root: Some(false),
        ..least(Some("NET_ADMIN"))
    }
}

fn least(capability: Option<&str>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            add: capability.map(|name| vec![name.to_owned()]),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..SecurityContext::default()
    }
}

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_proxys_user_and_group_are_taken() {
        let spec: PodSpec = serde_json::from_value(json!({
            "securityContext": {"runAsUser": 1337, "runAsGroup": 1000},
            "initContainers": [{"name": "weft-proxy", "securityContext": {"runAsUser": 1337}}],
            "containers": [
                {"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 1000}},
                {"name": "c", "securityContext": {"runAsUser": 1, "runAsGroup": 1337}},
            ],
        }))
        .unwrap();
        let problems: Vec<String> = bypasses(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "container a: user 1337 is the proxy's, and its connections would bypass the mesh; take another one",
                "container c: group 1337 is the proxy's, and its connections would bypass the mesh; take another one",
            ]
        );
    }

    #[test]
    fn pod_security_that_will_refuse_is_told_of() {
        for (level, told) in [
            ("restricted", true),
            ("baseline", true),
            ("privileged", false),
        ] {
            let labels = BTreeMap::from([(ENFORCE.to_owned(), level.to_owned())]);
            assert_eq!(refused_later("shop", &labels).is_some(), told, "{level}");
        }
        assert_eq!(refused_later("shop", &BTreeMap::new()), None);
    }
}
