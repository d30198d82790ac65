//! The control thread: identity, discovery, admin and telemetry, so that workers only move bytes.
//!
//! What it learns is published as snapshots; the data path never waits for it but for a name that nobody asked for yet.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use anyhow::Context;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::admin::ready::Readiness;
use crate::admin::{self, Addresses, Sources};
use crate::app;
use crate::config::Config;
use crate::discovery::ads::AdsConfig;
use crate::discovery::ads::link::Remote;
use crate::discovery::dns::DnsSource;
use crate::discovery::supply::Supply;
use crate::discovery::{Discovery, DiscoveryConfig};
use crate::drain::Drain;
use crate::filter::authn::keys::KeyStore;
use crate::filter::trace::Sampler;
use crate::identity::{self, Identities, Source};
use crate::policy::Policies;
use crate::policy::files::{FilesError, PolicyFiles, Texts};
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::suppliers::Controlled;
use crate::telemetry::otlp::Export;

/// What the control thread supplies.
pub(crate) struct Control {
    pub(crate) thread: thread::JoinHandle<()>,
    pub(crate) discovery: Discovery,
    pub(crate) identities: Identities,
    pub(crate) telemetry: Telemetry,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) policies: Policies,
    pub(crate) admin: Addresses,
}

/// Starts it.
///
/// # Errors
/// A file that is needed at the start cannot be read, or an address cannot be bound.
pub(crate) fn start(
    config: &Arc<Config>,
    drain: &Drain,
    open: &Arc<AtomicUsize>,
    ended: &CancellationToken,
) -> anyhow::Result<Control> {
    let source = Source::of(config).context("read WEFT_CA_ADDRESS")?;
    let (identities, identity) =
        Identities::new(source, config.spiffe_id.clone()).context("read the identity")?;
    let identity = identity
        .keeping(config.state_dir.as_deref())
        .spreading(config.cert_spread);
    let files = PolicyFiles::of(config);
    let (policies, texts) = read_policy(&files).context("read the policy")?;
    let discovery = DiscoveryConfig {
        services_file: config.services_file.clone(),
        namespace: config.namespace.clone(),
        zone: config.zone.clone(),
        dns: DnsSource::System,
        ads: ads(config, &identities, &policies),
    };
    let (discovery, supply) = Discovery::new(discovery).context("read the services file")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("make a runtime")?;
    let (sockets, admin) = admin::bind(config)?;
    let (telemetry, export) = Telemetry::new(config, &policies.current().policy);
    let controlled = match config.discovery_address {
        Some(_) => Controlled::Yes,
        None => Controlled::No,
    };
    let metrics = telemetry.metrics();
    metrics.watch(&discovery, &identities, controlled);
    policies.watch(telemetry.metrics());
    telemetry.follow(&policies, &config.log);
    let readiness = Readiness::default();
    let sources = Sources {
        config: Arc::clone(config),
        telemetry: telemetry.clone(),
        discovery: discovery.clone(),
        identities: identities.clone(),
        policies: policies.clone(),
        readiness: readiness.clone(),
        drain: drain.clone(),
    };
    let parts = Parts {
        drain_quiet: config.drain_quiet,
        drain_timeout: config.drain_timeout,
        drain: drain.clone(),
        open: Arc::clone(open),
        ended: ended.clone(),
        supply,
        sources,
        sockets,
        identity,
        keys: policies.token_keys(),
        policy: (files, texts),
        export,
    };
    let thread = thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || runtime.block_on(run(parts)))
        .context("spawn the control thread")?;
    Ok(Control {
        thread,
        discovery,
        identities,
        sampler: telemetry.sampler(),
        telemetry,
        policies,
        admin,
    })
}

/// How to reach the control plane, if there is one.
fn ads(config: &Config, identities: &Identities, policies: &Policies) -> Option<AdsConfig> {
    Some(AdsConfig {
        remote: Remote {
            address: config.discovery_address.as_ref()?.parse().ok()?,
            identity: config.discovery_identity.clone(),
        },
        identities: identities.clone(),
        policies: policies.clone(),
        namespace: config.namespace.clone(),
        pod: config.pod_name.clone(),
        trust_domain: config.trust_domain.clone(),
        zone: config.zone.clone(),
        state: config.state_dir.clone(),
    })
}

struct Parts {
    drain_quiet: Duration,
    drain_timeout: Duration,
    drain: Drain,
    open: Arc<AtomicUsize>,
    ended: CancellationToken,
    supply: Supply,
    sources: Sources,
    sockets: admin::Sockets,
    identity: identity::Supply,
    keys: KeyStore,
    policy: (PolicyFiles, Texts),
    export: Option<Export>,
}

async fn run(parts: Parts) {
    let tasks = Tasks::default();
    let stop = CancellationToken::new();
    drop(tasks.spawn("discovery", parts.supply.run(stop.clone())));
    admin::serve(parts.sockets, &parts.sources, &tasks);
    drop(tasks.spawn("identity", parts.identity.run(stop.clone())));
    let roots = parts.sources.config.jwt_roots.clone();
    drop(tasks.spawn("token keys", parts.keys.run(roots, stop.clone())));
    let (files, texts) = parts.policy;
    let policies = parts.sources.policies.clone();
    drop(tasks.spawn("policy", files.follow(texts, policies, stop.clone())));
    drop(tasks.spawn("readiness", ready_with_identity(parts.sources.clone())));
    // Until the workers have told of their last requests.
    let told = CancellationToken::new();
    let export = parts
        .export
        .map(|export| tasks.spawn("span export", export.run(told.clone())));
    let told_for = parts.drain.ending().await;
    let asked = parts.sources.policies.current().policy.drain;
    let limit = asked.unwrap_or(parts.drain_timeout);
    let quiet = parts.drain_quiet.saturating_sub(told_for);
    app::drained(&parts.open, quiet, limit).await;
    parts.ended.cancel();
    let telemetry = &parts.sources.telemetry;
    telemetry.workers_gone().await;
    told.cancel();
    if let Some(export) = export {
        // A panic there has been told of, and must not keep the rest from ending.
        let _ended = export.await;
    }
    telemetry.flush();
    stop.cancel();
    // Admin connections have nothing to finish; the runtime drops them.
}

/// The policy to begin with. A proxy that cannot read it does not start: it would let pass what was to be refused.
fn read_policy(files: &PolicyFiles) -> Result<(Policies, Texts), FilesError> {
    let texts = files.texts()?;
    let policies = Policies::new(files.scope.clone(), files.layers(&texts)?)
        .map_err(|problems| FilesError::Whole { problems })?;
    Ok((policies, texts))
}

/// A proxy that is to have an identity is not ready without one: it could neither call nor be called.
async fn ready_with_identity(sources: Sources) {
    let meshed = sources.config.ca_address.is_some() || sources.config.identity_dir.is_some();
    let mut identities = sources.identities.clone();
    let _awaited = meshed.then(|| sources.readiness.wait_for("identity"));
    while meshed && identities.current().is_none() {
        identities.changed().await;
    }
}
