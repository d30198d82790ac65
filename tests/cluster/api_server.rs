//! The API server under test, and the objects that tests make there.

use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, Client, Config};
use serde_json::Value;
use weft_tests::eventually::soon;
use weft_tests::skip::skip;

/// How to reach it.
pub(crate) struct ApiServer {
    pub(crate) config: Config,
    pub(crate) client: Client,
}

impl ApiServer {
    /// Connects, or says why the test is skipped.
    #[expect(
        clippy::disallowed_methods,
        reason = "where the API server is can come from nowhere else"
    )]
    pub(crate) async fn connect() -> Option<Self> {
        let Ok(path) = std::env::var("TEST_KUBECONFIG") else {
            skip("TEST_KUBECONFIG names no API server");
            return None;
        };
        let file = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        Some(Self { config, client })
    }

    /// Makes a namespace that nobody else has.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let object = serde_json::json!({"metadata": {"generateName": format!("{prefix}-")}});
        let made = self
            .api("v1", "Namespace", None)
            .create(
                &PostParams::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await;
        made.unwrap().metadata.name.unwrap()
    }

    /// Applies an object, and its `status` where it has one.
    pub(crate) async fn apply(&self, object: Value) -> DynamicObject {
        let text = |path: &str| {
            object
                .pointer(path)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let (version, kind) = (text("/apiVersion").unwrap(), text("/kind").unwrap());
        let api = self.api(&version, &kind, text("/metadata/namespace").as_deref());
        let name = text("/metadata/name").unwrap();
        let params = PatchParams::apply("weft-tests").force();
        let mut made = api
            .patch(&name, &params, &Patch::Apply(&object))
            .await
            .unwrap();
        if object.get("status").is_some() {
            made = api
                .patch_status(&name, &params, &Patch::Apply(&object))
                .await
                .unwrap();
        }
        made
    }

    /// Sets annotations of an object; `null` takes one away.
    pub(crate) async fn annotate(
        &self,
        version: &str,
        kind: &str,
        place: (Option<&str>, &str),
        annotations: Value,
    ) {
        let patch = serde_json::json!({"metadata": {"annotations": annotations}});
        let api = self.api(version, kind, place.0);
        api.patch(place.1, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// How discovery reaches it: as its own service account, with the rights of the manifest. Tests run it in the namespace `default`.
    pub(crate) async fn as_discovery(&self) -> Config {
        let rights = include_str!("../../manifests/base/discovery-rbac.yaml")
            .replace("weft-system", "default");
        for document in rights.split("\n---\n") {
            self.apply(serde_saphyr::from_str(document).unwrap()).await;
        }
        self.as_account("default", "weft-discovery").await
    }

    /// How a service account reaches it, with no rights but its own.
    pub(crate) async fn as_account(&self, namespace: &str, account: &str) -> Config {
        let token = self.token(namespace, account, None).await;
        let mut config = self.config.clone();
        config.auth_info = AuthInfo {
            token: Some(token.into()),
            ..AuthInfo::default()
        };
        config
    }

    /// A token of a service account.
    pub(crate) async fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: Option<&str>,
    ) -> String {
        self.token_of(namespace, account, audience, None).await
    }

    /// The same, as the kubelet gets it for a pod of the account, if `pod` is one.
    pub(crate) async fn token_of(
        &self,
        namespace: &str,
        account: &str,
        audience: Option<&str>,
        pod: Option<&DynamicObject>,
    ) -> String {
        let audiences: Vec<&str> = audience.into_iter().collect();
        let bound = pod.map(|pod| {
            let (name, uid) = (&pod.metadata.name, &pod.metadata.uid);
            serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid})
        });
        let body = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences, "expirationSeconds": 3600, "boundObjectRef": bound},
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(serde_json::to_vec(&body).unwrap()).unwrap();
        let made: Value = soon(self.client.request(request)).await.unwrap();
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Whether the CRDs of the Gateway API are installed.
    pub(crate) async fn has_routes(&self) -> bool {
        let routes = self.api("gateway.networking.k8s.io/v1", "HTTPRoute", None);
        routes.list(&ListParams::default()).await.is_ok()
    }

    /// All objects of a kind.
    pub(crate) fn api(
        &self,
        version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if kind == "EndpointSlice" {
            "endpointslices".clone_into(&mut resource.plural);
        }
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}
