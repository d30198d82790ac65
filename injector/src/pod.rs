//! One pod: whether it gets a proxy, what is wrong with it, and what it looks like with one.
//!
//! A pod that has our proxy already keeps it: only what came after it is brought up to date (containers that another webhook added), so
//! that a second pass over what the first one made changes nothing.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use weft_policy::Policy;
use weft_policy::annotations::{INJECTED, LOWER_LAYERS};
use weft_policy::layer::{Effective, Layer, LayerKind, snapshot};
use weft_policy::own::{DEFAULT_DRAIN, Mtls};

use crate::around::Around;
use crate::ports;
use crate::probes::Probes;
use crate::problems::{Problem, Refusal};
use crate::security;
use crate::settings::{Settings, Start};
use crate::sidecar;
use crate::workload::Name;

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It has a proxy now, and this is to be told of it.
    Injected(Box<Pod>, Vec<String>),
    /// It gets none.
    Left(Reason),
}

/// Why a pod gets no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Its owner says so.
    #[error("its label {LABEL} says disabled")]
    Disabled,
    /// Redirection there would be the node's.
    #[error("it uses the node's own network")]
    HostNetwork,
    /// There is no proxy for it.
    #[error("it runs on Windows")]
    Windows,
    /// The kubelet's own; the API server only shows it.
    #[error("it is a static pod")]
    Static,
}

/// Puts the proxy into `pod`.
///
/// # Errors
/// All that is wrong with it.
pub fn inject(
    pod: &Pod,
    name: &Name,
    around: &Around,
    settings: &Settings,
) -> Result<Outcome, Refusal> {
    if let Some(reason) = left(pod) {
        return Ok(Outcome::Left(reason));
    }
    let (policy, problems) = judged(pod, name, around);
    if !problems.is_empty() {
        return Err(Refusal {
            subject: name.shown.clone(),
            problems,
        });
    }
    let mut injected = pod.clone();
    let mut warnings = around.warnings.clone();
    warnings.extend(security::refused_later(
        &around.scope.namespace,
        &around.labels,
    ));
    let spec = injected.spec.get_or_insert_default();
    match has_proxy(spec) {
        true => keep_native(spec, settings),
        false => {
            warnings.extend(hidden_from_strict(spec, &policy));
            warnings.extend(classic_limits(spec, name, settings));
            add(spec, &policy, name, settings);
            warnings.extend(note(&mut injected, around, settings));
        }
    }
    let spec = injected.spec.get_or_insert_default();
    warnings.extend(turn_probes(spec));
    Ok(Outcome::Injected(Box::new(injected), warnings))
}

/// Why a pod gets no proxy, if that is so.
fn left(pod: &Pod) -> Option<Reason> {
    let meta = &pod.metadata;
    let label = meta.labels.as_ref().and_then(|labels| labels.get(LABEL));
    let spec = pod.spec.as_ref();
    let system = spec
        .and_then(|spec| spec.os.as_ref())
        .map(|os| os.name.as_str());
    let selected = spec.and_then(|spec| spec.node_selector.as_ref()?.get("kubernetes.io/os"));
    let annotations = meta.annotations.as_ref();
    if label.is_some_and(|label| label == "disabled") {
        Some(Reason::Disabled)
    } else if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        Some(Reason::HostNetwork)
    } else if system == Some("windows") || selected.is_some_and(|os| os == "windows") {
        Some(Reason::Windows)
    } else if annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")) {
        Some(Reason::Static)
    } else {
        None
    }
}

