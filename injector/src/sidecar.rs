//! What is put into a pod: the container that redirects, the proxy, and their volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction, HTTPGetAction, Lifecycle,
    LifecycleHandler, ObjectFieldSelector, Probe, ProjectedVolumeSource, ResourceRequirements,
    SecretKeySelector, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_policy::Policy;
use weft_policy::own::ProxyContainer;
use weft_policy::probe::READY_PORT;

use crate::ports;
use crate::security;
use crate::settings::{Settings, Source, Start};
use crate::workload::Name;

/// Whether a container is one that we add.
pub(crate) fn is_ours(container: &Container) -> bool {
    container.name == PROXY || container.name == REDIRECT
}

/// Hands the pod's connections to the proxy, before anything else runs in it.
pub(crate) fn redirect(settings: &Settings, policy: &Policy) -> Container {
    Container {
        name: REDIRECT.to_owned(),
        image: Some(image(settings, policy)),
        command: Some(vec![PROGRAM.to_owned(), "redirect".to_owned()]),
        args: Some(redirect_arguments(policy)),
        resources: Some(resources(&policy.proxy)),
        security_context: Some(security::of_redirect()),
        ..Container::default()
    }
}

fn redirect_arguments(policy: &Policy) -> Vec<String> {
    let inbound = PROBED.into_iter().chain(ports::skipped(policy));
    let mut arguments = vec![format!("--skip-inbound-ports={}", joined(inbound))];
    let skip = &policy.skip;
    if !skip.outbound_ports.is_empty() {
        arguments.push(format!(
            "--skip-outbound-ports={}",
            joined(&skip.outbound_ports)
        ));
    }
    if !skip.outbound_cidrs.is_empty() {
        let networks = skip.outbound_cidrs.iter();
        let networks = networks.map(|(address, bits)| format!("{address}/{bits}"));
        arguments.push(format!("--skip-outbound-cidrs={}", joined(networks)));
    }
    arguments
}

fn joined(items: impl IntoIterator<Item: ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

/// The proxy itself.
pub(crate) fn proxy(settings: &Settings, policy: &Policy, name: &Name) -> Container {
    let mut container = Container {
        name: PROXY.to_owned(),
        image: Some(image(settings, policy)),
        command: Some(vec![PROGRAM.to_owned()]),
        env: Some(environment(settings, policy, name)),
        readiness_probe: Some(probe(2, 5, 3)),
        resources: Some(resources(&policy.proxy)),
        security_context: Some(security::of_proxy()),
        volume_mounts: Some(mounts()),
        ..Container::default()
    };
    let mut lifecycle = Lifecycle {
        // All containers are told at once that the pod ends; the proxy's own signal comes when the app is gone.
        pre_stop: Some(run("drain")),
        ..Lifecycle::default()
    };
    match settings.start {
        Start::Native => {
            container.restart_policy = Some(ALWAYS.to_owned());
            container.startup_probe = Some(probe(1, 1, 120));
        }
        // Containers are started in order, each when the hook of the one before it has ended.
        Start::Classic => lifecycle.post_start = Some(run("wait")),
    }
    container.lifecycle = Some(lifecycle);
    container
}

fn image(settings: &Settings, policy: &Policy) -> String {
    policy
        .proxy
        .image
        .clone()
        .unwrap_or_else(|| settings.image.clone())
}

fn run(word: &str) -> LifecycleHandler {
    LifecycleHandler {
        exec: Some(ExecAction {
            command: Some(vec![PROGRAM.to_owned(), word.to_owned()]),
        }),
        ..LifecycleHandler::default()
    }
}

fn probe(timeout: i32, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/ready".to_owned()),
            port: IntOrString::Int(READY_PORT.into()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(timeout),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn resources(wanted: &ProxyContainer) -> ResourceRequirements {
    let quantity = |text: &Option<String>, default: Option<&str>| {
        text.clone().or(default.map(str::to_owned)).map(Quantity)
    };
    let map = |cpu: Option<Quantity>, memory: Option<Quantity>| {
        let named = [("cpu", cpu), ("memory", memory)].into_iter();
        let named = named.filter_map(|(name, quantity)| Some((name.to_owned(), quantity?)));
        Some(named.collect::<BTreeMap<_, _>>())
    };
    ResourceRequirements {
        requests: map(
            quantity(&wanted.cpu, Some("10m")),
            quantity(&wanted.memory, Some("20Mi")),
        ),
        limits: map(
            quantity(&wanted.cpu_limit, None),
            quantity(&wanted.memory_limit, Some("128Mi")),
        ),
        ..ResourceRequirements::default()
    }
}

fn environment(settings: &Settings, policy: &Policy, name: &Name) -> Vec<EnvVar> {
    let fields = [
        ("WEFT_NAMESPACE", "metadata.namespace"),
        ("WEFT_POD_NAME", "metadata.name"),
        ("WEFT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        // Kubernetes copies the node's zone to this label of the pod (1.35); empty where it does not.
        (
            "WEFT_ZONE",
            "metadata.labels['topology.kubernetes.io/zone']",
        ),
    ];
    let values = [
        ("WEFT_REDIRECT", Some("on".to_owned())),
        ("WEFT_TRUST_DOMAIN", Some(settings.trust_domain.to_string())),
        ("WEFT_CA_ADDRESS", Some(settings.ca_address.clone())),
        (
            "WEFT_DISCOVERY_ADDRESS",
            Some(settings.discovery_address.clone()),
        ),
        (
            "WEFT_ANNOTATIONS_FILE",
            Some(format!("{PODINFO_AT}/annotations")),
        ),
        ("WEFT_STATE_DIR", Some(STATE_AT.to_owned())),
        ("WEFT_WORKLOAD", name.workload.clone()),
        ("WEFT_VERSION_LABEL", name.version.clone()),
        (
            "WEFT_WORKERS",
            policy.proxy.workers.map(|workers| workers.to_string()),
        ),
        (
            "WEFT_DRAIN_QUIET",
            name.runs_to_end.then(|| "0s".to_owned()),
        ),
    ];
    let fields = fields
        .into_iter()
        .map(|(name, path)| from_field(name, path));
    let values = values
        .into_iter()
        .filter_map(|(name, value)| Some(variable(name, value?)));
    let is_replaced = |name: &str| settings.environment.iter().any(|(other, _)| other == name);
    let mut all: Vec<EnvVar> = fields
        .chain(values)
        .filter(|one| !is_replaced(&one.name))
        .collect();
    let further = settings.environment.iter();
    all.extend(further.map(|(name, source)| from(name, source)));
    all
}

fn from(name: &str, source: &Source) -> EnvVar {
    match source {
        Source::Text(value) => variable(name, value.clone()),
        Source::Secret { name: secret, key } => EnvVar {
            name: name.to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: secret.clone(),
                    key: key.clone(),
                    // A namespace without it costs spans and no pod.
                    optional: Some(true),
                }),
                ..EnvVarSource::default()
            }),
        },
    }
}

