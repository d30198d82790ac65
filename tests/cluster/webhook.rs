//! A running `weft-injector`, registered with the API server by the shipped configuration and held to the shipped rights.

use std::net::TcpListener;
use std::thread::JoinHandle;

use kube::Config as Cluster;
use kube::api::PostParams;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weft_injector::app;
use weft_injector::config::Config;
use weft_tests::eventually::{PATIENCE, eventually};
use weft_tests::scratch::Scratch;

use crate::api_server::ApiServer;

/// The injector, its own system namespace, and a mark by which the API server shows it the namespaces of its test alone.
pub(crate) struct Webhook {
    pub(crate) api: ApiServer,
    /// Stands for `weft-system`, and is the mark.
    pub(crate) system: String,
    /// As which the injector reaches the API server.
    pub(crate) account: Cluster,
    directory: Scratch,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    /// Grants the rights, starts the injector, registers it and waits until the API server trusts it; `None` if there is none.
    pub(crate) async fn new() -> Option<Self> {
        let api = ApiServer::connect().await?;
        let system = api.namespace("weft-hook").await;
        for object in renamed(
            include_str!("../../manifests/base/injector-rbac.yaml"),
            &system,
        ) {
            api.apply(object).await;
        }
        // Another container may stand before ours.
        let containers = json!([{"name": "other", "image": "other:1"}, {"name": "weft-injector", "image": IMAGE}]);
        api.apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": system},
            "spec": {"serviceAccountName": "default", "containers": containers}}))
            .await;
        let account = api.as_account(&system, &system).await;
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listeners[0].local_addr().unwrap().port();
        let mut webhook = Self {
            api,
            system,
            account,
            directory: Scratch::new(),
            stop: CancellationToken::new(),
            thread: None,
        };
        webhook.new_certificate();
        webhook.start(listeners);
        webhook.register(port).await;
        eventually(
            PATIENCE,
            async || webhook.bundles().await,
            |bundles| bundles.iter().all(Value::is_string),
        )
        .await;
        Some(webhook)
    }

    /// Replaces the injector's certificate by one of another authority.
    pub(crate) fn new_certificate(&self) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        self.directory
            .file("tls.key", made.signing_key.serialize_pem());
        self.directory.file("tls.crt", made.cert.pem());
        self.directory.file("ca.crt", made.cert.pem());
    }

    fn start(&mut self, listeners: [TcpListener; 2]) {
        let directory = self.directory.path().display().to_string();
        let system = self.system.clone();
        let config = Config::from_env(|name| match name {
            "WEFT_INJECTOR_CERT_DIR" => Some(directory.clone()),
            "WEFT_INJECTOR_WEBHOOK" | "WEFT_NAMESPACE" => Some(system.clone()),
            "WEFT_POD_NAME" => Some(POD.to_owned()),
            _ => None,
        });
        let (config, cluster, stop) = (config.unwrap(), self.account.clone(), self.stop.clone());
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(app::serve(config, cluster, listeners, stop))
                .unwrap();
        }));
    }

    /// The shipped configuration, but for where the injector is and which namespaces are shown to it.
    async fn register(&self, port: u16) {
        let mut objects = renamed(
            include_str!("../../manifests/base/webhook.yaml"),
            &self.system,
        );
        let mut object = objects.pop().unwrap();
        for webhook in object["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"] = json!({"url": format!("https://127.0.0.1:{port}/inject")});
            let marked = json!({"key": MARK, "operator": "In", "values": [self.system]});
            let selector = webhook
                .pointer_mut("/namespaceSelector/matchExpressions")
                .unwrap();
            selector.as_array_mut().unwrap().push(marked);
        }
        self.api.apply(object).await;
    }

    /// The `caBundle` of each rule.
    pub(crate) async fn bundles(&self) -> Vec<Value> {
        let api = self.api.api(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            None,
        );
        let object = api.get(&self.system).await.unwrap();
        let webhooks = object.data["webhooks"].as_array().unwrap().iter();
        webhooks
            .map(|webhook| webhook["clientConfig"]["caBundle"].clone())
            .collect()
    }

    /// Makes a namespace of the test; the first answers of the API server may still be without our rules.
    pub(crate) async fn namespace(&self, meta: Value) -> String {
        let mut meta = meta;
        meta["generateName"] = json!("shop-");
        meta["labels"][MARK] = json!(self.system);
        let object = serde_json::from_value(json!({"metadata": meta})).unwrap();
        let namespaces = self.api.api("v1", "Namespace", None);
        let made = namespaces
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        let name = made.metadata.name.unwrap();
        let probe = json!({"metadata": {"name": "probe", "labels": {"weft.dev/inject": "enabled"}}, "spec": pod_spec()});
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let pods = self.api.api("v1", "Pod", Some(&name));
        let object: DynamicObject = serde_json::from_value(probe).unwrap();
        let shown = async || {
            pods.create(&dry, &object)
                .await
                .map(|pod| is_injected(&pod.data))
        };
        let _shown = eventually(PATIENCE, shown, |shown| matches!(shown, Ok(true))).await;
        name
    }

    /// Makes an object as the API server takes it.
    pub(crate) async fn create(
        &self,
        version: &str,
        kind: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, String> {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let api = self.api.api(version, kind, Some(namespace));
        let made = api.create(&PostParams::default(), &object).await;
        if let Err(kube::Error::Api(status)) = made {
            return Err(status.message);
        }
        Ok(serde_json::to_value(made.unwrap()).unwrap())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The objects of a manifest, with names of a test's own.
fn renamed(manifest: &str, system: &str) -> Vec<Value> {
    let manifest = manifest
        .replace("weft-system", system)
        .replace("weft-injector", system);
    serde_saphyr::from_multiple(&manifest).unwrap()
}

/// Whether the proxy is where it belongs.
pub(crate) fn is_injected(pod: &Value) -> bool {
    pod["spec"]["initContainers"][1]["name"] == "weft-proxy"
}

/// One container. The account is named, for an API server without a controller manager does not fill it in.
pub(crate) fn pod_spec() -> Value {
    json!({"serviceAccountName": "default", "containers": [{"name": "app", "image": "orders:1"}]})
}

/// Stands for the injector's own pod.
const POD: &str = "weft-injector-7d9f";
/// What it runs, as a policy of the cluster may have rewritten it.
pub(crate) const IMAGE: &str = "mirror.test/weft@sha256:aa";
const MARK: &str = "weft.dev/test";
