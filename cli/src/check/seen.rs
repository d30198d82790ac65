//! What is looked at: the objects of the cluster, fetched once and all at a time.

use serde_json::Value;

use super::finding::Findings;
use crate::kubectl::{Kubectl, KubectlError};
use crate::objects::{Pod, name};

/// The objects; what could not be read is told, and empty.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The only namespace whose pods, services and workloads these are.
    pub(super) scope: Option<String>,
    /// Of weft-system.
    pub(super) deployments: Vec<Value>,
    pub(super) namespaces: Vec<Value>,
    pub(super) pods: Vec<Value>,
    pub(super) services: Vec<Value>,
    /// Deployments and the like, whose annotations are policy.
    pub(super) workloads: Vec<Value>,
    /// The ConfigMaps weft-ca-root of all namespaces.
    pub(super) bundles: Vec<Value>,
    /// The configuration weft-injector.
    pub(super) webhook: Option<Value>,
    /// Of the nodes, by which their clocks are known.
    pub(super) leases: Vec<Value>,
    /// What could not be read, and is empty for that.
    pub(super) unread: Vec<Kind>,
}

/// What is fetched by itself, and may be kept from us by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Deployments,
    Namespaces,
    Pods,
    Services,
    Workloads,
    Bundles,
    Webhook,
    Leases,
    /// Why the control plane is not ready, where only one namespace is looked at.
    SystemPods,
}

/// Whether there is a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installed {
    Yes,
    No,
    /// Nothing was found, but not everything could be read.
    Unknown,
}

impl Seen {
    /// Fetches all of it.
    pub(super) async fn look(
        kubectl: &Kubectl,
        namespace: Option<&str>,
        findings: &mut Findings,
    ) -> Self {
        let scope = namespace.map_or_else(
            || "--all-namespaces".to_owned(),
            |one| format!("--namespace={one}"),
        );
        let scope = scope.as_str();
        let system = format!("--namespace={SYSTEM}");
        let bundles = [
            "configmaps",
            "--all-namespaces",
            "--field-selector=metadata.name=weft-ca-root",
        ];
        let workloads =
            "deployments.apps,statefulsets.apps,daemonsets.apps,jobs.batch,cronjobs.batch";
        let leases = [
            "leases.coordination.k8s.io",
            "--namespace=kube-node-lease",
            "--show-managed-fields",
        ];
        let (deployments, namespaces, pods, services, workloads) = tokio::join!(
            get(kubectl, ["deployments.apps", &system]),
            get(kubectl, ["namespaces"]),
            get(kubectl, ["pods", scope]),
            get(kubectl, ["services", scope]),
            get(kubectl, [workloads, scope]),
        );
        let (bundles, webhook, leases, system_pods) = tokio::join!(
            get(kubectl, bundles),
            get(kubectl, ["mutatingwebhookconfigurations", "weft-injector"]),
            get(kubectl, leases),
            async {
                match namespace {
                    Some(other) if other != SYSTEM => get(kubectl, ["pods", &system]).await,
                    _ => Ok(Vec::new()),
                }
            },
        );
        let namespaces = match (namespaces, namespace) {
            // Whoever has rights in one namespace alone may still look at that.
            (Err(why), Some(one)) => get(kubectl, ["namespaces", one]).await.or(Err(why)),
            (namespaces, _) => namespaces,
        };
        let mut unread = Vec::new();
        let mut take = |kind: Kind, fetched: Result<Vec<Value>, Unread>| {
            fetched.unwrap_or_else(|why| {
                unread.push(kind);
                findings.warning("cluster", "", (why.what, &why.remedy));
                Vec::new()
            })
        };
        let mut seen = Self {
            scope: namespace.map(str::to_owned),
            deployments: take(Kind::Deployments, deployments),
            namespaces: staying(take(Kind::Namespaces, namespaces)),
            pods: take(Kind::Pods, pods),
            services: take(Kind::Services, services),
            workloads: take(Kind::Workloads, workloads),
            bundles: take(Kind::Bundles, bundles),
            webhook: take(Kind::Webhook, webhook).pop(),
            leases: take(Kind::Leases, leases),
            unread: Vec::new(),
        };
        seen.pods.extend(take(Kind::SystemPods, system_pods));
        seen.unread = unread;
        seen
    }

