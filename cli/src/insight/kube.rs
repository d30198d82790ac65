//! Proxies in Kubernetes: their admin listeners are on the pods' loopback, which `kubectl port-forward` reaches.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Open ways to proxies; they close when it is dropped.
#[derive(Debug)]
pub(crate) struct Forwards(Vec<Forward>);

/// The way to one of them.
#[derive(Debug)]
struct Forward {
    address: SocketAddr,
    _kubectl: Child,
    _listening: JoinSet<()>,
}

impl Forwards {
    /// Opens one to each pod of `namespace` that has a proxy.
    ///
    /// # Errors
    /// kubectl is not there, fails, or finds no such pod.
    pub(crate) async fn open(namespace: &str) -> anyhow::Result<Self> {
        let pods = Command::new("kubectl")
            .args(["get", "pods", "--namespace", namespace, "--output", "json"])
            .stdin(Stdio::null())
            .output()
            .await
            .context("run kubectl, which finds the pods")?;
        ensure!(
            pods.status.success(),
            "kubectl get pods: {}",
            String::from_utf8_lossy(&pods.stderr).trim()
        );
        let pods: Value = serde_json::from_slice(&pods.stdout).context("read kubectl's answer")?;
        let names = with_proxy(&pods);
        ensure!(
            !names.is_empty(),
            "no pod of {namespace} runs with a proxy; see weft inject"
        );
        if names.len() > MAX_PODS {
            let all = names.len();
            writeln!(
                std::io::stderr(),
                "{MAX_PODS} of the {all} proxies in {namespace} are asked"
            )?;
        }
        let ways = stream::iter(names.iter().take(MAX_PODS)).map(|name| forward(namespace, name));
        Ok(Self(ways.buffered(AT_ONCE).try_collect().await?))
    }

    /// Where the admin listeners can be reached.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|way| way.address).collect()
    }
}

async fn forward(namespace: &str, pod: &str) -> anyhow::Result<Forward> {
    let mut child = Command::new("kubectl")
        .args(["port-forward", "--namespace", namespace, pod, ":15000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("run kubectl port-forward")?;
    let output = child.stdout.take().context("read what kubectl says")?;
    let mut lines = BufReader::new(output).lines();
    let address = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(address) = forwarded(&line) {
                return Ok(address);
            }
        }
        bail!("kubectl port-forward to {pod} ended")
    };
    let address = timeout(PATIENCE, address).await;
    let address = address.with_context(|| format!("no way to {pod} within {PATIENCE:?}"))??;
    // It has more to say, of each connection, and ends where nobody listens.
    let mut listening = JoinSet::new();
    listening.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(Forward {
        address,
        _kubectl: child,
        _listening: listening,
    })
}

/// `Forwarding from 127.0.0.1:40123 -> 15000`.
fn forwarded(line: &str) -> Option<SocketAddr> {
    let rest = line.strip_prefix("Forwarding from ")?;
    rest.split(' ').next()?.parse().ok()
}

/// Names of the pods that run and have our container, be it a native sidecar or a classic one.
fn with_proxy(pods: &Value) -> Vec<String> {
    let has_proxy = |pod: &&Value| {
        let lists = ["/spec/initContainers", "/spec/containers"].map(|list| at(pod, list));
        let mut containers = lists.into_iter().filter_map(Value::as_array).flatten();
        containers.any(|container| at(container, "/name") == CONTAINER)
    };
    let runs = |pod: &&Value| at(pod, "/status/phase") == "Running";
    let pods = at(pods, "/items")
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let names = pods.iter().filter(has_proxy).filter(runs);
    names
        .filter_map(|pod| Some(at(pod, "/metadata/name").as_str()?.to_owned()))
        .collect()
}

/// What stands there, or null.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

const CONTAINER: &str = "weft-proxy";
const MAX_PODS: usize = 200;
/// Ways that are opened side by side: each takes kubectl a second or so.
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_with_a_proxy_are_found_in_either_place() {
        let pod = |name: &str, list: &str, container: &str, phase: &str| json!({"metadata": {"name": name}, "spec": {list: [{"name": container}]}, "status": {"phase": phase}});
        let pods = json!({"items": [
            pod("native", "initContainers", "weft-proxy", "Running"),
            pod("classic", "containers", "weft-proxy", "Running"),
            pod("plain", "containers", "app", "Running"),
            pod("gone", "containers", "weft-proxy", "Succeeded"),
        ]});
        assert_eq!(with_proxy(&pods), ["native", "classic"]);
        let line = "Forwarding from 127.0.0.1:40123 -> 15000";
        assert_eq!(forwarded(line), Some("127.0.0.1:40123".parse().unwrap()));
        assert_eq!(forwarded("Handling connection for 1"), None);
    }
}
