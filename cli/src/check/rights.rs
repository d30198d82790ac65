//! May we install? Asked as `kubectl auth can-i` asks, all at once.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::finding::{Findings, some};
use crate::kubectl::Kubectl;
use crate::objects::text;

/// Asks for every right that `kubectl apply` of our manifests needs.
pub(super) async fn look(kubectl: &Kubectl, findings: &mut Findings) {
    let mut questions = String::new();
    for (group, resource, namespace) in NEEDED {
        let attributes =
            json!({"verb": "create", "group": group, "resource": resource, "namespace": namespace});
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let _infallible = writeln!(questions, "---\n{review}");
    }
    match kubectl
        .told(
            &[
                "create",
                "--validate=false",
                "--output=json",
                "--filename=-",
            ],
            &questions,
        )
        .await
    {
        Ok(answers) => judge(&answers, findings),
        Err(error) => findings.warning(
            AREA,
            "",
            (
                format!("cannot be asked: {error}"),
                "try kubectl auth can-i create deployments -n weft-system",
            ),
        ),
    }
}

fn judge(answers: &str, findings: &mut Findings) {
    // One document after another, as `kubectl create` prints them.
    let answers = serde_json::Deserializer::from_str(answers).into_iter::<Value>();
    let answers: Vec<Value> = answers.filter_map(Result::ok).collect();
    let refused = answers
        .iter()
        .filter(|answer| answer.pointer("/status/allowed") != Some(&Value::Bool(true)));
    let refused: Vec<String> = refused
        .map(|answer| text(answer, "/spec/resourceAttributes/resource").to_owned())
        .collect();
    if answers.len() < NEEDED.len() {
        let what = format!(
            "only {} of {} questions were answered",
            answers.len(),
            NEEDED.len()
        );
        findings.warning(
            AREA,
            "",
            (
                what,
                "try kubectl auth can-i create deployments -n weft-system",
            ),
        );
    } else if refused.is_empty() {
        findings.good(
            AREA,
            "",
            "you may make everything that an installation needs",
        );
    } else {
        let what = format!("you may not create {}", some(&refused));
        findings.problem(
            AREA,
            "",
            (
                what,
                "install as somebody who may: cluster-admin, or a role with these",
            ),
        );
    }
}

const AREA: &str = "rights";
/// What our manifests are made of; a test compares.
const NEEDED: [(&str, &str, &str); 13] = [
    ("", "namespaces", ""),
    ("scheduling.k8s.io", "priorityclasses", ""),
    ("rbac.authorization.k8s.io", "clusterroles", ""),
    ("rbac.authorization.k8s.io", "clusterrolebindings", ""),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "",
    ),
    ("rbac.authorization.k8s.io", "roles", "weft-system"),
    ("rbac.authorization.k8s.io", "rolebindings", "weft-system"),
    ("", "serviceaccounts", "weft-system"),
    ("", "configmaps", "weft-system"),
    ("", "services", "weft-system"),
    ("apps", "deployments", "weft-system"),
    ("policy", "poddisruptionbudgets", "weft-system"),
    ("networking.k8s.io", "networkpolicies", "weft-system"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;
    use crate::install::{InstallArgs, install};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        install: InstallArgs,
    }

    #[test]
    fn every_kind_of_the_manifests_is_asked_for() {
        let text_of = install(&Line::parse_from(["weft"]).install).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text_of).unwrap();
        let group = |object: &Value| match text(object, "/apiVersion").split_once('/') {
            Some((group, _)) => group.to_owned(),
            None => String::new(),
        };
        let plural = |object: &Value| {
            let kind = text(object, "/kind").to_ascii_lowercase();
            match kind.as_str() {
                "networkpolicy" => "networkpolicies".to_owned(),
                kind if kind.ends_with('s') => format!("{kind}es"),
                kind => format!("{kind}s"),
            }
        };
        let of = |object: &Value| {
            (
                group(object),
                plural(object),
                text(object, "/metadata/namespace").to_owned(),
            )
        };
        let needed: BTreeSet<_> = objects.iter().map(of).collect();
        let asked = NEEDED.map(|(group, resource, namespace)| {
            (group.to_owned(), resource.to_owned(), namespace.to_owned())
        });
        assert_eq!(BTreeSet::from(asked), needed);
    }

    #[test]
    fn a_right_that_is_missing_is_named() {
        let answer = |resource: &str, allowed: bool| {
            json!({"spec": {"resourceAttributes": {"resource": resource}}, "status": {"allowed": allowed}}).to_string()
        };
        let mut answers: Vec<String> = NEEDED
            .iter()
            .map(|(_, resource, _)| answer(resource, true))
            .collect();
        let mut findings = Findings::default();
        judge(&answers.join("\n"), &mut findings);
        assert_eq!(findings.bad(), Vec::<String>::new());
        answers[2] = answer("clusterroles", false);
        judge(&answers.join("\n"), &mut findings);
        assert_eq!(
            findings.bad(),
            ["Problem : you may not create clusterroles"]
        );
    }
}
