//! The manifests that are built into this program: the files of the Kustomize base, and the overlays.

use anyhow::Context as _;
use serde_json::Value;

/// A file by its name in its folder.
pub(super) type File = (&'static str, &'static str);

/// Those of `manifests/base` that its kustomization lists, in its order.
pub(super) const BASE: &[File] = &[
    (
        "namespace.yaml",
        include_str!("../../../manifests/base/namespace.yaml"),
    ),
    (
        "priority.yaml",
        include_str!("../../../manifests/base/priority.yaml"),
    ),
    (
        "ca-rbac.yaml",
        include_str!("../../../manifests/base/ca-rbac.yaml"),
    ),
    (
        "discovery-rbac.yaml",
        include_str!("../../../manifests/base/discovery-rbac.yaml"),
    ),
    (
        "injector-rbac.yaml",
        include_str!("../../../manifests/base/injector-rbac.yaml"),
    ),
    (
        "defaults.yaml",
        include_str!("../../../manifests/base/defaults.yaml"),
    ),
    ("ca.yaml", include_str!("../../../manifests/base/ca.yaml")),
    (
        "discovery.yaml",
        include_str!("../../../manifests/base/discovery.yaml"),
    ),
    (
        "injector.yaml",
        include_str!("../../../manifests/base/injector.yaml"),
    ),
    (
        "disruption.yaml",
        include_str!("../../../manifests/base/disruption.yaml"),
    ),
    (
        "network.yaml",
        include_str!("../../../manifests/base/network.yaml"),
    ),
    (
        "webhook.yaml",
        include_str!("../../../manifests/base/webhook.yaml"),
    ),
];

/// The overlay `ha`: its kustomization and what that one names.
pub(super) const HA: [File; 2] = [
    (
        "kustomization.yaml",
        include_str!("../../../manifests/overlays/ha/kustomization.yaml"),
    ),
    (
        "deployments.yaml",
        include_str!("../../../manifests/overlays/ha/deployments.yaml"),
    ),
];

/// The overlay `dev`.
pub(super) const DEV: [File; 2] = [
    (
        "kustomization.yaml",
        include_str!("../../../manifests/overlays/dev/kustomization.yaml"),
    ),
    (
        "deployments.yaml",
        include_str!("../../../manifests/overlays/dev/deployments.yaml"),
    ),
];

/// The component `ztunnel`: what the authority may do besides where proxies of nodes take certificates from it.
const ZTUNNEL: File = (
    "ca-pods-rbac.yaml",
    include_str!("../../../manifests/ztunnel/ca-pods-rbac.yaml"),
);

/// The objects of the base.
///
/// # Errors
/// None that a test has not found.
pub(super) fn base() -> anyhow::Result<Vec<Value>> {
    read(BASE)
}

/// The objects that the component `ztunnel` adds.
///
/// # Errors
/// None that a test has not found.
pub(super) fn ztunnel() -> anyhow::Result<Vec<Value>> {
    read(&[ZTUNNEL])
}

fn read(files: &[File]) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for (name, text) in files {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).with_context(|| format!("read {name}"))?;
        objects.extend(documents);
    }
    Ok(objects)
}
