//! The same as at admission, done to manifests: pods, what makes pods, and Lists of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};
use weft_policy::spiffe::TrustDomain;

use crate::around::{Around, DEFAULTS, Defaults};
use crate::patch;
use crate::pod::{self, Outcome};
use crate::problems::{Problem, Refusal};
use crate::settings::Settings;
use crate::workload::{self, Name};

/// What manifests say of what is around their pods.
#[derive(Clone, Debug)]
pub struct Known {
    trust_domain: TrustDomain,
    /// Of what names none.
    namespace: String,
    namespaces: BTreeMap<String, ObjectMeta>,
    defaults: Defaults,
}

/// What became of one document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injected {
    /// Whether it is another one now.
    pub changed: bool,
    /// A line each.
    pub notes: Vec<String>,
    /// Of it, or of several in a List.
    pub refusals: Vec<Refusal>,
}

impl Known {
    /// Knows nothing yet; what names no namespace is in `namespace`.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, namespace: &str) -> Self {
        Self {
            trust_domain,
            namespace: namespace.to_owned(),
            namespaces: BTreeMap::new(),
            defaults: Defaults::default(),
        }
    }

    /// Looks whether `document` is a Namespace or the mesh's own policy.
    pub fn learn(&mut self, document: &Value) {
        items(document).for_each(|item| self.learn(item));
        match (text(document, "/kind"), text(document, "/metadata/name")) {
            ("Namespace", name) => {
                let meta = document.get("metadata").cloned().unwrap_or_default();
                if let Ok(meta) = serde_json::from_value(meta) {
                    self.namespaces.insert(name.to_owned(), meta);
                }
            }
            ("ConfigMap", DEFAULTS) => {
                if let Ok(object) = serde_json::from_value::<ConfigMap>(document.clone()) {
                    self.defaults = Defaults {
                        namespace: text(document, "/metadata/namespace").to_owned(),
                        document: object.data.unwrap_or_default().remove("policy"),
                        annotations: object.metadata.annotations.unwrap_or_default(),
                    };
                }
            }
            _ => {}
        }
    }

    fn around(&self, namespace: &str) -> Around {
        let namespace = if namespace.is_empty() {
            &self.namespace
        } else {
            namespace
        };
        let around = Around::nothing(&self.trust_domain, namespace).with_defaults(&self.defaults);
        match self.namespaces.get(namespace) {
            Some(meta) => around.with_namespace(meta),
            None => around,
        }
    }
}

/// Puts the proxy into the pods of `document`, and leaves it alone where it has none.
pub fn inject(document: &mut Value, known: &Known, settings: &Settings) -> Injected {
    let mut done = Injected::default();
    if let Some(Value::Array(items)) = document.get_mut("items") {
        for item in items {
            let Injected {
                changed,
                notes,
                refusals,
            } = inject(item, known, settings);
            done.changed |= changed;
            done.notes.extend(notes);
            done.refusals.extend(refusals);
        }
        return done;
    }
    let kind = text(document, "/kind").to_owned();
    if let Some(template) = workload::template(&kind) {
        match inject_one(document, &kind, template, known, settings) {
            Ok((changed, notes)) => {
                done.changed = changed;
                done.notes = notes;
            }
            Err(refusal) => done.refusals.push(refusal),
        }
    }
    done
}

fn inject_one(
    document: &mut Value,
    kind: &str,
    template: &str,
    known: &Known,
    settings: &Settings,
) -> Result<(bool, Vec<String>), Refusal> {
    let name = text(document, "/metadata/name").to_owned();
    let unreadable = |reason: String| Refusal {
        subject: format!("{} {name}", kind.to_lowercase()),
        problems: vec![Problem::Pod(reason)],
    };
    let pod = document.pointer(template).cloned().unwrap_or_default();
    let pod: Pod = serde_json::from_value(pod)
        .map_err(|error| unreadable(format!("its pods cannot be read: {error}")))?;
    let around = known.around(text(document, "/metadata/namespace"));
    let called = match kind {
        "Pod" => Name::of_pod(&pod.metadata),
        _ => Name::of_template(kind, &name, &pod.metadata),
    };
    let told = |what: &dyn std::fmt::Display| format!("{}: {what}", called.shown);
    let (after, warnings) = match pod::inject(&pod, &called, &around, settings)? {
        Outcome::Left(reason) => {
            return Ok((false, vec![told(&format_args!("left alone, for {reason}"))]));
        }
        Outcome::Injected(after, warnings) => (after, warnings),
    };
    // A template may do without what a pod always has.
    if let Some(Value::Object(pod)) = document.pointer_mut(template) {
        pod.entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()));
    }
    let value =
        |pod: &Pod| serde_json::to_value(pod).map_err(|error| unreadable(error.to_string()));
    let operations = patch::difference(&value(&pod)?, &value(&after)?);
    patch::apply(document, template, &operations).map_err(|error| unreadable(error.to_string()))?;
    let notes = warnings.iter().map(|warning| told(warning)).collect();
    Ok((!operations.is_empty(), notes))
}

