//! What the API server trusts: the `caBundle` of our own MutatingWebhookConfiguration, and nothing else of it.
//!
//! Replicas may know different roots for a moment, while a root is replaced. So what is missing is added at once, and what is too much
//! is taken out only later, when all agree.

use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::own::Roots;

/// Keeps the configuration `name` up to date, for ever.
pub(crate) async fn keep(
    client: Client,
    name: String,
    mut roots: watch::Receiver<Option<Roots>>,
    metrics: Metrics,
) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let only = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(25);
    let mut events = std::pin::pin!(watcher(api.clone(), only).default_backoff());
    let mut tidy = interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tidy.reset();
    let mut present = None;
    loop {
        let extra = tokio::select! {
            event = events.next() => {
                take(&mut present, event);
                Extra::Stays
            }
            changed = roots.changed() => match changed {
                Ok(()) => Extra::Stays,
                Err(_gone) => return,
            },
            _ = tidy.tick() => Extra::Goes,
        };
        let (Some(object), Some(ours)) = (&present, roots.borrow_and_update().clone()) else {
            continue;
        };
        let steps = steps(object, &ours, extra);
        if steps.is_empty() {
            continue;
        }
        match patch(&api, &name, &steps).await {
            Ok(()) => {
                metrics.bundles.inc();
                info!(name, "caBundle brought up to date");
            }
            // The next event or turn tries again.
            Err(error) => warn!(
                name,
                error = format!("{error:#}"),
                "caBundle not brought up to date"
            ),
        }
    }
}

fn take(
    present: &mut Option<MutatingWebhookConfiguration>,
    event: Option<watcher::Result<Event<MutatingWebhookConfiguration>>>,
) {
    match event {
        Some(Ok(Event::Apply(object) | Event::InitApply(object))) => *present = Some(object),
        Some(Ok(Event::Delete(_) | Event::Init)) => *present = None,
        Some(Ok(Event::InitDone)) | None => {}
        Some(Err(error)) => warn!(%error, "the webhook's configuration is not watched"),
    }
}

async fn patch(
    api: &Api<MutatingWebhookConfiguration>,
    name: &str,
    steps: &[Value],
) -> anyhow::Result<()> {
    let patch = serde_json::from_value(Value::Array(steps.to_vec())).context("make a patch")?;
    let patch: Patch<()> = Patch::Json(patch);
    let patched =
        tokio::time::timeout(PATIENCE, api.patch(name, &PatchParams::default(), &patch)).await;
    patched
        .context("wait for the API server")?
        .context("patch")?;
    Ok(())
}

/// What becomes of roots that are not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    Stays,
    Goes,
}

/// What brings `object` up to date; nothing where it is.
fn steps(object: &MutatingWebhookConfiguration, ours: &str, extra: Extra) -> Vec<Value> {
    let webhooks = object.webhooks.iter().flatten().enumerate();
    let steps = webhooks.filter_map(|(index, webhook)| {
        let there = webhook.client_config.ca_bundle.as_ref();
        let there = there.map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned());
        let wanted = wanted(there.as_deref().unwrap_or_default(), ours, extra)?;
        let wanted = serde_json::to_value(ByteString(wanted.into_bytes())).ok()?;
        let path = format!("/webhooks/{index}");
        Some([
            json!({"op": "test", "path": format!("{path}/name"), "value": webhook.name}),
            json!({"op": "add", "path": format!("{path}/clientConfig/caBundle"), "value": wanted}),
        ])
    });
    steps.flatten().collect()
}

/// What should be there, if it is something else.
fn wanted(there: &str, ours: &str, extra: Extra) -> Option<String> {
    let (known, own) = (blocks(there), blocks(ours));
    let has_ours = own.iter().all(|block| known.contains(block));
    let others: Vec<String> = known
        .into_iter()
        .filter(|block| !own.contains(block))
        .collect();
    match extra {
        Extra::Stays if has_ours => None,
        Extra::Goes if has_ours && others.is_empty() => None,
        Extra::Stays => Some(own.into_iter().chain(others).collect()),
        Extra::Goes => Some(own.concat()),
    }
}

/// The certificates of a PEM text, each by itself; what is none is left out.
fn blocks(text: &str) -> Vec<String> {
    let blocks = text.split_inclusive(END);
    let certificate = |block: &str| {
        let begin = block.find(BEGIN)?;
        let block = block.get(begin..).filter(|block| block.ends_with(END))?;
        Some(format!("{block}\n"))
    };
    blocks.filter_map(certificate).collect()
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
const TIDY: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> String {
        format!("{BEGIN}\n{name}\n{END}\n")
    }

    #[test]
    fn ours_is_added_at_once_and_the_rest_goes_later() {
        let (old, new) = (pem("old"), pem("new"));
        let both = format!("{new}{old}");
        let rows = [
            ("", Extra::Stays, Some(new.clone())),
            ("no certificate", Extra::Stays, Some(new.clone())),
            (&old, Extra::Stays, Some(both.clone())),
            (&both, Extra::Stays, None),
            (&both, Extra::Goes, Some(new.clone())),
            (&new, Extra::Goes, None),
        ];
        for (there, extra, want) in rows {
            assert_eq!(wanted(there, &new, extra), want, "{there:?} {extra:?}");
        }
    }

    #[test]
    fn only_what_differs_is_patched() {
        let webhook = |name: &str, bundle: Option<String>| {
            json!({"name": name, "clientConfig": {"caBundle": bundle.map(|text| ByteString(text.into_bytes()))},
                "sideEffects": "None", "admissionReviewVersions": ["v1"]})
        };
        let object = json!({"metadata": {"name": "weft-injector"}, "webhooks": [webhook("a", Some(pem("x"))), webhook("b", None)]});
        let object = serde_json::from_value(object).unwrap();
        let steps = steps(&object, &pem("x"), Extra::Goes);
        assert_eq!(steps.len(), 2);
        assert_eq!(
            steps[0],
            json!({"op": "test", "path": "/webhooks/1/name", "value": "b"})
        );
        assert_eq!(steps[1]["path"], "/webhooks/1/clientConfig/caBundle");
    }
}
