//! Reviews and their answers.

use serde_json::{Value, json};
use weft_policy::spiffe::TrustDomain;

use super::*;

fn review(kind: &str, operation: &str, object: &Value, old: &Value) -> Value {
    let group = match kind {
        "Deployment" => "apps",
        "CronJob" => "batch",
        _ => "",
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": {"group": group, "version": "v1", "kind": kind}, "namespace": "shop", "operation": operation,
        "object": object, "oldObject": old, "dryRun": true, "options": {"kind": "CreateOptions"},
    }})
}

fn answer(review: &Value) -> Value {
    let body = review.to_string();
    let asked = Asked::read(body.as_bytes()).unwrap();
    let around = Around::nothing(
        &TrustDomain::parse("cluster.local").unwrap(),
        asked.namespace(),
    );
    let answer = write(&asked.answer(&around, &Settings::new()));
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "u-1");
    answer["response"].clone()
}

fn created(kind: &str, object: &Value) -> Value {
    answer(&review(kind, "CREATE", object, &Value::Null))
}

fn pod(annotations: &Value) -> Value {
    json!({"metadata": {"generateName": "orders-7d9f-", "annotations": annotations}, "spec": {"containers": [{"name": "app"}]}})
}

fn message(response: &Value) -> &str {
    assert_eq!(response["allowed"], false, "{response}");
    assert_eq!(response["patch"], Value::Null);
    response["status"]["message"].as_str().unwrap()
}

#[test]
fn a_pod_is_patched_and_a_second_time_not() {
    let before = pod(&json!({}));
    let response = created("Pod", &before);
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patchType"], "JSONPatch");
    let operations = STANDARD
        .decode(response["patch"].as_str().unwrap())
        .unwrap();
    let operations: Vec<Value> = serde_json::from_slice(&operations).unwrap();
    let mut after = before;
    for operation in &operations {
        assert_eq!(operation["op"], "add", "{operation}");
    }
    apply(&mut after, &operations);
    assert_eq!(after["spec"]["initContainers"][1]["name"], "weft-proxy");
    let again = created("Pod", &after);
    assert_eq!(
        (&again["allowed"], &again["patch"]),
        (&json!(true), &Value::Null)
    );
}

/// As an API server does it.
fn apply(object: &mut Value, operations: &[Value]) {
    for operation in operations {
        let path = operation["path"].as_str().unwrap();
        let (parent, key) = path.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        match object.pointer_mut(parent).unwrap() {
            Value::Array(items) => items.insert(key.parse().unwrap(), operation["value"].clone()),
            parent => parent[key] = operation["value"].clone(),
        }
    }
}

#[test]
fn a_mistake_is_refused_in_the_words_of_the_policy() {
    let response = created(
        "Pod",
        &pod(&json!({"weft.dev/retry.attemps": "3", "weft.dev/timeout": "10"})),
    );
    assert_eq!(
        message(&response),
        "2 problems in the annotations of pod orders-7d9f-*\n  \
         weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"\n  \
         weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?"
    );
    assert_eq!(response["status"]["code"], 400);
}

#[test]
fn what_makes_pods_is_looked_at_and_never_patched() {
    let deployment = |own: Value, pods: Value| json!({"metadata": {"name": "orders", "annotations": own}, "spec": {"template": pod(&pods)}});
    let good = created(
        "Deployment",
        &deployment(json!({"weft.dev/timeout": "1s"}), json!({})),
    );
    assert_eq!(
        (&good["allowed"], &good["patch"]),
        (&json!(true), &Value::Null)
    );
    let bad = created(
        "Deployment",
        &deployment(
            json!({"weft.dev/proxy.cpu": "1"}),
            json!({"weft.dev/mtls": "loose"}),
        ),
    );
    assert_eq!(
        message(&bad),
        "2 problems in the annotations of deployment orders\n  \
         weft.dev/proxy: is read when a pod starts; write it on the pod's template\n  \
         weft.dev/mtls: \"loose\" is not one of strict, permissive"
    );
    let cron = json!({"metadata": {"name": "night"}, "spec": {"jobTemplate": {"spec": {"template": pod(&json!({"weft.dev/a": "b"}))}}}});
    assert!(
        message(&created("CronJob", &cron))
            .starts_with("1 problem in the annotations of cronjob night\n")
    );
    let service = json!({"metadata": {"name": "orders", "annotations": {"weft.dev/allow": "web"}}});
    assert!(
        message(&created("Service", &service))
            .contains("a Service says only how its callers call it")
    );
    let namespace =
        json!({"metadata": {"name": "shop", "annotations": {"weft.dev/mtls": "strict"}}});
    assert_eq!(created("Namespace", &namespace)["allowed"], true);
}

