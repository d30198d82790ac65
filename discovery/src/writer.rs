//! What discovery writes to the API server: Events about bad annotations, where `kubectl describe` shows them, and the status of routes.
//!
//! A task of its own, so that a slow API server delays no endpoint. Replicas write the same, so it does not matter who comes last.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::model::policy::{Problem, Source};
use crate::model::routes::status::{CONTROLLER, Verdict};
use crate::watch::route_resource;

/// Something to write.
#[derive(Debug)]
pub enum Word {
    /// As an Event.
    Problem(Problem),
    /// As the status of a route.
    Verdict(Verdict),
}

/// Writes what it is told, one after the other.
pub(crate) struct Writer {
    client: Client,
    recorder: Recorder,
}

impl Writer {
    pub(crate) fn new(client: Client) -> Self {
        let reporter = Reporter {
            controller: "weft-discovery".to_owned(),
            instance: None,
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
        }
    }

    pub(crate) async fn run(self, mut words: mpsc::Receiver<Word>) {
        while let Some(word) = words.recv().await {
            let written = timeout(TIME_LIMIT, self.write(&word)).await;
            match written {
                Ok(Ok(())) => debug!(?word, "written"),
                Ok(Err(error)) => warn!(%error, ?word, "not written"),
                Err(_slow) => warn!(?word, "not written in time"),
            }
        }
    }

    async fn write(&self, word: &Word) -> Result<(), kube::Error> {
        match word {
            Word::Problem(problem) => self.tell(problem).await,
            Word::Verdict(verdict) => self.judge(verdict).await,
        }
    }

    async fn tell(&self, problem: &Problem) -> Result<(), kube::Error> {
        let event = Event {
            type_: EventType::Warning,
            reason: "BadPolicy".to_owned(),
            note: Some(problem.text.chars().take(MAX_CHARS).collect()),
            action: "ReadAnnotations".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &reference(problem)).await
    }

    /// Replaces our entries of `status.parents`, leaves those of others, and writes nothing where nothing changes.
    async fn judge(&self, verdict: &Verdict) -> Result<(), kube::Error> {
        let key = &verdict.name.key;
        let resource = route_resource(verdict.name.kind);
        let routes: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let Some(object) = routes.get_opt(&key.name).await? else {
            return Ok(());
        };
        let before = object.data.pointer("/status/parents");
        let before = before
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let now = parents(&before, verdict);
        if now == before {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"status": {"parents": now}}));
        let params = PatchParams::default();
        routes
            .patch_status(&key.name, &params, &patch)
            .await
            .map(drop)
    }
}

/// Others' entries, and ours with the times at which they became so.
fn parents(before: &[Value], verdict: &Verdict) -> Vec<Value> {
    let is_ours = |entry: &&Value| entry["controllerName"] == CONTROLLER;
    let others = before.iter().filter(|entry| !is_ours(entry)).cloned();
    let timestamp = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ours = verdict.parents.iter().cloned().map(|mut entry| {
        let same = before
            .iter()
            .filter(is_ours)
            .find(|known| known.get("parentRef") == entry.get("parentRef"));
        let known = same.and_then(|known| known["conditions"].as_array());
        for condition in entry
            .get_mut("conditions")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let same = known.into_iter().flatten().find(|known| {
                known["type"] == condition["type"] && known["status"] == condition["status"]
            });
            let since = same.map_or_else(
                || json!(timestamp),
                |known| known["lastTransitionTime"].clone(),
            );
            condition["lastTransitionTime"] = since;
        }
        entry
    });
    others.chain(ours).collect()
}

fn reference(problem: &Problem) -> ObjectReference {
    let named = |api: &str, kind: &str, namespace: Option<&str>, name: &str| ObjectReference {
        api_version: Some(api.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid: Some(problem.uid.clone()),
        ..ObjectReference::default()
    };
    match &problem.source {
        Source::Mesh => named("v1", "ConfigMap", Some("weft-system"), "weft-defaults"),
        Source::Namespace(name) => named("v1", "Namespace", None, name),
        Source::Pod(key) => named("v1", "Pod", Some(&key.namespace), &key.name),
        Source::Service(key) => named("v1", "Service", Some(&key.namespace), &key.name),
        Source::Owner(owner) => {
            let api = match &*owner.kind {
                "Job" | "CronJob" => "batch/v1",
                _ => "apps/v1",
            };
            named(
                api,
                &owner.kind,
                Some(&owner.key.namespace),
                &owner.key.name,
            )
        }
    }
}

/// "Maximal length of the note is 1kB" (events.k8s.io/v1).
const MAX_CHARS: usize = 1000;
const TIME_LIMIT: Duration = Duration::from_secs(5);
