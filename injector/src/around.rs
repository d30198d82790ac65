//! What is around a pod: the layers of policy under its own, and its namespace's labels.
//!
//! Layers that cannot be used are left out and told of; they are no fault of the pod's. Layers of the workload are discovery's to tell.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_policy::layer::{Layer, LayerKind};
use weft_policy::problem::Problem;
use weft_policy::scope::Scope;
use weft_policy::spiffe::TrustDomain;

/// Of one namespace.
#[derive(Clone, Debug)]
pub struct Around {
    /// Of the pod's policy.
    pub scope: Scope,
    /// The weakest first.
    pub layers: Vec<Layer>,
    /// Of the namespace.
    pub labels: BTreeMap<String, String>,
    /// What could not be used.
    pub warnings: Vec<String>,
}

impl Around {
    /// Knows nothing but the name of the namespace.
    #[must_use]
    pub fn nothing(trust_domain: &TrustDomain, namespace: &str) -> Self {
        Self {
            scope: Scope {
                trust_domain: trust_domain.clone(),
                namespace: namespace.to_owned(),
            },
            layers: Vec::new(),
            labels: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Adds the mesh's own policy: the document and the annotations of the ConfigMap `weft-defaults`.
    #[must_use]
    pub fn with_defaults(mut self, defaults: &Defaults) -> Self {
        let mut annotations: Vec<(&str, &str)> = ours(&defaults.annotations);
        annotations.extend(defaults.document.as_deref().map(|text| (DOCUMENT, text)));
        let object = format!("{}/{DEFAULTS}", defaults.namespace);
        self.add(LayerKind::Mesh, object, &annotations);
        self
    }

    /// Adds the namespace itself.
    #[must_use]
    pub fn with_namespace(mut self, meta: &ObjectMeta) -> Self {
        let annotations = meta.annotations.clone().unwrap_or_default();
        let object = self.scope.namespace.clone();
        self.add(LayerKind::Namespace, object, &ours(&annotations));
        self.labels = meta.labels.clone().unwrap_or_default();
        self
    }

    fn add(&mut self, kind: LayerKind, object: String, annotations: &[(&str, &str)]) {
        let layer =
            Layer::from_annotations(kind, &*object, annotations.iter().copied(), &self.scope);
        match layer {
            Ok(layer) if layer.is_empty() => {}
            Ok(layer) => self.layers.push(layer),
            Err(problems) => self.warnings.push(unusable(kind, &object, &problems)),
        }
    }
}

/// What the ConfigMap `weft-defaults` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Where it is.
    pub namespace: String,
    /// Under the key `policy`.
    pub document: Option<String>,
    /// Of the ConfigMap.
    pub annotations: BTreeMap<String, String>,
}

fn ours(annotations: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    let all = annotations.iter();
    all.map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

fn unusable(kind: LayerKind, object: &str, problems: &[Problem]) -> String {
    let first = problems
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let more = match problems.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    format!("the {kind} layer, {object}, is not used: {first}{more}")
}

/// The ConfigMap with the mesh's own policy.
pub(crate) const DEFAULTS: &str = "weft-defaults";
const DOCUMENT: &str = "weft.dev/policy";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_and_bad_ones_told_of() {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let defaults = Defaults {
            namespace: "weft-system".to_owned(),
            document: Some("retry: 3".to_owned()),
            annotations: text(&[("weft.dev/timeout", "1s"), ("a", "b")]),
        };
        let meta = ObjectMeta {
            annotations: Some(text(&[("weft.dev/mtls", "loose"), ("weft.dev/a", "b")])),
            labels: Some(text(&[("x", "y")])),
            ..ObjectMeta::default()
        };
        let around = Around::nothing(&domain, "shop")
            .with_defaults(&defaults)
            .with_namespace(&meta);
        assert_eq!(around.layers.len(), 1);
        assert_eq!(around.layers[0].object, "weft-system/weft-defaults");
        assert_eq!(around.labels, text(&[("x", "y")]));
        assert_eq!(around.warnings.len(), 1);
        let warning = &around.warnings[0];
        assert!(
            warning.starts_with("the namespace layer, shop, is not used: weft.dev/"),
            "{warning}"
        );
        assert!(warning.ends_with("(and 1 more)"), "{warning}");
    }
}