#[test]
fn what_was_wrong_before_stops_no_other_change() {
    let wrong = json!({"metadata": {"name": "a", "annotations": {"weft.dev/a": "b"}}});
    let right = json!({"metadata": {"name": "a"}});
    let changed = |old| answer(&review("Service", "UPDATE", &wrong, old));
    let same = changed(&wrong);
    assert_eq!(same["allowed"], true);
    assert!(
        same["warnings"][0]
            .as_str()
            .unwrap()
            .starts_with("as before: weft.dev/a: unknown key")
    );
    assert_eq!(changed(&right)["allowed"], false);
}

#[test]
fn what_is_not_ours_passes() {
    let pod = pod(&json!({"weft.dev/a": "b"}));
    let mut ephemeral = review("Pod", "UPDATE", &pod, &pod);
    ephemeral["request"]["subResource"] = json!("ephemeralcontainers");
    let rows = [
        ephemeral,
        review("Pod", "UPDATE", &pod, &pod),
        review("Pod", "DELETE", &Value::Null, &pod),
        review(
            "Secret",
            "CREATE",
            &json!({"data": {"a": "b"}}),
            &Value::Null,
        ),
        review("Pod", "CREATE", &Value::Null, &Value::Null),
    ];
    for review in rows {
        let response = answer(&review);
        assert_eq!(
            (&response["allowed"], &response["patch"]),
            (&json!(true), &Value::Null),
            "{review}"
        );
    }
}

#[test]
fn wrong_types_are_refused_by_name() {
    let rows = [
        (
            json!({"metadata": {"annotations": {"weft.dev/timeout": 10}}}),
            "invalid type: integer `10`, expected a string",
        ),
        (
            json!({"spec": {"containers": "app"}}),
            "the Pod cannot be read: ",
        ),
        (json!([1]), "the Pod cannot be read: "),
        (
            json!({"metadata": {"labels": [["weft.dev/inject"]]}}),
            "the Pod cannot be read: ",
        ),
    ];
    for (pod, want) in rows {
        let response = created("Pod", &pod);
        assert!(message(&response).contains(want), "{pod}: {response}");
    }
}

#[test]
fn what_is_no_review_is_told_why() {
    let good = review("Pod", "CREATE", &Value::Null, &Value::Null);
    let with = |path: &str, value: Value| {
        let mut review = good.clone();
        *review.pointer_mut(path).unwrap() = value;
        review.to_string()
    };
    let deep = format!("{}{}", "{\"a\":".repeat(200_000), "1");
    let rows = [
        (String::new(), "EOF"),
        ("no JSON".to_owned(), "expected"),
        ("[]".to_owned(), "invalid"),
        ("{}".to_owned(), "missing field `request`"),
        ("[".repeat(100_000), "invalid type: sequence"),
        (deep, "EOF"),
        (with("/kind", json!("Pod")), "\"Pod\" of"),
        (
            with("/apiVersion", json!("admission.k8s.io/v1beta1")),
            "v1beta1",
        ),
        (with("/request/uid", json!("")), "no uid"),
        (with("/request/uid", json!(1)), "invalid type"),
        (with("/request/kind", json!("Pod")), "invalid type"),
        (with("/request", json!(null)), "invalid type"),
    ];
    for (body, want) in rows {
        let shown: String = body.chars().take(60).collect();
        let error = Asked::read(body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{shown}: {error}");
    }
}

#[test]
fn a_deep_object_does_no_harm() {
    let depth = 50_000;
    let deep = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    for (place, allowed) in [("unknown", true), ("status", false)] {
        let pod = pod(&json!({}))
            .to_string()
            .replacen('{', &format!("{{\"{place}\":{deep},"), 1);
        let body = review("Pod", "CREATE", &json!("POD"), &Value::Null)
            .to_string()
            .replace("\"POD\"", &pod);
        let asked = Asked::read(body.as_bytes()).unwrap();
        let around = Around::nothing(&TrustDomain::parse("cluster.local").unwrap(), "shop");
        assert_eq!(
            asked.answer(&around, &Settings::new()).allowed,
            allowed,
            "{place}"
        );
    }
}
