//! Objects of Kubernetes as `kubectl` prints them: what we ask of them, by name.

use serde_json::Value;

/// A namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace<'a>(pub(crate) &'a Value);

/// A pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod<'a>(pub(crate) &'a Value);

impl<'a> Namespace<'a> {
    pub(crate) fn name(self) -> &'a str {
        name(self.0)
    }

    /// Whether its pods get a proxy.
    pub(crate) fn injects(self) -> bool {
        label(self.0, INJECT) == Some("enabled") && !Self::is_excluded(self.name())
    }

    /// Whether the webhook looks at nothing there, whatever the labels say.
    pub(crate) fn is_excluded(name: &str) -> bool {
        EXCLUDED.contains(&name)
    }
}

impl<'a> Pod<'a> {
    pub(crate) fn name(self) -> &'a str {
        name(self.0)
    }

    pub(crate) fn namespace(self) -> &'a str {
        text(self.0, "/metadata/namespace")
    }

    /// `namespace/name`.
    pub(crate) fn place(self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    pub(crate) fn annotation(self, name: &str) -> Option<&'a str> {
        self.0.pointer("/metadata/annotations")?.get(name)?.as_str()
    }

    /// What it says itself of being injected.
    pub(crate) fn asks(self) -> Option<&'a str> {
        label(self.0, INJECT)
    }

    /// Our container, be it a native sidecar or a classic one.
    pub(crate) fn proxy(self) -> Option<&'a Value> {
        let lists = ["/spec/initContainers", "/spec/containers"];
        let containers = lists.into_iter().flat_map(|list| array(self.0, list));
        containers
            .into_iter()
            .find(|one| name_of(one) == "weft-proxy")
    }

    /// The state of one of its containers.
    pub(crate) fn status(self, container: &str) -> Option<&'a Value> {
        let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
        let statuses = lists.into_iter().flat_map(|list| array(self.0, list));
        statuses.into_iter().find(|one| name_of(one) == container)
    }

    pub(crate) fn host_network(self) -> bool {
        self.0
            .pointer("/spec/hostNetwork")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// Whether it has ended, or is ending.
    pub(crate) fn finished(self) -> bool {
        matches!(text(self.0, "/status/phase"), "Succeeded" | "Failed")
            || self.0.pointer("/metadata/deletionTimestamp").is_some()
    }

    pub(crate) fn running(self) -> bool {
        text(self.0, "/status/phase") == "Running" && !self.finished()
    }

    pub(crate) fn ready(self) -> bool {
        let conditions = array(self.0, "/status/conditions");
        let ready = |one: &Value| text(one, "/type") == "Ready" && text(one, "/status") == "True";
        self.running() && conditions.iter().any(ready)
    }
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// A text, or nothing.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A list, or an empty one.
pub(crate) fn array<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// The value of a variable of a Deployment's containers.
pub(crate) fn variable<'a>(deployment: &'a Value, name: &str) -> Option<&'a str> {
    let containers = array(deployment, "/spec/template/spec/containers");
    containers.iter().find_map(|one| variable_of(one, name))
}

/// The value of a variable of a container.
pub(crate) fn variable_of<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let mut variables = array(container, "/env").iter();
    let found = variables.find(|one| text(one, "/name") == name)?;
    found.get("value")?.as_str()
}

/// A label.
pub(crate) fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(name)?.as_str()
}

/// The tag of an image: `registry:5000/name:tag@sha256:...`.
pub(crate) fn tag(image: &str) -> Option<&str> {
    let image = image.split('@').next()?;
    let name = image.rsplit('/').next()?;
    name.split_once(':').map(|(_, tag)| tag)
}

fn name_of(container: &Value) -> &str {
    text(container, "/name")
}

const INJECT: &str = "weft.dev/inject";
/// Where the webhook looks at nothing, whatever the labels say.
const EXCLUDED: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "weft-system",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_tell_of_their_proxy_and_state() {
        let object = json!({
            "metadata": {"name": "a", "namespace": "shop", "labels": {"weft.dev/inject": "disabled"}},
            "spec": {"initContainers": [{"name": "weft-proxy", "image": "x"}], "hostNetwork": true},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "initContainerStatuses": [{"name": "weft-redirect", "ready": true}]},
        });
        let pod = Pod(&object);
        assert_eq!(pod.place(), "shop/a");
        assert_eq!(pod.proxy().unwrap()["image"], "x");
        assert_eq!(pod.asks(), Some("disabled"));
        assert!(pod.host_network() && pod.running() && pod.ready() && !pod.finished());
        assert!(pod.status("weft-redirect").is_some() && pod.status("app").is_none());
        let ending =
            json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}});
        assert!(Pod(&ending).finished() && !Pod(&ending).running());
    }

    #[test]
    fn the_label_counts_only_where_the_webhook_looks() {
        let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"weft.dev/inject": "enabled"}}});
        assert!(Namespace(&namespace("shop")).injects());
        assert!(!Namespace(&namespace("kube-system")).injects());
    }

    #[test]
    fn versions_are_tags_of_images() {
        let rows = [
            ("weft.dev/weft:0.1.0", Some("0.1.0")),
            ("registry.test:5000/a/weft:2@sha256:ab", Some("2")),
            ("registry.test:5000/weft", None),
        ];
        for (image, want) in rows {
            assert_eq!(tag(image), want, "{image}");
        }
    }
}
