//! `weft inject FILE...`: puts the proxy into the pods of manifests, as the admission webhook does, without a cluster.
//!
//! What has no pods is printed as it was written. What is changed is written anew, and read once more before it is printed.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::Value;
use weft_injector::config::variables;
use weft_injector::manifest::{self, Known};
use weft_injector::settings::{
    DEFAULT_CA, DEFAULT_DISCOVERY, DEFAULT_IMAGE, Settings, Start, VERSION,
};
use weft_policy::spiffe::TrustDomain;

/// What to inject, and with which settings.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct InjectArgs {
    /// Kubernetes manifests; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Of what names no namespace
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Of the containers that are added
    #[arg(long, default_value = DEFAULT_IMAGE)]
    image: String,
    /// The mesh's own
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// Where proxies get their certificate
    #[arg(long, default_value = DEFAULT_CA)]
    ca_address: String,
    /// Where proxies learn of services and policy
    #[arg(long, default_value = DEFAULT_DISCOVERY)]
    discovery_address: String,
    /// Further variables of the proxy, NAME=value with commas between them
    #[arg(long, default_value = "", value_name = "VARIABLES")]
    proxy_env: String,
    /// Whether Kubernetes is 1.29 or newer, which has native sidecars
    #[arg(long, value_enum, default_value_t = Native::On)]
    native_sidecars: Native,
}

/// How the proxy is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Native {
    On,
    Off,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    /// All documents, or none if one is refused.
    pub(crate) manifests: String,
    /// What is to be told beside it, a line each.
    pub(crate) notes: String,
    pub(crate) refused: bool,
}

/// Injects all files.
///
/// # Errors
/// One cannot be read, or a setting is none.
pub(crate) fn run(args: &InjectArgs) -> anyhow::Result<Injected> {
    let trust_domain = TrustDomain::parse(&args.trust_domain).context("read --trust-domain")?;
    let environment = variables(&args.proxy_env).map_err(anyhow::Error::msg);
    let settings = Settings {
        image: args.image.clone(),
        version: VERSION.to_owned(),
        trust_domain: trust_domain.clone(),
        ca_address: args.ca_address.clone(),
        discovery_address: args.discovery_address.clone(),
        environment: environment.context("read --proxy-env")?,
        start: match args.native_sidecars {
            Native::On => Start::Native,
            Native::Off => Start::Classic,
        },
    };
    let mut texts = Vec::new();
    for path in &args.files {
        texts.push(read(path).with_context(|| format!("read {}", path.display()))?);
    }
    inject(&texts, Known::new(trust_domain, &args.namespace), &settings)
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

fn inject(texts: &[String], mut known: Known, settings: &Settings) -> anyhow::Result<Injected> {
    let mut documents = Vec::new();
    for text in texts.iter().flat_map(|text| documents_of(text)) {
        let document: Value = serde_saphyr::from_str(&text)
            .with_context(|| format!("read a document of {} lines", text.lines().count()))?;
        known.learn(&document);
        documents.push((text, document));
    }
    let mut all = Injected::default();
    for (text, mut document) in documents {
        let done = manifest::inject(&mut document, &known, settings);
        for note in &done.notes {
            let _infallible = writeln!(all.notes, "{note}");
        }
        for refusal in &done.refusals {
            all.refused = true;
            let _infallible = writeln!(all.notes, "{refusal}");
        }
        let written = if done.changed { yaml(&document)? } else { text };
        let _infallible = writeln!(all.manifests, "---\n{}", written.trim_matches('\n'));
    }
    if all.refused {
        all.manifests.clear();
    }
    Ok(all)
}

/// The documents of a file, as they were written; what holds nothing is left out.
fn documents_of(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        // "---" begins a document wherever it stands at the margin (YAML 1.2, section 9.1.2).
        let rest = line.strip_prefix("---");
        match rest.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            Some(rest) => documents.push(format!("{}\n", rest.trim())),
            None => documents.iter_mut().last().into_iter().for_each(|last| {
                last.push_str(line);
                last.push('\n');
            }),
        }
    }
    let says = |document: &String| {
        let mut lines = document.lines().map(str::trim);
        lines.any(|line| !line.is_empty() && !line.starts_with('#') && line != "...")
    };
    documents.retain(says);
    documents
}

/// Writes a document, and falls back to JSON, which is YAML too, if it would not be read as the same.
fn yaml(document: &Value) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(document).context("write a document")?;
    let same = serde_saphyr::from_str::<Value>(&text).is_ok_and(|read| read == *document);
    match same {
        true => Ok(text),
        false => serde_json::to_string_pretty(document).context("write a document"),
    }
}

/// More is no file that somebody wrote.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn injected(text: &str) -> Injected {
        let known = Known::new(TrustDomain::parse("cluster.local").unwrap(), "shop");
        inject(&[text.to_owned()], known, &Settings::new()).unwrap()
    }

    const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: orders}
spec:
  template:
    metadata: {labels: {app: orders, version: '1.10', on: 'yes'}}
    spec:
      containers:
      - {name: app, image: 'orders:1', args: ['---', '# no comment', 'null', '0x1', '1e3', 'a: b'], livenessProbe: {grpc: {port: 50051}}}
";

    #[test]
    fn pods_get_the_proxy_and_the_rest_stays_as_it_was_written() {
        let service = "# Where orders are.\nkind: Service\nmetadata: {name: orders}   # kept";
        let first = injected(&format!("{service}\n---\n{DEPLOYMENT}---\n# nothing\n"));
        assert!(!first.refused && first.notes.is_empty(), "{first:?}");
        assert!(
            first
                .manifests
                .starts_with(&format!("---\n{service}\n---\n")),
            "{}",
            first.manifests
        );
        let documents: Vec<Value> = serde_saphyr::from_multiple(&first.manifests).unwrap();
        assert_eq!(documents.len(), 2);
        let template = &documents[1]["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["version"], "1.10");
        assert_eq!(template["metadata"]["labels"]["on"], "yes");
        let app = &template["spec"]["containers"][0];
        assert_eq!(
            app["args"],
            serde_json::json!(["---", "# no comment", "null", "0x1", "1e3", "a: b"])
        );
        assert_eq!(
            app["livenessProbe"]["httpGet"]["path"],
            "/app-health/app/liveness"
        );
        assert_eq!(template["spec"]["initContainers"][1]["name"], "weft-proxy");
        let second = injected(&first.manifests);
        assert_eq!(
            second.manifests, first.manifests,
            "a second time changes nothing"
        );
    }

    #[test]
    fn one_refusal_stops_it_all() {
        let bad =
            "kind: Pod\nmetadata: {name: a, annotations: {weft.dev/timeout: '10'}}\nspec: {}\n";
        let done = injected(&format!("{DEPLOYMENT}---\n{bad}"));
        assert!(done.refused && done.manifests.is_empty());
        assert_eq!(
            done.notes,
            "1 problem in the annotations of pod a\n  weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"\n"
        );
        let known = Known::new(TrustDomain::parse("cluster.local").unwrap(), "shop");
        assert!(inject(&["a: [".to_owned()], known, &Settings::new()).is_err());
    }
}
