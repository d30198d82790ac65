//! `weft-discovery` as it ships, before a real API server: what objects become, how changes travel, who may ask.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use serde_json::{Value, json};

use tokio_util::sync::CancellationToken;
use weft_api::weft::{InboundPolicy, RoutePolicy};
use weft_api::workload::{AppProtocol, TunnelProtocol, WorkloadStatus};
use weft_api::{ADDRESS, INBOUND_POLICY, ROUTE_POLICY};
use weft_certs::authority::Authority as Source;
use weft_certs::identity::Identity;
use weft_discovery::config::Config;
use weft_tests::authority::Authority;
use weft_tests::ca::id;
use weft_tests::client::Http1;
use weft_tests::eventually::{PATIENCE, eventually};
use weft_tests::skip::skip;

use crate::api_server::ApiServer;
use crate::subscriber::Subscriber;

/// Discovery and the authority of its mesh.
struct Running {
    api: ApiServer,
    authority: Authority,
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts discovery before the API server, with the rights that it ships with, or says why the test is skipped.
    async fn start() -> Option<Self> {
        let api = ApiServer::connect().await?;
        let cluster = api.as_discovery().await;
        let authority = Authority::new();
        let mut variables: BTreeMap<&str, String> =
            authority.variables("weft-discovery").into_iter().collect();
        variables.insert("WEFT_NAMESPACE", "default".to_owned());
        let config = Config::from_env(|name| variables.get(name).cloned()).unwrap();
        let listeners = [(); 2].map(|()| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let [address, metrics] = [0, 1].map(|index: usize| listeners[index].local_addr().unwrap());
        let stop = CancellationToken::new();
        let child = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(weft_discovery::app::serve(
                    config, cluster, listeners, child,
                ))
                .unwrap();
        });
        let running = Self {
            api,
            authority,
            address,
            stop,
            thread: Some(thread),
        };
        let ready = async || {
            Http1::connect(metrics)
                .await
                .get("x", "/ready")
                .await
                .status
                .as_u16()
        };
        eventually(PATIENCE, ready, |status| *status == 200).await;
        Some(running)
    }

    /// A certificate of the mesh for `account` of the namespace `default`.
    async fn identity(&self, account: &str) -> Identity {
        let variables: BTreeMap<&str, String> =
            self.authority.variables(account).into_iter().collect();
        let source = Source {
            address: variables["WEFT_CA_ADDRESS"].parse().unwrap(),
            roots: variables["WEFT_CA_ROOT"].clone().into(),
            name: Some("localhost".to_owned()),
            token_file: variables["WEFT_TOKEN_FILE"].clone().into(),
            lifetime: Duration::from_secs(3600),
        };
        source.request(&id(account)).await.unwrap()
    }

    async fn subscriber(&self, account: &str) -> Subscriber {
        let tls = self
            .identity(account)
            .await
            .client_config(&id("weft-discovery"), &[b"h2"])
            .unwrap();
        Subscriber::connect(self.address, ClientConfig::clone(&tls), None)
            .await
            .unwrap()
    }

    /// A client that knows discovery but shows no certificate.
    async fn with_token(&self, token: &str) -> Result<Subscriber, tonic::Status> {
        let identity = self.identity("web").await;
        let mut tls = ClientConfig::clone(
            &identity
                .client_config(&id("weft-discovery"), &[b"h2"])
                .unwrap(),
        );
        tls.client_auth_cert_resolver = Arc::new(NoCertificate);
        Subscriber::connect(self.address, tls, Some(token)).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn service(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders", "namespace": namespace},
        "spec": {"selector": {"app": "orders"}, "ports": [
            {"name": "web", "port": 80, "targetPort": "http", "appProtocol": "http"},
            {"name": "grpc-api", "port": 90, "targetPort": 9090},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]},
    })
}

