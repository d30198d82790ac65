//! `weft-ca` before a real API server: one root whatever the number of replicas, callers as the API server knows them, roots in every
//! namespace of the mesh, and all that with the rights in `manifests/base/ca-rbac.yaml` alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::Code;
use weft_ca::issuer::Issuer;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::identity::Identity;
use weft_certs::web;
use weft_tests::eventually::{PATIENCE, eventually, soon};

use crate::authority::{Replica, System, Wish, workload};

#[tokio::test]
async fn three_replicas_that_begin_at_once_make_one_root() {
    let Some(system) = System::new().await else {
        return;
    };
    let replicas: Vec<Replica> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| system.start())).collect();
        let started = starting.into_iter().map(|thread| thread.join().unwrap());
        started.collect()
    });
    let root = system.secret().await["ca.crt"].clone();
    let (token, id) = (system.token("web").await, system.id("web"));
    for replica in &replicas {
        // The connection itself is by that root.
        let (leaf, roots) = replica.ask(&root, &token, &Wish::own(&id)).await.unwrap();
        assert_eq!(roots.to_pem(), root);
        assert!(roots.vouches_for(&leaf));
        assert_eq!(*leaf.id(), id);
    }
    // Nor does a later one, or one that finds the Secret gone, make another.
    let api = system.api.api("v1", "Secret", Some(&system.namespace));
    let gone = DeleteParams::default();
    let _deleted = api.delete("weft-ca", &gone).await.unwrap();
    let there = async || api.get_opt("weft-ca").await.unwrap().is_some();
    eventually(PATIENCE, there, |there| *there).await;
    assert_eq!(system.secret().await["ca.crt"], root, "it was put back");
    let later = system.start();
    assert_eq!(later.code(&root, &token, &Wish::own(&id)).await, Code::Ok);
}