/// What acts on the pod, and all that is wrong with it.
fn judged(pod: &Pod, name: &Name, around: &Around) -> (Policy, Vec<Problem>) {
    let mut problems = Vec::new();
    let meta = &pod.metadata;
    let label = meta.labels.as_ref().and_then(|labels| labels.get(LABEL));
    if let Some(label) = label.filter(|label| *label != "enabled") {
        problems.push(Problem::Pod(format!(
            "label {LABEL}: {label:?} is not one of enabled, disabled"
        )));
    }
    if meta
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(LABEL))
    {
        problems.push(Problem::annotation(
            "inject",
            "is a label of the Namespace or the pod, not an annotation",
        ));
    }
    let annotations = meta.annotations.iter().flatten();
    let annotations = annotations.map(|(key, value)| (key.as_str(), value.as_str()));
    let own = Layer::from_annotations(LayerKind::Pod, &*name.shown, annotations, &around.scope);
    let mut policy = Policy::default();
    match own.and_then(|own| merged(own, around)) {
        Ok(effective) => {
            problems.extend(effective.problems.into_iter().map(Problem::from));
            policy = effective.policy;
            problems.extend(ports::contradictions(&policy));
        }
        Err(wrong) => problems.extend(wrong.into_iter().map(Problem::from)),
    }
    if let Some(spec) = &pod.spec {
        problems.extend(ports::taken(spec));
        problems.extend(security::bypasses(spec));
    }
    (policy, problems)
}

fn merged(own: Layer, around: &Around) -> Result<Effective, Vec<weft_policy::problem::Problem>> {
    let mut layers = around.layers.clone();
    layers.push(own);
    Effective::merge(&layers, &around.scope)
}

fn has_proxy(spec: &PodSpec) -> bool {
    let mut containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    containers.any(|one| one.name == sidecar::PROXY)
}

/// Another webhook that knows no native sidecars may have made a plain init container of ours, which would never end.
fn keep_native(spec: &mut PodSpec, settings: &Settings) {
    let inits = spec.init_containers.iter_mut().flatten();
    let ours = inits.filter(|one| one.name == sidecar::PROXY);
    if settings.start == Start::Native {
        ours.for_each(|one| one.restart_policy = Some(sidecar::ALWAYS.to_owned()));
    }
}

/// Adds containers and volumes, and time for the drain.
fn add(spec: &mut PodSpec, policy: &Policy, name: &Name, settings: &Settings) {
    let redirect = sidecar::redirect(settings, policy);
    let proxy = sidecar::proxy(settings, policy, name);
    let inits = spec.init_containers.get_or_insert_default();
    inits.retain(|one| one.name != sidecar::REDIRECT);
    match settings.start {
        Start::Native => drop(inits.splice(0..0, [redirect, proxy])),
        // Last, for until the proxy runs nothing takes what is redirected.
        Start::Classic => {
            inits.push(redirect);
            spec.containers.insert(0, proxy);
        }
    }
    let volumes = spec.volumes.get_or_insert_default();
    let ours = sidecar::volumes();
    volumes.retain(|volume| ours.iter().all(|one| one.name != volume.name));
    volumes.extend(ours);
    let wanted = i64::try_from(policy.drain.unwrap_or(DEFAULT_DRAIN).as_secs()).unwrap_or(i64::MAX);
    let wanted = wanted.saturating_add(AFTER_DRAIN);
    let grace = spec
        .termination_grace_period_seconds
        .unwrap_or(DEFAULT_GRACE);
    // Who wrote a short time and nothing of a drain wants the pod gone by then.
    if grace < wanted && (policy.drain.is_some() || grace == DEFAULT_GRACE) {
        spec.termination_grace_period_seconds = Some(wanted);
    }
}

/// Notes on the pod what was done, and what lay under its own policy.
fn note(pod: &mut Pod, around: &Around, settings: &Settings) -> Option<String> {
    let app = pod.spec.as_ref().and_then(|spec| {
        let mut apps = spec.containers.iter().filter(|one| !sidecar::is_ours(one));
        apps.next().map(|app| app.name.clone())
    });
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INJECTED.to_owned(), settings.version.clone());
    if let Some(app) = app {
        annotations
            .entry(DEFAULT_CONTAINER.to_owned())
            .or_insert(app);
    }
    let layers = snapshot::write(&around.layers);
    if layers.len() > MAX_SNAPSHOT {
        annotations.remove(LOWER_LAYERS);
        return Some(format!(
            "the layers of policy under the pod's own have {} bytes, more than the {MAX_SNAPSHOT} that are left with a pod: \
             it starts without them while discovery is away",
            layers.len()
        ));
    }
    annotations.insert(LOWER_LAYERS.to_owned(), layers);
    None
}

