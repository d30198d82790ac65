//! `weft version`: of this program, of the control plane, of the proxies.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::explain::Output;
use crate::kubectl::{ClusterArgs, Kubectl, KubectlError};
use crate::objects::{Pod, array, name, tag, text};

/// Which versions.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionArgs {
    /// Only of this program: asks no cluster
    #[arg(long)]
    pub(crate) client: bool,
    /// For people, or for programs
    #[arg(long, short, default_value = "text")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// How many there are of each version.
type Counts = BTreeMap<String, usize>;

/// Tells the versions; a cluster that does not answer is told of too.
pub(crate) async fn run(args: &VersionArgs) -> String {
    let asked = match args.client {
        true => None,
        false => Some(
            ask(&Kubectl::new(&args.cluster))
                .await
                .map_err(|error| error.to_string()),
        ),
    };
    match args.output {
        Output::Text => told(asked.as_ref()),
        Output::Json => format!("{:#}\n", as_json(asked.as_ref())),
    }
}

async fn ask(kubectl: &Kubectl) -> Result<(Counts, Counts), KubectlError> {
    let deployments = kubectl
        .get(&[
            "deployments.apps",
            "--namespace=weft-system",
            "--selector=app.kubernetes.io/part-of=weft",
        ])
        .await?;
    let pods = kubectl.get(&["pods", "--all-namespaces"]).await?;
    Ok((parts(&deployments), proxies(&pods)))
}

fn parts(deployments: &[Value]) -> Counts {
    let version = |one: &Value| {
        let container = array(one, "/spec/template/spec/containers").first()?;
        Some((
            format!("{} {}", name(one), tag(text(container, "/image"))?),
            1,
        ))
    };
    deployments.iter().filter_map(version).collect()
}

fn proxies(pods: &[Value]) -> Counts {
    let mut counts = Counts::new();
    for pod in pods.iter().map(Pod).filter(|pod| !pod.finished()) {
        if let Some(proxy) = pod.proxy() {
            let version = tag(text(proxy, "/image")).unwrap_or("unknown");
            *counts.entry(version.to_owned()).or_default() += 1;
        }
    }
    counts
}

type Asked<'a> = Option<&'a Result<(Counts, Counts), String>>;

fn told(asked: Asked<'_>) -> String {
    let mut text = format!("weft {OURS}\n");
    match asked {
        None => {}
        Some(Err(why)) => {
            let _infallible = writeln!(text, "the cluster could not be asked: {why}");
        }
        Some(Ok((parts, proxies))) => {
            if parts.is_empty() {
                text.push_str("no control plane in this cluster\n");
            }
            for part in parts.keys() {
                let _infallible = writeln!(text, "{part}");
            }
            for (version, count) in proxies {
                let _infallible = writeln!(text, "weft-proxy {version} ({count} pods)");
            }
        }
    }
    text
}

fn as_json(asked: Asked<'_>) -> Value {
    match asked {
        None => json!({"weft": OURS}),
        Some(Err(why)) => json!({"weft": OURS, "error": why}),
        Some(Ok((parts, proxies))) => {
            let parts: BTreeMap<&str, &str> = parts
                .keys()
                .filter_map(|part| part.split_once(' '))
                .collect();
            json!({"weft": OURS, "control_plane": parts, "proxies": proxies})
        }
    }
}

const OURS: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_counted_by_version() {
        let pod = |image: &str| json!({"spec": {"initContainers": [{"name": "weft-proxy", "image": image}]}});
        let plain = json!({"spec": {"containers": [{"name": "app", "image": "a:1"}]}});
        let counts = proxies(&[pod("w:1"), pod("w:2"), pod("w:1"), plain]);
        let deployments = [
            json!({"metadata": {"name": "weft-ca"}, "spec": {"template": {"spec": {"containers": [{"image": "w:2"}]}}}}),
        ];
        let asked = Ok((parts(&deployments), counts));
        let want =
            format!("weft {OURS}\nweft-ca 2\nweft-proxy 1 (2 pods)\nweft-proxy 2 (1 pods)\n");
        assert_eq!(told(Some(&asked)), want);
        assert_eq!(as_json(Some(&asked))["proxies"]["1"], 2);
        assert_eq!(told(None), format!("weft {OURS}\n"));
    }
}