    /// Whether all of these could be read. Of what could not, nothing can be said; that it could not is told already.
    pub(super) fn read(&self, kinds: &[Kind]) -> bool {
        !kinds.iter().any(|kind| self.unread.contains(kind))
    }

    /// Whether there is a mesh.
    pub(super) fn installed(&self) -> Installed {
        if self.webhook.is_some() || PARTS.iter().any(|part| self.deployment(part).is_some()) {
            Installed::Yes
        } else if self.read(&[Kind::Webhook, Kind::Deployments]) {
            Installed::No
        } else if self.meshed().next().is_some() {
            // Somebody has put proxies into pods.
            Installed::Yes
        } else {
            Installed::Unknown
        }
    }

    /// A part of the control plane.
    pub(super) fn deployment(&self, part: &str) -> Option<&Value> {
        self.deployments.iter().find(|one| name(one) == part)
    }

    /// The pods of a part of the control plane.
    pub(super) fn pods_of(&self, part: &str) -> impl Iterator<Item = Pod<'_>> {
        let ours = self
            .pods
            .iter()
            .map(Pod)
            .filter(|pod| pod.namespace() == SYSTEM);
        ours.filter(move |pod| crate::objects::label(pod.0, "app.kubernetes.io/name") == Some(part))
    }

    /// The pods that have a proxy and are alive.
    pub(super) fn meshed(&self) -> impl Iterator<Item = Pod<'_>> {
        let pods = self.pods.iter().map(Pod);
        pods.filter(|pod| pod.proxy().is_some() && !pod.finished())
    }

    /// A variable of a part of the control plane.
    pub(super) fn variable(&self, part: &str, variable: &str) -> Option<&str> {
        crate::objects::variable(self.deployment(part)?, variable)
    }

    /// Whether certificates come from weft-ca, and not from istio-csr or the like.
    pub(super) fn own_authority(&self) -> bool {
        let address = self.variable("weft-injector", "WEFT_CA_ADDRESS");
        address.is_none_or(|address| address.contains("//weft-ca.weft-system."))
    }
}

/// A namespace that is being deleted takes no new pods: nothing in it is amiss.
fn staying(mut namespaces: Vec<Value>) -> Vec<Value> {
    namespaces.retain(|one| one.pointer("/metadata/deletionTimestamp").is_none());
    namespaces
}

/// Why something could not be read, and what to do.
struct Unread {
    what: String,
    remedy: String,
}

async fn get<const N: usize>(kubectl: &Kubectl, words: [&str; N]) -> Result<Vec<Value>, Unread> {
    let got = kubectl.get(&words).await;
    got.map_err(|error| unread(words.first().copied().unwrap_or_default(), &error))
}

fn unread(kinds: &str, error: &KubectlError) -> Unread {
    let missing = error.missing();
    let Some(right) = missing.first() else {
        // Of several kinds each has a line of its own, which all say the same.
        let why = error.to_string();
        let why = why.lines().next().unwrap_or_default();
        return Unread {
            what: format!("cannot read {kinds}: {why}"),
            remedy: "mend what it says, so that this can be looked at too".to_owned(),
        };
    };
    let rights: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Unread {
        what: format!("not looked at, as you may not {}", rights.join(", ")),
        remedy: format!(
            "ask for that right; {} says whether you have it",
            right.question()
        ),
    }
}

/// Where the control plane is.
pub(super) const SYSTEM: &str = "weft-system";
/// What it is made of.
pub(super) const PARTS: [&str; 3] = ["weft-ca", "weft-discovery", "weft-injector"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::staying;

    #[test]
    fn a_namespace_that_is_deleted_is_not_looked_at() {
        let shop = json!({"metadata": {"name": "shop"}});
        let gone =
            json!({"metadata": {"name": "gone", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(staying(vec![shop.clone(), gone]), [shop]);
    }
}
