//! Probes: the kubelet asks the proxy, and the proxy the app. What is to be asked is told to the proxy in one variable.
//!
//! A probe that runs a command is nobody's traffic and stays. What cannot be turned is told of, and stays as well.

use k8s_openapi::api::core::v1::{Container, ContainerPort, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_policy::probe::{AppProbe, AppProbes, PATH_PREFIX, ProbeKind, Question, READY_PORT, key};

/// Collects what is to be asked while probes are turned.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    pub(crate) asked: AppProbes,
    pub(crate) warnings: Vec<String>,
}

impl Probes {
    /// Goes on from what a proxy was told before.
    pub(crate) fn told(variable: Option<&str>) -> Self {
        let asked = variable.and_then(|text| serde_json::from_str(text).ok());
        Self {
            asked: asked.unwrap_or_default(),
            warnings: Vec::new(),
        }
    }

    /// Turns the probes of `container` to the proxy.
    pub(crate) fn turn(&mut self, container: &mut Container) {
        let ports = container.ports.clone().unwrap_or_default();
        let probes = [
            (ProbeKind::Startup, &mut container.startup_probe),
            (ProbeKind::Readiness, &mut container.readiness_probe),
            (ProbeKind::Liveness, &mut container.liveness_probe),
        ];
        for (kind, probe) in probes {
            let Some(probe) = probe else { continue };
            let turned = path(&container.name, kind);
            if probe
                .http_get
                .as_ref()
                .is_some_and(|get| is_turned(get, &turned))
            {
                continue;
            }
            match question(probe, &ports) {
                Ok(Some(ask)) => {
                    let asked = AppProbe {
                        ask,
                        timeout_seconds: seconds(probe),
                    };
                    self.asked.insert(key(&container.name, kind), asked);
                    turn_one(probe, turned);
                }
                Ok(None) => {}
                Err(reason) => self.warnings.push(format!(
                    "container {}: its {kind} probe is left to the kubelet: {reason}",
                    container.name
                )),
            }
        }
    }

    /// What the proxy is told; nothing where there is nothing to ask.
    pub(crate) fn variable(&self) -> Option<String> {
        // Maps of text and numbers are always JSON.
        let text = serde_json::to_string(&self.asked).ok()?;
        (!self.asked.is_empty()).then_some(text)
    }
}

/// What a probe asks; nothing if it runs a command.
fn question(probe: &Probe, ports: &[ContainerPort]) -> Result<Option<Question>, String> {
    if let Some(get) = &probe.http_get {
        return http(get, ports).map(Some);
    }
    if let Some(tcp) = &probe.tcp_socket {
        own_address(tcp.host.as_deref())?;
        let port = number(&tcp.port, ports)?;
        return Ok(Some(Question::Tcp { port }));
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).ok().filter(|port| *port > 0);
        return Ok(Some(Question::Grpc {
            port: port.ok_or_else(|| format!("{} is no port", grpc.port))?,
            service: grpc.service.clone().unwrap_or_default(),
        }));
    }
    Ok(None)
}

fn http(get: &HTTPGetAction, ports: &[ContainerPort]) -> Result<Question, String> {
    own_address(get.host.as_deref())?;
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let headers = get.http_headers.iter().flatten();
    Ok(Question::Http {
        port: number(&get.port, ports)?,
        path: format!("{slash}{path}"),
        tls: get
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS")),
        headers: headers
            .map(|one| (one.name.clone(), one.value.clone()))
            .collect(),
    })
}

/// A probe with a host goes from the kubelet to that host, and not through the pod's proxy.
fn own_address(host: Option<&str>) -> Result<(), String> {
    match host {
        None | Some("") => Ok(()),
        Some(host) => Err(format!("it goes to host {host:?}, not to the pod")),
    }
}

fn number(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => ports
                .iter()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port),
        },
    };
    let port_number = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0);
    port_number.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("{number} is no port"),
        IntOrString::String(name) => format!("the container has no port named {name:?}"),
    })
}

fn turn_one(probe: &mut Probe, path: String) {
    probe.tcp_socket = None;
    probe.grpc = None;
    probe.http_get = Some(HTTPGetAction {
        path: Some(path),
        port: IntOrString::Int(READY_PORT.into()),
        scheme: Some("HTTP".to_owned()),
        ..HTTPGetAction::default()
    });
}

