//! `weft lint FILE...`: what is wrong with policy files and with the annotations of Kubernetes manifests, before anything is applied.
//!
//! The same parser that runs in the proxy says the same of it. A document with `kind` and `metadata` is a manifest, any other one a
//! policy.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value};
use weft_policy::Policy;
use weft_policy::layer::{Layer, LayerKind};
use weft_policy::problem::Problem;
use weft_policy::scope::Scope;
use weft_policy::spiffe::TrustDomain;

/// What to look at.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct LintArgs {
    /// Policy files and Kubernetes manifests; - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Of what names no namespace
    #[arg(long, default_value = "default")]
    pub(crate) namespace: String,
    /// The mesh's own
    #[arg(long, default_value = "cluster.local")]
    pub(crate) trust_domain: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// A line a problem, and one with the sum.
    pub(crate) text: String,
    pub(crate) problems: usize,
    looked_at: usize,
}

/// Looks at all files.
///
/// # Errors
/// One cannot be read. What is wrong in one is no error.
pub(crate) fn run(args: &LintArgs) -> anyhow::Result<Found> {
    let trust_domain = TrustDomain::parse(&args.trust_domain).context("read --trust-domain")?;
    let scope = Scope {
        trust_domain,
        namespace: args.namespace.clone(),
    };
    let mut found = Found::default();
    for path in &args.files {
        let text = read(path).with_context(|| format!("read {}", path.display()))?;
        found.look_at(&path.display().to_string(), &text, &scope);
    }
    let (problems, looked_at) = (found.problems, found.looked_at);
    let _infallible = writeln!(found.text, "{problems} problems in {looked_at} documents");
    Ok(found)
}

fn read(path: &PathBuf) -> std::io::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_BYTES).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}

impl Found {
    fn look_at(&mut self, file: &str, text: &str, scope: &Scope) {
        let documents: Vec<Value> = match serde_saphyr::from_multiple(text) {
            Ok(documents) => documents,
            Err(error) => {
                self.tell(file, &format!("is not YAML: {error}"));
                return;
            }
        };
        let [Value::Object(only)] = documents.as_slice() else {
            documents
                .iter()
                .for_each(|one| self.document(file, one, scope));
            return;
        };
        if is_manifest(only) {
            self.manifest(file, only, scope);
        } else {
            // From the text, so that lines are known.
            self.looked_at += 1;
            let mut problems = Policy::parse(text, scope).err().unwrap_or_default();
            let layer = Layer::from_document(LayerKind::File, file, text, scope);
            for problem in layer.err().into_iter().flatten() {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            self.tell_all(file, problems);
        }
    }

    fn document(&mut self, file: &str, document: &Value, scope: &Scope) {
        match document {
            Value::Null => {}
            Value::Object(object) if is_manifest(object) => self.manifest(file, object, scope),
            _ => self.tell(file, "holds several documents, of which one is no manifest; a policy has a file of its own"),
        }
    }

    fn manifest(&mut self, file: &str, manifest: &Map<String, Value>, scope: &Scope) {
        if let Some(Value::Array(items)) = manifest.get("items") {
            items
                .iter()
                .for_each(|item| self.document(file, item, scope));
            return;
        }
        self.looked_at += 1;
        let kind = text(manifest.get("kind"));
        let metadata = manifest.get("metadata");
        let name = text(at(metadata, &["name"]));
        let namespace = match kind {
            "Namespace" => name,
            _ => text(at(metadata, &["namespace"])),
        };
        let scope = Scope {
            namespace: match namespace {
                "" => scope.namespace.clone(),
                namespace => namespace.to_owned(),
            },
            ..scope.clone()
        };
        let layer = match kind {
            "Namespace" => LayerKind::Namespace,
            "Service" => LayerKind::Service,
            "Pod" => LayerKind::Pod,
            _ => LayerKind::Workload,
        };
        let object = format!("{file}: {kind} {name}");
        self.annotations(&object, layer, metadata, &scope);
        let template = match kind {
            "CronJob" => at(
                manifest.get("spec"),
                &["jobTemplate", "spec", "template", "metadata"],
            ),
            _ => at(manifest.get("spec"), &["template", "metadata"]),
        };
        self.annotations(
            &format!("{object}, its pods"),
            LayerKind::Pod,
            template,
            &scope,
        );
    }

    fn annotations(
        &mut self,
        object: &str,
        kind: LayerKind,
        metadata: Option<&Value>,
        scope: &Scope,
    ) {
        let Some(Value::Object(annotations)) = at(metadata, &["annotations"]) else {
            return;
        };
        let mut texts = Vec::new();
        for (key, value) in annotations {
            match value {
                Value::String(value) => texts.push((key.as_str(), value.as_str())),
                _ if key.starts_with(weft_policy::problem::PREFIX) => {
                    self.tell(object, &format!("{key}: {value} is no text; Kubernetes takes only text here, so write \"{value}\""));
                }
                _ => {}
            }
        }
        let layer = Layer::from_annotations(kind, object, texts, scope);
        for problem in layer.err().into_iter().flatten() {
            self.tell(object, &problem.to_string());
        }
    }

    fn tell_all(&mut self, object: &str, problems: Vec<Problem>) {
        for problem in problems {
            match problem.line {
                0 => self.tell(object, &problem.to_string()),
                line => self.tell(&format!("{object}:{line}"), &problem.to_string()),
            }
        }
    }

    fn tell(&mut self, object: &str, problem: &str) {
        self.problems += 1;
        // Writing to a string does not fail.
        let _infallible = writeln!(self.text, "{object}: {problem}");
    }
}

fn is_manifest(object: &Map<String, Value>) -> bool {
    object.contains_key("kind") && (object.contains_key("metadata") || object.contains_key("items"))
}

fn at<'a>(value: Option<&'a Value>, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value?, |value, key| value.get(key))
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

