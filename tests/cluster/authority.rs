//! `weft-ca` as it ships, before a real API server, in a namespace of its own and with no rights but those of the manifests; and who asks it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use kube::Config as Cluster;
use kube::core::DynamicObject;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use weft_api::istio_ca::IstioCertificateRequest;
use weft_api::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use weft_ca::app::{self, Bound};
use weft_ca::config::Config;
use weft_certs::bundle::Bundle;
use weft_certs::csr;
use weft_certs::leaf::Leaf;
use weft_certs::web;
use weft_policy::spiffe::SpiffeId;
use weft_tests::client::Http1;
use weft_tests::eventually::soon;

use crate::api_server::ApiServer;

/// A namespace in which replicas of the authority run.
pub(crate) struct System {
    pub(crate) api: ApiServer,
    pub(crate) namespace: String,
    /// As which the replicas reach the API server.
    pub(crate) cluster: Cluster,
    settings: BTreeMap<&'static str, String>,
}

impl System {
    /// Makes the namespace and grants the rights; `None` if there is no API server.
    pub(crate) async fn new() -> Option<Self> {
        let api = ApiServer::connect().await?;
        let namespace = api.namespace("weft-ca").await;
        let rights = include_str!("../../manifests/base/ca-rbac.yaml");
        grant(&api, &namespace, rights).await;
        let cluster = api.as_account(&namespace, "weft-ca").await;
        let settings = BTreeMap::from([
            ("WEFT_CA_SECRET", "weft-ca".to_owned()),
            ("WEFT_CA_TOKENS", "kubernetes".to_owned()),
            ("WEFT_NAMESPACE", namespace.clone()),
            ("WEFT_CA_LISTEN", "127.0.0.1:0".to_owned()),
            ("WEFT_CA_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ]);
        Some(Self {
            api,
            namespace,
            cluster,
            settings,
        })
    }

    /// Grants what node proxies need.
    pub(crate) async fn grant_pods(&self) {
        let rights = include_str!("../../manifests/ztunnel/ca-pods-rbac.yaml");
        grant(&self.api, &self.namespace, rights).await;
    }

    pub(crate) fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.insert(name, value.into());
        self
    }

    /// The ConfigMap with the roots: each test has its own, or they would write over each other's.
    pub(crate) fn config_map(&self) -> String {
        format!("weft-ca-root-{}", self.namespace)
    }

    /// Starts a replica.
    pub(crate) fn start(&self) -> Replica {
        let config = Config::from_env(|name| self.settings.get(name).cloned()).unwrap();
        let bound = app::start_in(config, Some(self.cluster.clone())).unwrap();
        Replica { bound }
    }

    /// The Secret's data as text.
    pub(crate) async fn secret(&self) -> BTreeMap<String, String> {
        let api = self.api.api("v1", "Secret", Some(&self.namespace));
        let secret: k8s_openapi::api::core::v1::Secret =
            api.get("weft-ca").await.unwrap().try_parse().unwrap();
        let text = |bytes: k8s_openapi::ByteString| String::from_utf8(bytes.0).unwrap();
        let data = secret.data.unwrap_or_default().into_iter();
        data.map(|(key, bytes)| (key, text(bytes))).collect()
    }

    /// Changes keys of the Secret; `null` takes one away.
    pub(crate) async fn change_secret(&self, data: Value) {
        let api = self.api.api("v1", "Secret", Some(&self.namespace));
        let patch = kube::api::Patch::Merge(json!({"stringData": data}));
        soon(api.patch("weft-ca", &kube::api::PatchParams::default(), &patch))
            .await
            .unwrap();
    }

    /// Makes an account and a pod of it on `node`; no kubelet runs it.
    pub(crate) async fn pod(&self, namespace: &str, account: &str, node: &str) -> DynamicObject {
        let made = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace}});
        self.api.apply(made).await;
        let name = format!("{account}-{node}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"serviceAccountName": account, "nodeName": node,
                "containers": [{"name": "app", "image": "weft.dev/echo:1"}]}});
        self.api.apply(pod).await
    }

    /// A token of a new pod of `account` in our namespace.
    pub(crate) async fn token(&self, account: &str) -> String {
        let pod = self.pod(&self.namespace, account, "one").await;
        let audience = Some("istio-ca");
        self.api
            .token_of(&self.namespace, account, audience, Some(&pod))
            .await
    }

    /// The identity of an account of our namespace.
    pub(crate) fn id(&self, account: &str) -> SpiffeId {
        workload(&self.namespace, account)
    }
}