/// A variable with a value of its own.
pub(crate) fn variable(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    }
}

fn from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn mounts() -> Vec<VolumeMount> {
    let mount = |(name, path, read_only): (&str, &str, bool)| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let places = [
        ("weft-token", "/var/run/secrets/tokens", true),
        ("weft-ca-root", "/var/run/secrets/weft", true),
        ("weft-podinfo", PODINFO_AT, true),
        ("weft-state", STATE_AT, false),
    ];
    places.into_iter().map(mount).collect()
}

/// All volumes that the proxy mounts.
pub(crate) fn volumes() -> Vec<Volume> {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: Some("istio-ca".to_owned()),
            expiration_seconds: Some(43_200),
            path: "istio-token".to_owned(),
        }),
        ..VolumeProjection::default()
    };
    let annotations = DownwardAPIVolumeFile {
        path: "annotations".to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: "metadata.annotations".to_owned(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    vec![
        Volume {
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![token]),
                default_mode: None,
            }),
            ..named("weft-token")
        },
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: "weft-ca-root".to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..named("weft-ca-root")
        },
        Volume {
            downward_api: Some(DownwardAPIVolumeSource {
                items: Some(vec![annotations]),
                default_mode: None,
            }),
            ..named("weft-podinfo")
        },
        Volume {
            // In memory, for it holds the key of the leaf; who may read a file there is its owner.
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity("8Mi".to_owned())),
            }),
            ..named("weft-state")
        },
    ]
}

fn named(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        ..Volume::default()
    }
}

/// The container that redirects.
pub(crate) const REDIRECT: &str = "weft-redirect";
/// The proxy's container.
pub(crate) const PROXY: &str = "weft-proxy";
/// Tells the proxy what the kubelet would ask the app.
pub(crate) const PROBES: &str = "WEFT_APP_PROBES";
/// Makes a native sidecar of an init container.
pub(crate) const ALWAYS: &str = "Always";
const PROGRAM: &str = "/usr/local/bin/weft-proxy";
const PODINFO_AT: &str = "/etc/weft/podinfo";
const STATE_AT: &str = "/var/lib/weft";
/// Metrics and readiness answer the kubelet and Prometheus directly.
const PROBED: [u16; 2] = [15020, READY_PORT];
