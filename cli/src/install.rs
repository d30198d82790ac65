//! `weft install`, `weft upgrade`, `weft uninstall`: what Kubernetes is to be told, for `kubectl apply -f -` and `kubectl delete -f -`.
//!
//! It is the Kustomize base and its overlays in `manifests`, which are built into this program, with values filled in. Nothing here
//! changes a cluster.

mod carried;
mod difference;
mod domain;
mod files;
mod overlay;
pub(crate) mod remove;
pub(crate) mod upgrade;
pub(crate) mod values;
mod yaml;

use clap::Args;
use serde_json::Value;

use self::values::Choices;
use crate::kubectl::ClusterArgs;

/// What is to be installed.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = AFTER)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) choices: Choices,
}

/// What is to be installed in place of what is there.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(
    after_help = "What was chosen at the installation stays unless it is said anew. What changes is told on standard error:\n  weft upgrade | kubectl apply -f -"
)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    pub(crate) choices: Choices,
    /// Only tell what would change
    #[arg(long)]
    pub(crate) diff: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Where it is to be removed from.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(
    after_help = "It removes nothing by itself:\n  weft uninstall | kubectl delete --ignore-not-found -f -"
)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// All objects with values filled in, as YAML.
///
/// # Errors
/// A value that means nothing.
pub(crate) fn install(args: &InstallArgs) -> anyhow::Result<String> {
    Ok(yaml::documents(&objects(&args.choices)?))
}

/// All objects with values filled in, in the order in which they are to be made.
fn objects(choices: &Choices) -> anyhow::Result<Vec<Value>> {
    let mut objects = files::base()?;
    overlay::patch(&mut objects, choices.overlay())?;
    if choices.trusts_nodes() {
        objects.extend(files::ztunnel()?);
    }
    choices.fill(&mut objects)?;
    Ok(objects)
}

/// What tells one object from another.
fn id(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").unwrap_or_default();
    let kind = text("/kind").unwrap_or_default();
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

const AFTER: &str = "It changes nothing by itself:\n  weft install | kubectl apply -f -\n
Settings, with their part ca, discovery, injector, or all:
  --set all.WEFT_LOG=debug           a variable: see docs/ca.md, docs/discovery.md, docs/injection.md
  --set injector.replicas=3          how many
  --set discovery.memory-limit=1Gi   also cpu, memory, cpu-limit";

#[cfg(test)]
mod tests;
