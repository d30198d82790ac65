//! `weft-injector` behind a real API server, by the shipped webhook configuration, with the rights in `manifests/base/injector-rbac.yaml`
//! alone.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use weft_tests::eventually::{PATIENCE, eventually};

use crate::webhook::{IMAGE, Webhook, is_injected, pod_spec};

fn labelled(value: &str) -> Value {
    json!({"labels": {"weft.dev/inject": value}})
}

fn pod(name: &str, labels: Value, annotations: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels, "annotations": annotations}, "spec": pod_spec()})
}

#[tokio::test]
async fn pods_of_a_labelled_namespace_come_back_with_a_proxy() {
    let Some(webhook) = Webhook::new().await else {
        return;
    };
    let (on, off) = (
        webhook.namespace(labelled("enabled")).await,
        webhook.namespace(json!({})).await,
    );
    let rows = [
        (&on, "follows", json!({}), true),
        (
            &on,
            "opts-out",
            json!({"weft.dev/inject": "disabled"}),
            false,
        ),
        (&off, "follows", json!({}), false),
        (&off, "opts-in", json!({"weft.dev/inject": "enabled"}), true),
    ];
    for (namespace, name, labels, want) in rows {
        let made = webhook
            .create("v1", "Pod", namespace, pod(name, labels, json!({})))
            .await
            .unwrap();
        assert_eq!(is_injected(&made), want, "{name} in {namespace}");
    }
    let mut host = pod("host", json!({}), json!({}));
    host["spec"]["hostNetwork"] = json!(true);
    assert!(!is_injected(
        &webhook.create("v1", "Pod", &on, host).await.unwrap()
    ));
    // As the API server completed it, and once more: nothing is added twice.
    let mut probed = pod("probed", json!({}), json!({}));
    probed["spec"]["containers"][0]["readinessProbe"] = json!({"grpc": {"port": 50051}});
    let first = webhook.create("v1", "Pod", &on, probed).await.unwrap();
    let images = ["weft-redirect", "weft-proxy"].map(|name| {
        let added = first["spec"]["initContainers"].as_array().unwrap().iter();
        let mut added = added.filter(|one| one["name"] == name);
        added.next().unwrap()["image"].clone()
    });
    assert_eq!(images, [IMAGE, IMAGE], "the injector's own");
    let app = &first["spec"]["containers"][0];
    assert_eq!(
        app["readinessProbe"]["httpGet"]["path"],
        "/app-health/app/readiness"
    );
    let meta = json!({"name": "again", "annotations": first["metadata"]["annotations"]});
    let again = webhook
        .create(
            "v1",
            "Pod",
            &on,
            json!({"metadata": meta, "spec": first["spec"]}),
        )
        .await
        .unwrap();
    assert_eq!(again["spec"], first["spec"]);
    assert_eq!(
        again["metadata"]["annotations"],
        first["metadata"]["annotations"]
    );
}

