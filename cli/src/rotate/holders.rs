//! Who holds roots and leafs, and what each has: by their metrics, which the API server fetches.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Fingerprints;
use crate::kubectl::Kubectl;
use crate::objects::{Pod, label};

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// That this root is trusted.
    Root(String),
    /// That the leaf is under this root.
    Leaf(String),
    /// That none of these roots is trusted any more.
    Without(Fingerprints),
}

/// A pod that is not there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// `namespace/name`.
    place: String,
    /// What keeps us from knowing.
    unknown: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unknown {
            None => f.write_str(&self.place),
            Some(why) => write!(f, "{} ({why})", self.place),
        }
    }
}

/// All that are ready and hold a leaf: the pods with a proxy, and those of the control plane. With the port of their metrics.
pub(super) fn asked(pods: &[Value], system: &str) -> Vec<(String, u16)> {
    let port = |pod: Pod<'_>| {
        let part = label(pod.0, "app.kubernetes.io/name").unwrap_or_default();
        let ours = pod.namespace() == system && PARTS.contains(&part);
        match (pod.proxy(), ours) {
            (Some(_), _) => Some(PROXY),
            (None, true) => Some(CONTROL),
            (None, false) => None,
        }
    };
    let ready = pods.iter().map(Pod).filter(|pod| pod.ready());
    ready
        .filter_map(|pod| Some((pod.place(), port(pod)?)))
        .collect()
}

/// What a pod says, or why it says nothing.
pub(super) type Answer = (String, Result<String, String>);

/// Fetches the metrics of each.
pub(super) async fn ask(kubectl: &Kubectl, pods: &[(String, u16)]) -> Vec<Answer> {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut asked = JoinSet::new();
    for (pod, port) in pods.iter().cloned() {
        let (kubectl, places) = (kubectl.clone(), Arc::clone(&places));
        asked.spawn(async move {
            let _place = places.acquire_owned().await;
            let (namespace, name) = pod.split_once('/').unwrap_or_default();
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics");
            let text = kubectl.text(&["get", "--raw", &path]).await;
            (pod, text.map_err(|error| error.to_string()))
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by(|one, other| one.0.cmp(&other.0));
    answers
}

/// Those who have not what is wanted, or do not say.
pub(super) fn missing(answers: Vec<Answer>, want: &Want) -> Vec<Holder> {
    let judged = answers.into_iter().filter_map(|(place, answer)| {
        let unknown = match answer {
            Ok(text) => judge(&text, want)?,
            Err(why) => Some(format!("cannot be asked: {why}")),
        };
        Some(Holder { place, unknown })
    });
    judged.collect()
}

/// Nothing if all is well; otherwise what is unknown, if that is it.
fn judge(metrics: &str, want: &Want) -> Option<Option<String>> {
    let roots = fingerprints(metrics, "weft_identity_root_info");
    // A webhook with a certificate of its own takes no part in the mesh's roots.
    if roots.is_empty() && metrics.contains("\nweft_injector_namespaces ") {
        return None;
    }
    if roots.is_empty() {
        return Some(Some("does not say which roots it trusts".to_owned()));
    }
    let has = match want {
        Want::Root(root) => roots.contains(root),
        Want::Leaf(root) => fingerprints(metrics, "weft_identity_issuer_info").contains(root),
        Want::Without(old) => roots.is_disjoint(old),
    };
    (!has).then_some(None)
}

/// The label of all samples of a metric that are 1.
fn fingerprints(metrics: &str, metric: &str) -> Fingerprints {
    let fingerprint = |line: &str| {
        let rest = line.strip_prefix(metric)?.strip_prefix("{fingerprint=\"")?;
        let (fingerprint, value) = rest.split_once("\"}")?;
        let value: f64 = value.trim().parse().ok()?;
        (value > 0.0).then(|| fingerprint.to_owned())
    };
    metrics.lines().filter_map(fingerprint).collect()
}

/// The parts of the control plane that have a leaf, or make them.
const PARTS: [&str; 3] = ["weft-ca", "weft-discovery", "weft-injector"];
const PROXY: u16 = 15020;
pub(super) const CONTROL: u16 = 15014;
const AT_A_TIME: usize = 8;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_ready_and_has_a_leaf_is_asked() {
        let pod = |name: &str, namespace: &str, part: &str, container: &str, ready: &str| {
            json!({
                "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/name": part}},
                "spec": {"containers": [{"name": container}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let pods = [
            pod("ca", "weft-system", "weft-ca", "weft-ca", "True"),
            pod("web", "shop", "web", "weft-proxy", "True"),
            pod("starting", "shop", "web", "weft-proxy", "False"),
            pod("plain", "shop", "weft-ca", "app", "True"),
        ];
        let asked = asked(&pods, "weft-system");
        let want = [("weft-system/ca", CONTROL), ("shop/web", PROXY)];
        assert_eq!(asked, want.map(|(place, port)| (place.to_owned(), port)));
    }

    #[test]
    fn who_lacks_a_root_is_named_and_so_is_who_does_not_say() {
        let text = |roots: &[&str], issuer: &str| {
            let roots: String = roots
                .iter()
                .map(|root| format!("weft_identity_root_info{{fingerprint=\"{root}\"}} 1\n"))
                .collect();
            format!("# HELP x y\n{roots}weft_identity_issuer_info{{fingerprint=\"{issuer}\"}} 1\n")
        };
        let answers = || {
            vec![
                ("a/old".to_owned(), Ok(text(&["old"], "old"))),
                ("b/both".to_owned(), Ok(text(&["old", "new"], "old"))),
                ("c/new".to_owned(), Ok(text(&["new"], "new"))),
                ("d/silent".to_owned(), Err("refused".to_owned())),
                ("e/other".to_owned(), Ok("up 1\n".to_owned())),
                (
                    "f/webhook".to_owned(),
                    Ok("# x\nweft_injector_namespaces 3\n".to_owned()),
                ),
            ]
        };
        let rows: [(Want, &[&str]); 3] = [
            (Want::Root("new".to_owned()), &["a/old"]),
            (Want::Leaf("new".to_owned()), &["a/old", "b/both"]),
            (
                Want::Without(["old".to_owned()].into()),
                &["a/old", "b/both"],
            ),
        ];
        for (want, named) in rows {
            let missing = missing(answers(), &want);
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let mut wanted: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
            wanted.push("d/silent (cannot be asked: refused)".to_owned());
            wanted.push("e/other (does not say which roots it trusts)".to_owned());
            assert_eq!(names, wanted, "{want:?}");
        }
    }
}
