//! What is looked at: the objects of the cluster, fetched once and all at a time.

use serde_json::Value;

use super::finding::Findings;
use crate::kubectl::Kubectl;
use crate::objects::{Pod, array, name, text};

/// The objects; what could not be read is told, and empty.
#[derive(Debug, Default)]
pub(super) struct Seen {
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
        let (deployments, namespaces, mut pods, services, workloads) = tokio::join!(
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
        if let (Ok(pods), Ok(system)) = (&mut pods, system_pods) {
            pods.extend(system);
        }
        let mut take = |fetched: Result<Vec<Value>, String>| {
            fetched.unwrap_or_else(|why| {
                findings.warning(
                    "cluster",
                    "",
                    (
                        why,
                        "ask for the right to read it, so that this can be looked at too",
                    ),
                );
                Vec::new()
            })
        };
        Self {
            deployments: take(deployments),
            namespaces: take(namespaces),
            pods: take(pods),
            services: take(services),
            workloads: take(workloads),
            bundles: take(bundles),
            webhook: take(webhook).pop(),
            leases: take(leases),
        }
    }

    /// Whether there is a mesh.
    pub(super) fn installed(&self) -> bool {
        self.webhook.is_some() || PARTS.iter().any(|part| self.deployment(part).is_some())
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
        let containers = array(self.deployment(part)?, "/spec/template/spec/containers");
        let mut variables = containers.iter().flat_map(|one| array(one, "/env"));
        let found = variables.find(|one| text(one, "/name") == variable)?;
        found.get("value")?.as_str()
    }

    /// Whether certificates come from weft-ca, and not from istio-csr or the like.
    pub(super) fn own_authority(&self) -> bool {
        let address = self.variable("weft-injector", "WEFT_CA_ADDRESS");
        address.is_none_or(|address| address.contains("//weft-ca.weft-system."))
    }
}

async fn get<const N: usize>(kubectl: &Kubectl, words: [&str; N]) -> Result<Vec<Value>, String> {
    let got = kubectl.get(&words).await;
    got.map_err(|error| {
        // Of several kinds each has a line of its own, which all say the same.
        let why = error.to_string();
        let why = why.lines().next().unwrap_or_default();
        format!(
            "cannot read {}: {why}",
            words.first().copied().unwrap_or_default()
        )
    })
}

/// Where the control plane is.
pub(super) const SYSTEM: &str = "weft-system";
/// What it is made of.
pub(super) const PARTS: [&str; 3] = ["weft-ca", "weft-discovery", "weft-injector"];
