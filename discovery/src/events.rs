//! Bad annotations as Events on their objects, where `kubectl describe` shows them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::timeout;
use tracing::debug;

use crate::model::policy::{Problem, Source};

/// Writes Events.
pub(crate) struct Events(Recorder);

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        let reporter = Reporter {
            controller: "weft-discovery".to_owned(),
            instance: None,
        };
        Self(Recorder::new(client, reporter))
    }

    /// Tells once; who cannot be told is told by the log and the metric.
    pub(crate) async fn tell(&self, problem: &Problem) {
        let event = Event {
            type_: EventType::Warning,
            reason: "BadPolicy".to_owned(),
            note: Some(problem.text.chars().take(MAX_CHARS).collect()),
            action: "ReadAnnotations".to_owned(),
            secondary: None,
        };
        let written = timeout(TIME_LIMIT, self.0.publish(&event, &reference(problem))).await;
        if !matches!(written, Ok(Ok(()))) {
            debug!(object = %problem.source, "no Event written");
        }
    }
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