fn items(document: &Value) -> impl Iterator<Item = &Value> {
    document
        .get("items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text<'a>(document: &'a Value, path: &str) -> &'a str {
    document
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known() -> Known {
        Known::new(TrustDomain::parse("cluster.local").unwrap(), "shop")
    }

    fn pods() -> Value {
        json!({"spec": {"containers": [{"name": "app", "image": "a"}]}})
    }

    #[test]
    fn whatever_makes_pods_gets_the_proxy_once() {
        let mut rows = vec![
            (
                "Pod",
                json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": pods()["spec"]}),
                "",
            ),
            (
                "CronJob",
                json!({"kind": "CronJob", "metadata": {"name": "a"}, "spec": {"jobTemplate": {"spec": {"template": pods()}}}}),
                "/spec/jobTemplate/spec/template",
            ),
        ];
        for kind in [
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "ReplicaSet",
            "Job",
        ] {
            let object =
                json!({"kind": kind, "metadata": {"name": "a"}, "spec": {"template": pods()}});
            rows.push((kind, object, "/spec/template"));
        }
        for (kind, mut object, template) in rows {
            let done = inject(&mut object, &known(), &Settings::new());
            assert!(done.changed && done.refusals.is_empty(), "{kind}: {done:?}");
            let inits = object
                .pointer(&format!("{template}/spec/initContainers"))
                .unwrap();
            assert_eq!(inits[1]["name"], "weft-proxy", "{kind}");
            let quiet = inits[1]["env"]
                .as_array()
                .unwrap()
                .iter()
                .any(|one| one["name"] == "WEFT_DRAIN_QUIET");
            assert_eq!(quiet, kind.ends_with("Job"), "{kind}");
            let before = object.clone();
            let again = inject(&mut object, &known(), &Settings::new());
            assert!(!again.changed && object == before, "{kind}");
        }
    }

    #[test]
    fn lists_are_looked_into_and_what_is_around_counts() {
        let mut known = known();
        let mut list = json!({"kind": "List", "items": [
            {"kind": "Namespace", "metadata": {"name": "bank", "annotations": {"weft.dev/mtls": "strict"}}},
            {"kind": "ConfigMap", "metadata": {"name": "weft-defaults", "namespace": "weft-system"}, "data": {"policy": "proxy: {cpu: 77m}"}},
            {"kind": "Deployment", "metadata": {"name": "a", "namespace": "bank"}, "spec": {"template": pods()}},
            {"kind": "Pod", "metadata": {"name": "b", "labels": {"weft.dev/inject": "disabled"}}, "spec": {}},
            {"kind": "Pod", "metadata": {"name": "c", "annotations": {"weft.dev/timeout": "10"}}, "spec": {}},
            {"kind": "Service", "metadata": {"name": "d"}},
        ]});
        known.learn(&list);
        let done = inject(&mut list, &known, &Settings::new());
        assert!(done.changed);
        assert_eq!(
            done.notes,
            ["pod b: left alone, for its label weft.dev/inject says disabled"]
        );
        let refusals: Vec<String> = done.refusals.iter().map(ToString::to_string).collect();
        assert_eq!(
            refusals,
            [
                "1 problem in the annotations of pod c\n  weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\""
            ]
        );
        let template = &list["items"][2]["spec"]["template"];
        assert!(
            template["metadata"]["annotations"]["weft.dev/lower-layers"]
                .as_str()
                .unwrap()
                .contains("strict")
        );
        assert_eq!(
            template["spec"]["initContainers"][1]["resources"]["requests"]["cpu"],
            "77m"
        );
    }
}