fn pod(namespace: &str, name: &str, ip: &str, meshed: bool) -> Value {
    let mut containers = vec![json!({"name": "app", "image": "app"})];
    if meshed {
        containers.push(json!({"name": "weft-proxy", "image": "weft"}));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": "orders"}},
        "spec": {"containers": containers, "serviceAccountName": "default"},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn slice(namespace: &str, endpoints: &[(&str, &str, bool, bool)]) -> Value {
    let endpoint = |(name, ip, ready, terminating): &(&str, &str, bool, bool)| {
        json!({
            "addresses": [ip], "conditions": {"ready": ready, "serving": *ready || *terminating, "terminating": terminating},
            "targetRef": {"kind": "Pod", "name": name, "namespace": namespace}, "zone": "a",
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "orders-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "orders"}},
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "web", "port": 8080}, {"name": "grpc-api", "port": 9090}],
    })
}

fn name(namespace: &str) -> String {
    format!("{namespace}/orders.{namespace}.svc.cluster.local")
}

#[tokio::test]
async fn a_service_is_told_by_its_cluster_ip_and_followed() {
    let Some(running) = Running::start().await else {
        return;
    };
    let namespace = running.api.namespace("shop").await;
    let made = running.api.apply(service(&namespace)).await;
    let ip = made.data["spec"]["clusterIP"].as_str().unwrap().to_owned();
    running
        .api
        .apply(pod(&namespace, "orders-a", "10.1.0.1", true))
        .await;
    running
        .api
        .apply(pod(&namespace, "orders-b", "10.1.0.2", false))
        .await;
    running
        .api
        .apply(slice(
            &namespace,
            &[
                ("orders-a", "10.1.0.1", true, false),
                ("orders-b", "10.1.0.2", true, false),
            ],
        ))
        .await;

    let mut subscriber = running.subscriber("web").await;
    subscriber.subscribe(ADDRESS, &[&format!("/{ip}")]).await;
    let name = name(&namespace);
    let both = |one: &Subscriber| {
        one.workloads()
            .iter()
            .filter(|pod| pod.services.contains_key(&name))
            .count()
            == 2
    };
    subscriber.until(both).await;
    let told = subscriber.service(&name).unwrap();
    let ports: Vec<_> = told
        .ports
        .iter()
        .map(|port| (port.service_port, port.app_protocol()))
        .collect();
    assert_eq!(ports, [(80, AppProtocol::Http11), (90, AppProtocol::Grpc)]);
    let tunnels: Vec<_> = subscriber
        .workloads()
        .iter()
        .map(|pod| pod.tunnel_protocol())
        .collect();
    assert_eq!(
        tunnels,
        [TunnelProtocol::LegacyIstioMtls, TunnelProtocol::None]
    );

    running
        .api
        .apply(slice(
            &namespace,
            &[
                ("orders-a", "10.1.0.1", false, true),
                ("orders-b", "10.1.0.2", false, false),
            ],
        ))
        .await;
    subscriber
        .until(|one| {
            one.workloads().len() == 1 && one.workloads()[0].status() == WorkloadStatus::Unhealthy
        })
        .await;

    let services = running.api.api("v1", "Service", Some(&namespace));
    services
        .delete("orders", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    subscriber.until(|one| one.known.is_empty()).await;
    assert!(subscriber.removed.contains(&format!("/{ip}")));
}

/// A service with one ready pod, which a Deployment made.
async fn deployed(api: &ApiServer, ip: &str) -> String {
    let namespace = api.namespace("shop").await;
    api.apply(service(&namespace)).await;
    let mut owned = pod(&namespace, "orders-a", ip, true);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "orders", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "orders"}}, "template": {
            "metadata": {"labels": {"app": "orders"}}, "spec": {"containers": [{"name": "app", "image": "app"}]}}},
    });
    let uid = api.apply(deployment).await.metadata.uid.unwrap();
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "orders", "uid": uid, "controller": true}]);
    api.apply(owned).await;
    api.apply(slice(&namespace, &[("orders-a", ip, true, false)]))
        .await;
    namespace
}