#[tokio::test]
async fn mistakes_are_refused_where_they_are_written() {
    let Some(webhook) = Webhook::new().await else {
        return;
    };
    let shop = webhook.namespace(labelled("enabled")).await;
    let wrong = json!({"weft.dev/retry.attemps": "3", "weft.dev/timeout": "10"});
    let refused = webhook
        .create(
            "v1",
            "Pod",
            &shop,
            pod("orders-7d9f", json!({}), wrong.clone()),
        )
        .await;
    assert_eq!(
        refused.unwrap_err(),
        "admission webhook \"inject.weft.dev\" denied the request: 2 problems in the annotations of pod orders-7d9f\n  \
         weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"\n  \
         weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?"
    );
    let deployment = |annotations: &Value| {
        json!({"metadata": {"name": "orders"}, "spec": {"selector": {"matchLabels": {"app": "orders"}}, "template": {
            "metadata": {"labels": {"app": "orders"}, "annotations": annotations}, "spec": pod_spec(),
        }}})
    };
    let refused = webhook
        .create("apps/v1", "Deployment", &shop, deployment(&wrong))
        .await
        .unwrap_err();
    let begin = "admission webhook \"annotations.weft.dev\" denied the request: 2 problems in the annotations of deployment orders\n  ";
    assert!(refused.starts_with(begin), "{refused}");
    let made = webhook
        .create(
            "apps/v1",
            "Deployment",
            &shop,
            deployment(&json!({"weft.dev/timeout": "10s"})),
        )
        .await
        .unwrap();
    assert_eq!(
        made["spec"]["template"]["spec"]["initContainers"],
        Value::Null,
        "templates stay as they are"
    );
    let cron = json!({"metadata": {"name": "night"}, "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": {
        "metadata": {"annotations": wrong}, "spec": {"restartPolicy": "Never", "containers": pod_spec()["containers"]},
    }}}}});
    let refused = webhook
        .create("batch/v1", "CronJob", &shop, cron)
        .await
        .unwrap_err();
    assert!(refused.contains("cronjob night"), "{refused}");
    let service = json!({"metadata": {"name": "orders", "annotations": {"weft.dev/allow": "web"}}, "spec": {"ports": [{"port": 80}]}});
    let refused = webhook
        .create("v1", "Service", &shop, service)
        .await
        .unwrap_err();
    assert!(
        refused.contains("weft.dev/allow: a Service says only how its callers call it"),
        "{refused}"
    );
    let namespaces = webhook.api.api("v1", "Namespace", None);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"weft.dev/mtls": "loose"}}}));
    let refused = namespaces
        .patch(&shop, &PatchParams::default(), &patch)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("\"loose\" is not one of strict, permissive"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_lies_below_counts_and_is_left_with_the_pod() {
    let Some(webhook) = Webhook::new().await else {
        return;
    };
    let defaults = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weft-defaults", "namespace": webhook.system},
        "data": {"policy": "proxy: {cpu: 77m}\n"}});
    webhook.api.apply(defaults).await;
    let mut meta = labelled("enabled");
    meta["annotations"] = json!({"weft.dev/mtls": "strict", "weft.dev/proxy.workers": "2"});
    let shop = webhook.namespace(meta).await;
    let mut number = 0;
    let made = async || {
        number += 1;
        webhook
            .create(
                "v1",
                "Pod",
                &shop,
                pod(&format!("a{number}"), json!({}), json!({})),
            )
            .await
            .unwrap()
    };
    let cpu =
        |pod: &Value| pod["spec"]["initContainers"][1]["resources"]["requests"]["cpu"].clone();
    let made = eventually(PATIENCE, made, |pod| cpu(pod) == "77m").await;
    let layers = made["metadata"]["annotations"]["weft.dev/lower-layers"]
        .as_str()
        .unwrap();
    assert!(
        layers.contains("\"kind\": \"mesh\"") && layers.contains("strict"),
        "{layers}"
    );
    let variables = made["spec"]["initContainers"][1]["env"].as_array().unwrap();
    assert!(variables.contains(&json!({"name": "WEFT_WORKERS", "value": "2"})));
    let weaker = pod("weaker", json!({}), json!({"weft.dev/mtls": "permissive"}));
    let refused = webhook
        .create("v1", "Pod", &shop, weaker)
        .await
        .unwrap_err();
    assert!(
        refused.contains("weft.dev/mtls: is strict by a layer below"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_api_server_keeps_trusting_a_certificate_that_changes() {
    let Some(webhook) = Webhook::new().await else {
        return;
    };
    let shop = webhook.namespace(labelled("enabled")).await;
    let before = webhook.bundles().await;
    assert_eq!(before.len(), 3);
    webhook.new_certificate();
    eventually(
        PATIENCE,
        async || webhook.bundles().await,
        |bundles| {
            bundles
                .iter()
                .zip(&before)
                .all(|(now, before)| now != before)
        },
    )
    .await;
    let mut number = 0;
    let made = async || {
        number += 1;
        webhook
            .create(
                "v1",
                "Pod",
                &shop,
                pod(&format!("b{number}"), json!({}), json!({})),
            )
            .await
    };
    let made = eventually(PATIENCE, made, Result::is_ok).await;
    assert!(is_injected(&made.unwrap()));
    // What somebody else breaks is mended.
    let name = webhook.system.as_str();
    let configurations = webhook.api.api(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        None,
    );
    let broken = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
    let broken = Patch::<()>::Json(serde_json::from_value(broken).unwrap());
    configurations
        .patch(name, &PatchParams::default(), &broken)
        .await
        .unwrap();
    eventually(
        PATIENCE,
        async || webhook.bundles().await,
        |bundles| bundles.iter().all(Value::is_string),
    )
    .await;
}

#[tokio::test]
async fn its_rights_are_no_more_than_it_needs() {
    let Some(webhook) = Webhook::new().await else {
        return;
    };
    let client = kube::Client::try_from(webhook.account.clone()).unwrap();
    let system = webhook.system.as_str();
    let may = async |verb: &str, group: &str, resource: &str, namespace: &str, name: &str| {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {
            "verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name,
        }}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer: Value = client
            .request(request.body(review.to_string().into_bytes()).unwrap())
            .await
            .unwrap();
        answer["status"]["allowed"] == true
    };
    let registration = "admissionregistration.k8s.io";
    let configurations = "mutatingwebhookconfigurations";
    assert!(may("list", "", "namespaces", "", "").await);
    assert!(may("patch", registration, configurations, "", system).await);
    assert!(may("watch", "", "configmaps", system, "weft-defaults").await);
    for verb in [
        "get", "list", "watch", "create", "update", "patch", "delete",
    ] {
        assert!(
            !may(verb, "", "secrets", system, "").await,
            "{verb} secrets"
        );
        assert!(
            !may(verb, "", "secrets", "", "").await,
            "{verb} all secrets"
        );
        assert!(!may(verb, "", "pods", "", "").await, "{verb} pods");
        assert!(
            !may(verb, registration, configurations, "", "another").await,
            "{verb} another webhook"
        );
        assert!(
            !may(verb, "", "configmaps", "", "").await,
            "{verb} all config maps"
        );
    }
    assert!(!may("update", "", "namespaces", "", "").await);
}