/// One authority that runs.
pub(crate) struct Replica {
    bound: Bound,
}

/// What is asked for.
pub(crate) struct Wish<'a> {
    pub(crate) id: &'a SpiffeId,
    /// Instead of the caller.
    pub(crate) impersonated: Option<&'a SpiffeId>,
}

impl<'a> Wish<'a> {
    pub(crate) fn own(id: &'a SpiffeId) -> Self {
        Self {
            id,
            impersonated: None,
        }
    }
}

impl Replica {
    /// Asks for a leaf; also returns the roots that come with it.
    pub(crate) async fn ask(
        &self,
        roots: &str,
        token: &str,
        wish: &Wish<'_>,
    ) -> Result<(Leaf, Bundle), Status> {
        let request = csr::Request::new(wish.id).unwrap();
        let mut message = Request::new(IstioCertificateRequest {
            csr: request.pem().to_owned(),
            validity_duration: 3600,
            metadata: wish.impersonated.map(impersonating),
        });
        let bearer = format!("Bearer {token}").parse().unwrap();
        message.metadata_mut().insert("authorization", bearer);
        let channel = channel(self.bound.ca, roots).await;
        let mut client = IstioCertificateServiceClient::new(channel);
        let answer = soon(client.create_certificate(message)).await?;
        let chain = answer.into_inner().cert_chain;
        let (roots, chain) = chain.split_last().unwrap();
        let leaf = request.into_leaf(chain).unwrap();
        Ok((leaf, Bundle::from_pem(roots).unwrap()))
    }

    /// The same, of which only the code matters.
    pub(crate) async fn code(&self, roots: &str, token: &str, wish: &Wish<'_>) -> Code {
        let answer = self.ask(roots, token, wish).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    /// The sum of a counter.
    pub(crate) async fn counted(&self, metric: &str) -> f64 {
        weft_tests::metrics::Scrape::of(self.bound.metrics)
            .await
            .sum(metric, &[])
    }

    pub(crate) async fn status(&self, path: &str) -> u16 {
        let mut client = Http1::connect(self.bound.metrics).await;
        client.get("ca", path).await.status.as_u16()
    }
}

fn impersonating(id: &SpiffeId) -> prost_types::Struct {
    let kind = Some(prost_types::value::Kind::StringValue(
        id.as_str().to_owned(),
    ));
    let value = prost_types::Value { kind };
    let fields = [("ImpersonatedIdentity".to_owned(), value)];
    prost_types::Struct {
        fields: fields.into(),
    }
}

async fn channel(address: SocketAddr, roots: &str) -> Channel {
    let tls = web::client_config(roots, None, &[b"h2"]).unwrap();
    let tcp = soon(TcpStream::connect(address)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = soon(TlsConnector::from(Arc::new(tls)).connect(name, tcp));
    let mut stream = Some(TokioIo::new(stream.await.unwrap()));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
        async move { stream.map_err(io::Error::from) }
    });
    let endpoint = Endpoint::from_static("https://localhost");
    endpoint.connect_with_connector(connector).await.unwrap()
}

pub(crate) fn workload(namespace: &str, account: &str) -> SpiffeId {
    let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    SpiffeId::parse(&id).unwrap()
}

/// Applies the rights of a manifest for `namespace`; what has no namespace gets a name of its own.
async fn grant(api: &ApiServer, namespace: &str, rights: &str) {
    let rights = rights
        .replace("weft-system", namespace)
        .replace("weft-ca-root", &format!("weft-ca-root-{namespace}"));
    for document in rights.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(document).unwrap();
        let rename = |name: &mut Value| {
            *name = format!("{}-{namespace}", name.as_str().unwrap()).into();
        };
        if object["metadata"].get("namespace").is_none() {
            rename(&mut object["metadata"]["name"]);
        }
        if object["roleRef"]["kind"] == "ClusterRole" {
            rename(&mut object["roleRef"]["name"]);
        }
        api.apply(object).await;
    }
}
