//! How `weft` talks to a cluster: through `kubectl`, with its settings and its rights, and with deadlines.

pub(crate) mod right;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use self::right::Right;

/// Which cluster.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterArgs {
    /// The kubeconfig file, as kubectl takes it
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// Runs `kubectl`.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    cluster: ClusterArgs,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubectlError {
    #[error("kubectl cannot be run; it must be in PATH")]
    Start { source: std::io::Error },
    #[error("kubectl {what}: cut off")]
    Pipe {
        what: String,
        source: std::io::Error,
    },
    #[error("kubectl {what}: no answer within {DEADLINE:?}")]
    Deadline { what: String },
    #[error("kubectl {what}: {said}")]
    Failed { what: String, said: String },
    #[error("kubectl {what}: its answer is no JSON")]
    Answer {
        what: String,
        source: serde_json::Error,
    },
}

impl KubectlError {
    /// The rights for want of which it failed; none where it failed for another reason.
    pub(crate) fn missing(&self) -> BTreeSet<Right> {
        match self {
            Self::Failed { said, .. } => Right::missing(said),
            _ => BTreeSet::new(),
        }
    }
}

impl Kubectl {
    /// For this cluster.
    pub(crate) fn new(cluster: &ClusterArgs) -> Self {
        Self {
            cluster: cluster.clone(),
        }
    }

    /// What a command prints.
    ///
    /// # Errors
    /// It cannot be run, fails, or takes longer than [`DEADLINE`] (30 s).
    pub(crate) async fn text(&self, words: &[&str]) -> Result<String, KubectlError> {
        self.run(words, None).await
    }

    /// What a command prints that is given `input`.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub(crate) async fn told(&self, words: &[&str], input: &str) -> Result<String, KubectlError> {
        self.run(words, Some(input)).await
    }

    /// What a command answers as JSON.
    ///
    /// # Errors
    /// As [`Self::text`], or it is no JSON.
    pub(crate) async fn json(&self, words: &[&str]) -> Result<Value, KubectlError> {
        parsed(words, &self.text(words).await?)
    }

    /// The objects that `get` finds: what stands under `items`, or the one.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub(crate) async fn get(&self, words: &[&str]) -> Result<Vec<Value>, KubectlError> {
        let words = [&["get"], words, &["--ignore-not-found", "--output=json"]].concat();
        let text = self.text(&words).await?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        Ok(items(parsed(&words, &text)?))
    }

    async fn run(&self, words: &[&str], input: Option<&str>) -> Result<String, KubectlError> {
        let what = || words.first().copied().unwrap_or_default().to_owned();
        let answered = timeout(DEADLINE, self.exchange(words, input, &what)).await;
        answered.unwrap_or_else(|_elapsed| Err(KubectlError::Deadline { what: what() }))
    }

    async fn exchange(
        &self,
        words: &[&str],
        input: Option<&str>,
        what: &impl Fn() -> String,
    ) -> Result<String, KubectlError> {
        let mut child = self.start(words, input.is_some())?;
        let pipe = |source| KubectlError::Pipe {
            what: what(),
            source,
        };
        let to = child.stdin.take();
        let writing = async {
            if let (Some(mut to), Some(input)) = (to, input) {
                // It may end before it has read everything, and then says why by itself.
                let _ended = to.write_all(input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(writing, child.wait_with_output());
        let output = output.map_err(pipe)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(KubectlError::Failed {
                what: what(),
                said: without_prefix(said.trim()).to_owned(),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn start(&self, words: &[&str], told: bool) -> Result<Child, KubectlError> {
        let mut command = Command::new("kubectl");
        if let Some(file) = &self.cluster.kubeconfig {
            command.arg("--kubeconfig").arg(file);
        }
        if let Some(context) = &self.cluster.context {
            command.arg("--context").arg(context);
        }
        command
            .args(words)
            .arg(format!("--request-timeout={}s", REQUEST.as_secs()))
            .stdin(if told { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
            .spawn()
            .map_err(|source| KubectlError::Start { source })
    }
}

fn parsed(words: &[&str], text: &str) -> Result<Value, KubectlError> {
    serde_json::from_str(text).map_err(|source| KubectlError::Answer {
        what: words.first().copied().unwrap_or_default().to_owned(),
        source,
    })
}

/// What a list holds, or the one object that is none.
pub(crate) fn items(answer: Value) -> Vec<Value> {
    match answer {
        Value::Object(mut object) if object.contains_key("items") => match object.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        Value::Null => Vec::new(),
        one => vec![one],
    }
}

/// kubectl's own beginning says no more than that it failed.
fn without_prefix(said: &str) -> &str {
    let said = said.strip_prefix("error: ").unwrap_or(said);
    said.strip_prefix("Error from server: ").unwrap_or(said)
}

/// For the whole command.
const DEADLINE: Duration = Duration::from_secs(30);
/// For each of its requests.
const REQUEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_lists_or_single_objects() {
        let pod = json!({"kind": "Pod"});
        assert_eq!(
            items(json!({"kind": "List", "items": [pod]})),
            [json!({"kind": "Pod"})]
        );
        assert_eq!(items(pod.clone()), [pod]);
        assert!(items(json!({"kind": "List", "items": null})).is_empty());
    }

    #[test]
    fn what_kubectl_says_loses_its_own_prefix_alone() {
        assert_eq!(without_prefix("error: no context"), "no context");
        let forbidden = "Error from server (Forbidden): pods is forbidden";
        assert_eq!(without_prefix(forbidden), forbidden);
    }
}