#[tokio::test]
async fn callers_learn_the_annotations_of_every_object() {
    let Some(running) = Running::start().await else {
        return;
    };
    let api = &running.api;
    let namespace = deployed(api, "10.2.0.1").await;
    let mut caller = running.subscriber("web").await;
    let name = name(&namespace);
    caller.subscribe(ROUTE_POLICY, &[&name]).await;
    caller.until(|one| one.known.contains_key(&name)).await;
    api.annotate(
        "v1",
        "Namespace",
        (None, &namespace),
        json!({"weft.dev/timeout": "9s", "weft.dev/mtls": "strict"}),
    )
    .await;
    api.annotate(
        "apps/v1",
        "Deployment",
        (Some(&namespace), "orders"),
        json!({"weft.dev/retry": "3"}),
    )
    .await;
    api.annotate(
        "v1",
        "Service",
        (Some(&namespace), "orders"),
        json!({"weft.dev/timeout": "1s"}),
    )
    .await;
    let kinds = |one: &Subscriber| {
        let policy: RoutePolicy = one.content(&name).unwrap_or_default();
        policy
            .layers
            .into_iter()
            .map(|layer| layer.kind)
            .collect::<Vec<_>>()
    };
    caller
        .until(|one| kinds(one) == ["namespace", "workload", "service"])
        .await;

    // A wrong one changes nothing, and is told of on the object.
    api.annotate(
        "v1",
        "Namespace",
        (None, &namespace),
        json!({"weft.dev/timeout": "soon"}),
    )
    .await;
    let events = api.api("events.k8s.io/v1", "Event", None);
    let told = async || {
        let all = events
            .list(&kube::api::ListParams::default())
            .await
            .unwrap()
            .items;
        let ours = all
            .iter()
            .filter(|event| event.data["regarding"]["name"] == namespace.as_str());
        ours.map(|event| event.data["note"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let notes = eventually(PATIENCE, told, |notes| !notes.is_empty()).await;
    assert!(notes[0].contains("timeout"), "{notes:?}");
    assert_eq!(kinds(&caller), ["namespace", "workload", "service"]);
}

#[tokio::test]
async fn what_lies_under_a_pod_is_for_nobody_else() {
    let Some(running) = Running::start().await else {
        return;
    };
    let namespace = deployed(&running.api, "10.3.0.1").await;
    let strict = json!({"weft.dev/mtls": "strict"});
    running
        .api
        .annotate("v1", "Namespace", (None, &namespace), strict)
        .await;
    let own = format!("Kubernetes//Pod/{namespace}/orders-a");
    let token = token(&running, &namespace, "istio-ca").await;
    let mut pod = running.with_token(&token).await.unwrap();
    pod.subscribe(INBOUND_POLICY, &[&own]).await;
    let layers = |one: &Subscriber| {
        one.content::<InboundPolicy>(&own)
            .unwrap_or_default()
            .layers
    };
    pod.until(|one| {
        layers(one)
            .iter()
            .any(|layer| layer.document.contains("strict"))
    })
    .await;
    let mut stranger = running.subscriber("web").await;
    stranger.subscribe(INBOUND_POLICY, &[&own]).await;
    stranger.until(|one| one.removed.contains(&own)).await;
}

#[tokio::test]
async fn a_token_counts_only_for_its_audience() {
    let Some(running) = Running::start().await else {
        return;
    };
    let namespace = running.api.namespace("shop").await;
    for (audience, good) in [("istio-ca", true), ("elsewhere", false)] {
        let answer = running
            .with_token(&token(&running, &namespace, audience).await)
            .await;
        assert_eq!(answer.is_ok(), good, "{audience}");
    }
    let answer = running.with_token("nonsense").await;
    assert_eq!(
        answer.err().map(|status| status.code()),
        Some(tonic::Code::Unauthenticated)
    );
}

/// A token of the service account `default`.
async fn token(running: &Running, namespace: &str, audience: &str) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
    running.api.apply(account).await;
    running
        .api
        .token(namespace, "default", Some(audience))
        .await
}

#[tokio::test]
async fn a_route_is_told_to_callers_and_its_writer_is_answered() {
    let Some(running) = Running::start().await else {
        return;
    };
    let api = &running.api;
    if !api.has_routes().await {
        return skip("the API server has no HTTPRoutes: apply the CRDs of the Gateway API");
    }
    let namespace = deployed(api, "10.4.0.1").await;
    let route = |backend: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "orders", "namespace": namespace},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "orders"}],
                     "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/new"}}], "backendRefs": [{"name": backend, "port": 80}]}]},
        })
    };
    let mut caller = running.subscriber("web").await;
    let name = name(&namespace);
    caller.subscribe(ROUTE_POLICY, &[&name]).await;
    let routes = api.api(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        Some(&namespace),
    );
    for (backend, want, resolved) in [("orders", "split", "True"), ("nobody", "500", "False")] {
        api.apply(route(backend)).await;
        let told = |one: &Subscriber| {
            let policy: RoutePolicy = one.content(&name).unwrap_or_default();
            policy
                .layers
                .iter()
                .any(|layer| layer.kind == "route" && layer.document.contains(want))
        };
        caller.until(told).await;
        let verdict = async || {
            let status = routes.get("orders").await.unwrap().data["status"]["parents"][0].clone();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .map(|one| one["status"].as_str().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        eventually(PATIENCE, verdict, |found| *found == ["True", resolved]).await;
    }
}

#[tokio::test]
async fn discovery_has_no_right_to_secrets() {
    let Some(api) = ApiServer::connect().await else {
        return;
    };
    let client = kube::Client::try_from(api.as_discovery().await).unwrap();
    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> = kube::Api::all(client);
    let error = secrets
        .list(&kube::api::ListParams::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.code == 403),
        "{error}"
    );
}