/// More is no file that somebody wrote.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn linted(text: &str) -> String {
        let scope = Scope {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            namespace: "shop".to_owned(),
        };
        let mut found = Found::default();
        found.look_at("a.yaml", text, &scope);
        found.text
    }

    #[test]
    fn what_is_right_is_silent() {
        let rows = [
            "timeout: 10s\nretry: 3\n",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {weft.dev/timeout: 1s, other: x}}\n",
            "kind: Pod\nmetadata: {name: a}\n---\nkind: Namespace\nmetadata: {name: b, annotations: {weft.dev/mtls: strict}}\n",
            "kind: List\nitems: [{kind: Pod, metadata: {name: a}}]\n",
            "",
        ];
        for text in rows {
            assert_eq!(linted(text), "", "{text}");
        }
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let rows = [
            (
                "retry: {attemps: 3}\n",
                "a.yaml:1: weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?\n",
            ),
            (
                "kind: Deployment\nmetadata: {name: orders}\nspec: {template: {metadata: {annotations: {weft.dev/timeout: '10'}}}}\n",
                "a.yaml: Deployment orders, its pods: weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"\n",
            ),
            (
                "kind: CronJob\nmetadata: {name: a}\nspec: {jobTemplate: {spec: {template: {metadata: {annotations: {weft.dev/mtls: loose}}}}}}\n",
                "a.yaml: CronJob a, its pods: weft.dev/mtls: \"loose\" is not one of strict, permissive\n",
            ),
            (
                "kind: Pod\nmetadata: {name: a, annotations: {weft.dev/retry: 3}}\n",
                "a.yaml: Pod a: weft.dev/retry: 3 is no text; Kubernetes takes only text here, so write \"3\"\n",
            ),
        ];
        for (text, want) in rows {
            let line = linted(text);
            let line: String = line.split_inclusive('\n').take(1).collect();
            assert_eq!(line, want, "{text}");
        }
        let service = "kind: Service\nmetadata: {name: a, annotations: {weft.dev/allow: web}}\n";
        assert!(linted(service).contains("a Service says only how its callers call it"));
        assert!(linted("a: [").contains("is not YAML"));
    }
}