#[tokio::test]
async fn callers_are_who_the_api_server_says() {
    let Some(system) = System::new().await else {
        return;
    };
    let ca = system.start();
    let root = system.secret().await["ca.crt"].clone();
    let (namespace, web) = (system.namespace.as_str(), system.id("web"));
    let pod = system.pod(namespace, "web", "one").await;
    let token = async |audience, pod: Option<&DynamicObject>| {
        let made = system.api.token_of(namespace, "web", Some(audience), pod);
        made.await
    };
    let good = token("istio-ca", Some(&pod)).await;
    let other = token("vault", Some(&pod)).await;
    let unbound = token("istio-ca", None).await;
    let admin = system.id("admin");
    let ztunnel = Wish {
        id: &admin,
        impersonated: Some(&admin),
    };
    let forged = format!("{}x", good.rsplit_once('.').unwrap().0) + ".c2ln";
    let rows = [
        ("good", &*good, Wish::own(&web), Code::Ok),
        ("again", &good, Wish::own(&web), Code::Ok),
        ("audience", &other, Wish::own(&web), Code::Unauthenticated),
        ("no pod", &unbound, Wish::own(&web), Code::Unauthenticated),
        ("forged", &forged, Wish::own(&web), Code::Unauthenticated),
        ("no JWT", "abc", Wish::own(&web), Code::Unauthenticated),
        ("name", &good, Wish::own(&admin), Code::InvalidArgument),
        ("impersonation", &good, ztunnel, Code::Unauthenticated),
    ];
    for (name, token, wish, code) in rows {
        assert_eq!(ca.code(&root, token, &wish).await, code, "{name}");
    }
    // A pod that is gone takes its tokens with it.
    let last = token("istio-ca", Some(&pod)).await;
    let pods = system.api.api("v1", "Pod", Some(namespace));
    let name = pod.metadata.name.as_deref().unwrap();
    let now = DeleteParams::default().grace_period(0);
    let _deleted = pods.delete(name, &now).await.unwrap();
    let code = ca.code(&root, &last, &Wish::own(&web)).await;
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_no_refusal() {
    let Some(mut system) = System::new().await else {
        return;
    };
    let (token, id) = (system.token("web").await, system.id("web"));
    let _makes_the_root = system.start();
    let root = system.secret().await["ca.crt"].clone();
    // It may read its Secret, but must not have tokens reviewed.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": format!("weft-ca-{}", system.namespace)}, "rules": []});
    system.api.apply(role).await;
    system = system.set("WEFT_CA_RELOAD", "1s");
    let ca = system.start();
    let code = async || ca.code(&root, &token, &Wish::own(&id)).await;
    eventually(PATIENCE, code, |code| *code == Code::Unavailable).await;
    assert_eq!(ca.status("/live").await, 200);
}

/// The ConfigMap of a namespace, once it is as `right` wants it.
async fn config_map(system: &System, namespace: &str, right: impl Fn(&Value) -> bool) -> Value {
    let api = system.api.api("v1", "ConfigMap", Some(namespace));
    let name = system.config_map();
    let look = async || {
        let map = api.get_opt(&name).await.unwrap();
        map.map_or(Value::Null, |map| map.data["data"].clone())
    };
    eventually(PATIENCE, look, right).await
}

#[tokio::test]
async fn the_roots_are_known_in_every_namespace_of_the_mesh() {
    let Some(system) = System::new().await else {
        return;
    };
    let name = system.config_map();
    let system = system.set("WEFT_CA_BUNDLE_CONFIGMAP", &name);
    let replicas = [system.start(), system.start()];
    let root = system.secret().await["ca.crt"].clone();
    let is_root = |data: &Value| data["ca.crt"] == *root;
    let data = config_map(&system, &system.namespace, is_root).await;
    let spiffe: Value = serde_json::from_str(data["bundle.json"].as_str().unwrap()).unwrap();
    assert_eq!(spiffe["keys"][0]["use"], "x509-svid");
    assert_eq!(spiffe["spiffe_sequence"], 1);

    // A namespace that becomes one of the mesh, whatever it does with it.
    let shop = system.api.namespace("shop").await;
    let namespaces = system.api.api("v1", "Namespace", None);
    let merge = PatchParams::default();
    let enabled = Patch::Merge(json!({"metadata": {"labels": {"weft.dev/inject": "enabled"}}}));
    let _labelled = namespaces.patch(&shop, &merge, &enabled).await.unwrap();
    config_map(&system, &shop, is_root).await;

    // What others make of it is put back.
    let maps = system.api.api("v1", "ConfigMap", Some(&shop));
    let foreign = Patch::Merge(json!({"data": {"ca.crt": "foreign", "bundle.json": null}}));
    let _changed = maps.patch(&name, &merge, &foreign).await.unwrap();
    config_map(&system, &shop, |data| *data == data_of(&spiffe, &root)).await;
    let deleted = DeleteParams::default();
    let _deleted = maps.delete(&name, &deleted).await.unwrap();
    config_map(&system, &shop, is_root).await;

    // Another root is told everywhere, once: replicas write the same, and nobody writes it again.
    let next = Issuer::generate(&"cluster.local".parse().unwrap()).unwrap();
    let next = next.bundle().to_pem();
    system.change_secret(json!({"next.crt": next})).await;
    let both = format!("{root}{next}");
    for namespace in [&shop, &system.namespace] {
        config_map(&system, namespace, |data| data["ca.crt"] == *both).await;
    }
    let mut others = holders(&system).await;
    let before = writes(&replicas).await;
    system.change_secret(json!({"next.crt": ""})).await;
    for namespace in [&shop, &system.namespace] {
        config_map(&system, namespace, is_root).await;
    }
    let more = writes(&replicas).await - before;
    // Other tests have namespaces of the mesh, too, which may have begun meanwhile: with the old root, and then with this one.
    others.extend(holders(&system).await);
    others.retain(|one| *one != shop && *one != system.namespace);
    let most = 2 * (2 + 2 * others.len());
    assert!(
        more <= f64::from(u32::try_from(most).unwrap()),
        "{more} writes of two replicas to two maps, and those of {others:?}"
    );
}

/// The namespaces that have the ConfigMap.
async fn holders(system: &System) -> BTreeSet<String> {
    let maps = system.api.api("v1", "ConfigMap", None);
    let named = format!("metadata.name={}", system.config_map());
    let listed = maps.list(&ListParams::default().fields(&named)).await;
    let namespaces = listed.unwrap().items.into_iter();
    namespaces
        .filter_map(|one| one.metadata.namespace)
        .collect()
}

/// What a ConfigMap should have.
fn data_of(spiffe: &Value, root: &str) -> Value {
    json!({"ca.crt": root, "bundle.json": spiffe.to_string()})
}

async fn writes(replicas: &[Replica]) -> f64 {
    let mut sum = 0.0;
    for replica in replicas {
        sum += replica.counted("weft_ca_bundle_writes_total").await;
    }
    sum
}

#[tokio::test]
async fn a_root_is_exchanged_in_the_secret() {
    let Some(system) = System::new().await else {
        return;
    };
    let ca = system.start();
    let root = system.secret().await["ca.crt"].clone();
    let (token, id) = (system.token("web").await, system.id("web"));
    let next = Issuer::generate(&"cluster.local".parse().unwrap()).unwrap();
    let new = next.bundle().to_pem();
    let key = next.signer().key().serialize_pem();
    let roots = async || {
        // The authority's own certificate is of one or the other root.
        let trusted = format!("{root}{new}");
        let (leaf, roots) = ca.ask(&trusted, &token, &Wish::own(&id)).await.unwrap();
        assert!(roots.vouches_for(&leaf));
        roots.to_pem()
    };
    system
        .change_secret(json!({"next.crt": new, "next.key": key}))
        .await;
    let want = format!("{root}{new}");
    eventually(PATIENCE, roots, |roots| *roots == want).await;
    // A change that cannot be used changes nothing.
    system.change_secret(json!({"tls.key": "broken"})).await;
    let failed = async || ca.counted("weft_ca_reload_failures_total").await;
    eventually(PATIENCE, failed, |failed| *failed > 0.0).await;
    assert_eq!(roots().await, want);
    let switched = json!({"tls.crt": new, "tls.key": key, "ca.crt": new, "previous.crt": root,
        "next.crt": "", "next.key": ""});
    system.change_secret(switched).await;
    let want = format!("{new}{root}");
    eventually(PATIENCE, roots, |roots| *roots == want).await;
    system.change_secret(json!({"previous.crt": ""})).await;
    eventually(PATIENCE, roots, |roots| *roots == new).await;
}

#[tokio::test]
async fn a_server_that_is_called_by_name_has_it_in_its_leaf() {
    let Some(system) = System::new().await else {
        return;
    };
    let named = format!("{}/hook=hook.weft.svc", system.namespace);
    let system = system.set("WEFT_CA_SERVING_NAMES", named);
    let ca = system.start();
    let root = system.secret().await["ca.crt"].clone();
    for (account, wants) in [("hook", true), ("web", false)] {
        let (token, id) = (system.token(account).await, system.id(account));
        let (leaf, roots) = ca.ask(&root, &token, &Wish::own(&id)).await.unwrap();
        assert_eq!(*leaf.id(), id, "it is still itself");
        let trust = TrustBundles::of(id.trust_domain(), roots);
        let identity = Identity::new(Arc::new(leaf), Arc::new(trust)).unwrap();
        let served = is_served_as("hook.weft.svc", &identity, &root).await;
        assert_eq!(served, wants, "{account}");
    }
}

/// Whether a caller who knows names, and no identities, accepts it.
async fn is_served_as(name: &str, identity: &Identity, root: &str) -> bool {
    let server = TlsAcceptor::from(identity.api_config(&[b"h2"]).unwrap());
    let client = Arc::new(web::client_config(root, None, &[b"h2"]).unwrap());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (_, accepted) = tokio::join!(
        server.accept(far),
        TlsConnector::from(client).connect(name, near)
    );
    accepted.is_ok()
}

#[tokio::test]
async fn a_nodes_proxy_gets_the_leafs_of_its_node_and_no_others() {
    let Some(system) = System::new().await else {
        return;
    };
    system.grant_pods().await;
    let trusted = format!("{}/ztunnel", system.namespace);
    let system = system.set("WEFT_CA_TRUSTED_NODE_ACCOUNTS", trusted);
    let ca = system.start();
    let root = system.secret().await["ca.crt"].clone();
    let namespace = system.namespace.as_str();
    let shop = system.api.namespace("shop").await;
    let ztunnel = system.pod(namespace, "ztunnel", "one").await;
    system.pod(&shop, "near", "one").await;
    system.pod(&shop, "far", "two").await;
    let audience = Some("istio-ca");
    let token = system
        .api
        .token_of(namespace, "ztunnel", audience, Some(&ztunnel));
    let (token, web) = (token.await, system.token("web").await);
    let own = system.id("ztunnel");
    let [near, far, none] = ["near", "far", "none"].map(|account| workload(&shop, account));
    let foreign = "spiffe://other.test/ns/shop/sa/near".parse().unwrap();
    let asked = async |token: &str, id| {
        let wish = Wish {
            id,
            impersonated: Some(id),
        };
        ca.code(&root, token, &wish).await
    };
    let rows = [
        ("itself", &token, &own, Code::Ok),
        ("a pod of its node", &token, &near, Code::Ok),
        ("of another node", &token, &far, Code::Unauthenticated),
        ("of nobody", &token, &none, Code::Unauthenticated),
        ("of another mesh", &token, &foreign, Code::Unauthenticated),
        ("by somebody else", &web, &near, Code::Unauthenticated),
    ];
    for (name, token, id, code) in rows {
        assert_eq!(asked(token, id).await, code, "{name}");
    }
    // The identity in the leaf is the one that was asked for, and a pod that has ended is none.
    let wish = Wish {
        id: &near,
        impersonated: Some(&near),
    };
    let (leaf, _) = ca.ask(&root, &token, &wish).await.unwrap();
    assert_eq!(*leaf.id(), near);
    let (merge, ended) = (
        PatchParams::default(),
        Patch::Merge(json!({"status": {"phase": "Failed"}})),
    );
    let pods = system.api.api("v1", "Pod", Some(&shop));
    let patched = pods.patch_status("near-one", &merge, &ended);
    let _patched = soon(patched).await.unwrap();
    assert_eq!(asked(&token, &near).await, Code::Unauthenticated);
}

#[tokio::test]
async fn what_is_not_in_the_manifest_is_not_allowed() {
    let Some(system) = System::new().await else {
        return;
    };
    let client = kube::Client::try_from(system.cluster.clone()).unwrap();
    let may = async |verb: &str, resource: &str, namespace: &str, name: &str| {
        let review = json!({"apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {
                "verb": verb, "resource": resource, "namespace": namespace, "name": name}}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(serde_json::to_vec(&review).unwrap()).unwrap();
        let answer: Value = soon(client.request(request)).await.unwrap();
        answer["status"]["allowed"] == true
    };
    let (own, map) = (system.namespace.as_str(), system.config_map());
    let rows = [
        ("get", "secrets", own, "weft-ca", true),
        ("create", "secrets", own, "", true),
        ("get", "secrets", own, "other", false),
        ("list", "secrets", own, "", false),
        ("update", "secrets", own, "weft-ca", false),
        ("delete", "secrets", own, "weft-ca", false),
        ("get", "secrets", "default", "weft-ca", false),
        ("create", "secrets", "default", "", false),
        ("list", "secrets", "", "", false),
        ("patch", "configmaps", "default", &map, true),
        ("patch", "configmaps", "default", "other", false),
        ("get", "configmaps", "default", "other", false),
        ("delete", "configmaps", "default", &map, false),
        ("list", "pods", "", "", false),
        ("get", "pods", "default", "web", false),
        ("list", "namespaces", "", "", true),
        ("patch", "namespaces", "", "default", false),
    ];
    for (verb, resource, namespace, name, allowed) in rows {
        let answer = may(verb, resource, namespace, name).await;
        assert_eq!(answer, allowed, "{verb} {resource} {namespace}/{name}");
    }
}

#[tokio::test]
async fn the_issuer_may_be_somebody_elses() {
    let Some(system) = System::new().await else {
        return;
    };
    let root = Issuer::generate(&"cluster.local".parse().unwrap()).unwrap();
    let hour = Duration::from_secs(3600);
    let own = root
        .intermediate(hour, std::time::SystemTime::now())
        .unwrap();
    let pem = |issuer: &Issuer| -> String {
        let chain = issuer.chain().iter();
        chain
            .map(|one| weft_certs::bundle::certificate_to_pem(one))
            .collect()
    };
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "weft-ca", "namespace": system.namespace},
        "stringData": {
            "ca-cert.pem": pem(&own), "ca-key.pem": own.signer().key().serialize_pem(),
            "cert-chain.pem": pem(&own), "root-cert.pem": root.bundle().to_pem()}});
    system.api.apply(secret).await;
    let ca = system.start();
    let (token, id) = (system.token("web").await, system.id("web"));
    let roots = root.bundle().to_pem();
    let (leaf, given) = ca.ask(&roots, &token, &Wish::own(&id)).await.unwrap();
    assert_eq!(given, *root.bundle());
    assert_eq!(leaf.chain().len(), 2, "with its intermediate");
    assert!(Bundle::from_pem(&roots).unwrap().vouches_for(&leaf));
}