fn is_turned(get: &HTTPGetAction, path: &str) -> bool {
    get.path.as_deref() == Some(path) && get.port == IntOrString::Int(READY_PORT.into())
}

fn path(container: &str, kind: ProbeKind) -> String {
    format!("{PATH_PREFIX}{}", key(container, kind))
}

/// "Number of seconds after which the probe times out. Defaults to 1 second. Minimum value is 1." (core/v1, Probe)
fn seconds(probe: &Probe) -> u32 {
    let seconds = probe
        .timeout_seconds
        .and_then(|seconds| u32::try_from(seconds).ok());
    seconds.filter(|seconds| *seconds > 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn turned(container: Value) -> (Value, Value, Vec<String>) {
        let mut container: Container = serde_json::from_value(container).unwrap();
        let mut probes = Probes::default();
        probes.turn(&mut container);
        let again = container.clone();
        probes.turn(&mut container);
        assert_eq!(container, again, "a turned probe stays");
        let asked = serde_json::to_value(&probes.asked).unwrap();
        (
            serde_json::to_value(container).unwrap(),
            asked,
            probes.warnings,
        )
    }

    #[test]
    fn each_probe_of_traffic_goes_to_the_proxy() {
        let rows = [
            (
                json!({"httpGet": {"path": "/healthz?full=1", "port": "web", "scheme": "HTTP", "httpHeaders": [{"name": "Host", "value": "a"}]}, "periodSeconds": 3}),
                json!({"ask": {"http": {"port": 8080, "path": "/healthz?full=1", "headers": [["Host", "a"]]}}, "timeoutSeconds": 1}),
            ),
            (
                json!({"httpGet": {"port": 8443, "scheme": "HTTPS"}, "timeoutSeconds": 5, "periodSeconds": 3}),
                json!({"ask": {"http": {"port": 8443, "path": "/", "tls": true}}, "timeoutSeconds": 5}),
            ),
            (
                json!({"tcpSocket": {"port": 6379}, "periodSeconds": 3}),
                json!({"ask": {"tcp": {"port": 6379}}, "timeoutSeconds": 1}),
            ),
            (
                json!({"grpc": {"port": 50051, "service": "orders"}, "periodSeconds": 3}),
                json!({"ask": {"grpc": {"port": 50051, "service": "orders"}}, "timeoutSeconds": 1}),
            ),
        ];
        for (probe, want) in rows {
            let ports = json!([{"name": "web", "containerPort": 8080}]);
            let (container, asked, warnings) =
                turned(json!({"name": "app", "ports": ports, "livenessProbe": probe}));
            assert_eq!(asked, json!({"app/liveness": want}), "{probe}");
            let mut left = container["livenessProbe"].clone();
            assert_eq!(
                left["httpGet"],
                json!({"path": "/app-health/app/liveness", "port": 15021, "scheme": "HTTP"})
            );
            left.as_object_mut().unwrap().remove("httpGet");
            left.as_object_mut().unwrap().remove("timeoutSeconds");
            assert_eq!(left, json!({"periodSeconds": 3}), "{probe}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn what_cannot_be_turned_stays_and_is_told_of() {
        let rows = [
            (json!({"exec": {"command": ["true"]}}), ""),
            (
                json!({"httpGet": {"port": "web"}}),
                "container app: its startup probe is left to the kubelet: the container has no port named \"web\"",
            ),
            (
                json!({"tcpSocket": {"port": 80, "host": "10.0.0.1"}}),
                "container app: its startup probe is left to the kubelet: it goes to host \"10.0.0.1\", not to the pod",
            ),
            (
                json!({"httpGet": {"port": 70000}}),
                "container app: its startup probe is left to the kubelet: 70000 is no port",
            ),
        ];
        for (probe, want) in rows {
            let mut container: Container =
                serde_json::from_value(json!({"name": "app", "startupProbe": probe})).unwrap();
            let before = container.clone();
            let mut probes = Probes::default();
            probes.turn(&mut container);
            assert_eq!(container, before, "{probe}");
            assert_eq!(probes.warnings.join(""), want);
            assert_eq!(probes.variable(), None);
        }
    }
}
