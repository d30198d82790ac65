//! Before an installation: is there a cluster, is it new enough, may we.

use serde_json::Value;

use super::finding::Findings;
use super::rights;
use super::seen::{Installed, Seen};
use crate::kubectl::Kubectl;
use crate::objects::text;

/// Whether the API server answers, and which it is.
pub(super) async fn reach(kubectl: &Kubectl, findings: &mut Findings) -> bool {
    match kubectl.json(&["version", "--output=json"]).await {
        Ok(answer) if answer.get("serverVersion").is_some() => {
            version(&answer, findings);
            true
        }
        Ok(_) => {
            let what = "the API server does not answer".to_owned();
            findings.problem(AREA, "", (what, "look at kubectl cluster-info"));
            false
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            findings.problem(AREA, "", (format!("{error:#}"), "kubectl must reach the cluster: look at kubectl cluster-info, or name one with --context"));
            false
        }
    }
}

fn version(answer: &Value, findings: &mut Findings) {
    let digits = |pointer| {
        text(answer, pointer)
            .trim_end_matches('+')
            .parse::<u32>()
            .unwrap_or(0)
    };
    let (major, minor) = (
        digits("/serverVersion/major"),
        digits("/serverVersion/minor"),
    );
    let what = format!("Kubernetes {major}.{minor}");
    if (major, minor) >= (1, OLDEST) && (major, minor) < (1, CONDITIONS) {
        let what = format!(
            "{what} has no matchConditions of webhooks (beta from 1.28, stable in 1.30): the injector is asked about pods of the node's own network \
             too. It leaves them alone, but those of labelled namespaces cannot be made while it is away"
        );
        let remedy = "use 1.28 or newer, or have no such pods in namespaces of the mesh";
        findings.warning(AREA, "", (what, remedy));
    }
    match (major, minor) {
        (1, ..OLDEST) | (0, _) => {
            let what = format!("{what} is older than 1.{OLDEST}, with which nothing was tried");
            findings.problem(AREA, "", (what, "use a newer cluster"));
        }
        (1, ..NATIVE) => {
            let what = format!(
                "{what} has no native sidecars: proxies are ordinary containers, and start and end beside their app"
            );
            findings.warning(
                AREA,
                "",
                (
                    what,
                    "use 1.29 or newer, where a proxy starts before its app and ends after it",
                ),
            );
        }
        _ => findings.good(AREA, "", what),
    }
}

/// Whether a mesh can be installed.
pub(super) async fn look(kubectl: &Kubectl, seen: &Seen, findings: &mut Findings) {
    rights::look(kubectl, findings).await;
    let area = "installation";
    match seen.installed() {
        Installed::Unknown => {
            let what = "whether one is there cannot be seen".to_owned();
            findings.warning(area, "", (what, "ask for the rights that are named above"));
        }
        Installed::Yes => {
            let what = "a mesh is installed already: weft upgrade says what a newer one changes";
            findings.good(area, "", what);
        }
        Installed::No => {
            let what = "nothing is installed yet: weft install | kubectl apply -f -";
            findings.good(area, "", what);
        }
    }
}

const AREA: &str = "cluster";
/// Its API server knows every field of our manifests, if only to drop some.
const OLDEST: u32 = 27;
/// `AdmissionWebhookMatchConditions` (KEP-3716) is on from here: alpha in 1.27, beta in 1.28, stable in 1.30.
const CONDITIONS: u32 = 28;
/// KEP-753 is on from here.
const NATIVE: u32 = 29;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_that_lack_something_are_told() {
        let rows: [(&str, &[&str]); 5] = [
            ("37", &[]),
            ("29+", &[]),
            ("28", &["Warning : Kubernetes 1.28 has no native sidecars"]),
            (
                "27",
                &[
                    "Warning : Kubernetes 1.27 has no matchConditions",
                    "Warning : Kubernetes 1.27 has no native sidecars",
                ],
            ),
            ("26", &["Problem : Kubernetes 1.26 is older than 1.27"]),
        ];
        for (minor, want) in rows {
            let mut findings = Findings::default();
            version(
                &json!({"serverVersion": {"major": "1", "minor": minor}}),
                &mut findings,
            );
            let bad = findings.bad();
            assert_eq!(bad.len(), want.len(), "{minor}: {bad:?}");
            let mut pairs = bad.iter().zip(want);
            assert!(
                pairs.all(|(bad, want)| bad.starts_with(want)),
                "{minor}: {bad:?}"
            );
        }
    }
}