/// Turns the probes of all containers that start after the proxy; those that start before it could not be answered.
fn turn_probes(spec: &mut PodSpec) -> Vec<String> {
    let mut probes = Probes::told(told(spec));
    let inits = spec.init_containers.iter_mut().flatten();
    let native = inits.skip_while(|one| one.name != sidecar::PROXY);
    for container in native.chain(&mut spec.containers) {
        if !sidecar::is_ours(container) {
            probes.turn(container);
        }
    }
    let text = probes.variable();
    let containers = spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers);
    let proxies = containers.filter(|one| one.name == sidecar::PROXY);
    proxies.for_each(|proxy| tell(proxy, text.as_deref()));
    probes.warnings
}

fn told(spec: &PodSpec) -> Option<&str> {
    let mut containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let proxy = containers.find(|one| one.name == sidecar::PROXY)?;
    let mut variables = proxy.env.iter().flatten();
    variables
        .find(|one| one.name == sidecar::PROBES)?
        .value
        .as_deref()
}

fn tell(proxy: &mut Container, text: Option<&str>) {
    let Some(text) = text else { return };
    let variables = proxy.env.get_or_insert_default();
    match variables.iter_mut().find(|one| one.name == sidecar::PROBES) {
        Some(there) => there.value = Some(text.to_owned()),
        None => variables.push(sidecar::variable(sidecar::PROBES, text.to_owned())),
    }
}

/// What comes to the app in plaintext, and would be refused where `mtls: strict` acts.
fn hidden_from_strict(spec: &PodSpec, policy: &Policy) -> Vec<String> {
    let is_strict = |port: u16| {
        let own = policy.inbound.ports.get(&port).and_then(|port| port.mtls);
        own.or(policy.inbound.mtls) == Some(Mtls::Strict) && !ports::skipped(policy).contains(&port)
    };
    let mut warnings = Vec::new();
    for container in &spec.containers {
        let ports = container.ports.iter().flatten();
        let hosted = ports
            .filter_map(|port| Some((port.host_port?, u16::try_from(port.container_port).ok()?)));
        for (host, port) in hosted.filter(|(_, port)| is_strict(*port)) {
            warnings.push(format!(
                "container {}: callers of host port {host} from outside of the mesh are refused, as port {port} is strict",
                container.name
            ));
        }
        let hooks = container.lifecycle.as_ref();
        let hooks = hooks.map(|hooks| {
            [
                ("postStart", &hooks.post_start),
                ("preStop", &hooks.pre_stop),
            ]
        });
        for (name, hook) in hooks.into_iter().flatten() {
            let http = hook.as_ref().is_some_and(|hook| hook.http_get.is_some());
            if http && policy.inbound.mtls == Some(Mtls::Strict) {
                warnings.push(format!(
                    "container {}: its {name} hook is an HTTP request of the kubelet, which strict mTLS refuses; use exec",
                    container.name
                ));
            }
        }
    }
    warnings
}

/// What cannot be had before Kubernetes 1.29.
fn classic_limits(spec: &PodSpec, name: &Name, settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if settings.start == Start::Native {
        return warnings;
    }
    if name.runs_to_end {
        warnings.push(format!(
            "this Kubernetes has no native sidecars (1.29), so the proxy runs on when the job is done; label its pods {LABEL}=disabled"
        ));
    }
    if spec.init_containers.iter().flatten().next().is_some() {
        warnings.push("this Kubernetes has no native sidecars (1.29), so init containers call without the mesh".to_owned());
    }
    warnings
}

/// On a Namespace: `enabled`; on a pod: `enabled` or `disabled`, and wins.
pub const LABEL: &str = "weft.dev/inject";
/// Whose logs and shells kubectl shows when no container is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// "Defaults to 30 seconds" (core/v1, PodSpec).
const DEFAULT_GRACE: i64 = 30;
/// What the proxy may take after its drain, to tell what it knows.
const AFTER_DRAIN: i64 = 5;
/// All annotations of an object may have 256 KiB.
const MAX_SNAPSHOT: usize = 64 * 1024;

#[cfg(test)]
mod tests;
