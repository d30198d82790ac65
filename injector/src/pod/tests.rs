//! Pods before and after.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_policy::spiffe::TrustDomain;

use super::*;
use crate::around::Defaults;
use crate::patch;
use crate::settings::Source;

fn around() -> Around {
    Around::nothing(&TrustDomain::parse("cluster.local").unwrap(), "shop")
}

fn outcome(pod: &Value, around: &Around, settings: &Settings) -> Result<Outcome, Refusal> {
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    inject(&pod, &Name::of_pod(&pod.metadata), around, settings)
}

/// The pod as the patch makes it; a second pass has nothing to add.
fn injected_with(pod: &Value, around: &Around, settings: &Settings) -> (Value, Vec<String>) {
    let (after, warnings) = once(pod, around, settings);
    let (again, _) = once(&after, around, settings);
    assert_eq!(again, after, "a second pass changes nothing");
    (after, warnings)
}

fn once(pod: &Value, around: &Around, settings: &Settings) -> (Value, Vec<String>) {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    let Outcome::Injected(after, warnings) =
        inject(&typed, &Name::of_pod(&typed.metadata), around, settings).unwrap()
    else {
        panic!("{pod} got no proxy");
    };
    let before = serde_json::to_value(typed).unwrap();
    let operations = patch::difference(&before, &serde_json::to_value(after).unwrap());
    let mut patched = pod.clone();
    patch::apply(&mut patched, "", &operations).unwrap();
    (patched, warnings)
}

fn injected(pod: &Value) -> Value {
    injected_with(pod, &around(), &Settings::new()).0
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let inits = pod["spec"]["initContainers"].as_array().unwrap().iter();
    let mut all = inits.chain(pod["spec"]["containers"].as_array().unwrap());
    all.find(|one| one["name"] == name).unwrap()
}

fn variables(container: &Value) -> BTreeMap<&str, &str> {
    let all = container["env"].as_array().unwrap().iter();
    let valued = all.filter_map(|one| Some((one["name"].as_str()?, one["value"].as_str()?)));
    valued.collect()
}

fn app(annotations: Value) -> Value {
    json!({
        "metadata": {"name": "orders-7d9f", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "orders:1"}]},
    })
}

#[test]
fn the_proxy_comes_before_everything_else() {
    let pod = injected(&json!({
        "metadata": {"name": "orders", "labels": {"app": "orders"}},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "m"}],
            "containers": [{"name": "app", "image": "a"}, {"name": "helper", "image": "h"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "unknownToUs": {"kept": true},
        },
    }));
    let spec = &pod["spec"];
    assert_eq!(
        names(&spec["initContainers"]),
        ["weft-redirect", "weft-proxy", "migrate"]
    );
    assert_eq!(names(&spec["containers"]), ["app", "helper"]);
    assert_eq!(
        names(&spec["volumes"]),
        [
            "data",
            "weft-token",
            "weft-ca-root",
            "weft-podinfo",
            "weft-state"
        ]
    );
    assert_eq!(spec["unknownToUs"]["kept"], true);
    assert_eq!(spec["terminationGracePeriodSeconds"], 35);
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(
        annotations["kubectl.kubernetes.io/default-container"],
        "app"
    );
    assert_eq!(annotations["weft.dev/injected"], crate::settings::VERSION);
    assert_eq!(annotations["weft.dev/lower-layers"], "[]");
    let proxy = container(&pod, "weft-proxy");
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["startupProbe"]["httpGet"]["port"], 15021);
    assert_eq!(
        proxy["lifecycle"],
        json!({"preStop": {"exec": {"command": ["/usr/local/bin/weft-proxy", "drain"]}}})
    );
    assert_eq!(variables(proxy)["WEFT_WORKLOAD"], "orders");
    let mounted: Vec<&str> = names(&proxy["volumeMounts"]);
    assert_eq!(
        mounted,
        ["weft-token", "weft-ca-root", "weft-podinfo", "weft-state"]
    );
}

#[test]
fn both_containers_have_the_least_rights() {
    let pod = injected(&app(json!({})));
    for (name, user, added) in [
        ("weft-redirect", 0, json!(["NET_ADMIN"])),
        ("weft-proxy", 1337, Value::Null),
    ] {
        let security = &container(&pod, name)["securityContext"];
        assert_eq!(security["runAsUser"], user, "{name}");
        assert_eq!(security["runAsNonRoot"], user != 0, "{name}");
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
        assert_eq!(security["capabilities"]["add"], added, "{name}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(
            security["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
    }
}

#[test]
fn before_1_29_the_proxy_is_the_first_container() {
    let settings = Settings {
        start: Start::Classic,
        ..Settings::new()
    };
    let pod = json!({
        "metadata": {"name": "a", "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "n", "uid": "1", "controller": true}]},
        "spec": {"initContainers": [{"name": "migrate"}], "containers": [{"name": "app"}]},
    });
    let (pod, warnings) = injected_with(&pod, &around(), &settings);
    assert_eq!(
        names(&pod["spec"]["initContainers"]),
        ["migrate", "weft-redirect"]
    );
    assert_eq!(names(&pod["spec"]["containers"]), ["weft-proxy", "app"]);
    let proxy = container(&pod, "weft-proxy");
    assert_eq!(proxy["restartPolicy"], Value::Null);
    assert_eq!(
        proxy["lifecycle"]["postStart"]["exec"]["command"][1],
        "wait"
    );
    assert_eq!(
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"],
        "app"
    );
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn policy_says_how_the_proxy_starts() {
    let pod = injected(&app(json!({
        "weft.dev/skip": "{inbound-ports: [9000], outbound-ports: '3306, 5432', outbound-cidrs: [10.0.0.0/8, 'fd00::/8']}",
        "weft.dev/ports.9001": "skip",
        "weft.dev/proxy": "{image: 'x/weft:2', cpu: 100m, memory: 64Mi, cpu-limit: '1', memory-limit: 256Mi, workers: 2}",
        "weft.dev/drain": "2m",
    })));
    let redirect = container(&pod, "weft-redirect");
    assert_eq!(
        redirect["args"],
        json!([
            "--skip-inbound-ports=15020,15021,9000,9001",
            "--skip-outbound-ports=3306,5432",
            "--skip-outbound-cidrs=10.0.0.0/8,fd00::/8"
        ])
    );
    let proxy = container(&pod, "weft-proxy");
    assert_eq!(proxy["image"], "x/weft:2");
    assert_eq!(redirect["image"], "x/weft:2");
    assert_eq!(
        proxy["resources"],
        json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}})
    );
    assert_eq!(variables(proxy)["WEFT_WORKERS"], "2");
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 125);
}

#[test]
fn a_short_end_that_was_asked_for_stays() {
    let rows = [
        (5, json!({}), 5),
        (300, json!({}), 300),
        (5, json!({"weft.dev/drain": "10s"}), 15),
        (30, json!({}), 35),
    ];
    for (grace, annotations, want) in rows {
        let mut pod = app(annotations);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(grace);
        assert_eq!(
            injected(&pod)["spec"]["terminationGracePeriodSeconds"],
            want,
            "{grace}"
        );
    }
}

#[test]
fn further_variables_replace_ours() {
    let environment = vec![
        ("WEFT_STATE_DIR".to_owned(), Source::Text("/x".to_owned())),
        ("WEFT_ACCESS_LOG".to_owned(), Source::Text("all".to_owned())),
        (
            "OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            Source::Secret {
                name: "otlp".to_owned(),
                key: "headers".to_owned(),
            },
        ),
    ];
    let settings = Settings {
        environment,
        ..Settings::new()
    };
    let (pod, _) = injected_with(&app(json!({})), &around(), &settings);
    let proxy = container(&pod, "weft-proxy");
    let of = |name: &str| {
        let all = proxy["env"].as_array().unwrap().iter();
        all.filter(|one| one["name"] == name)
            .map(|one| one["value"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("WEFT_STATE_DIR"), ["/x"]);
    assert_eq!(of("WEFT_ACCESS_LOG"), ["all"]);
    let headers = proxy["env"].as_array().unwrap().iter();
    let headers: Vec<_> = headers
        .filter(|one| one["name"] == "OTEL_EXPORTER_OTLP_HEADERS")
        .collect();
    let want = json!({"name": "OTEL_EXPORTER_OTLP_HEADERS",
        "valueFrom": {"secretKeyRef": {"name": "otlp", "key": "headers", "optional": true}}});
    assert_eq!(headers, [&want]);
}

#[test]
fn all_problems_are_told_at_once() {
    let mut pod = app(
        json!({"weft.dev/retry.attemps": "3", "weft.dev/timeout": "10", "weft.dev/inject": "disabled"}),
    );
    let text = outcome(&pod, &around(), &Settings::new())
        .unwrap_err()
        .to_string();
    let want = "3 problems in the annotations of pod orders-7d9f\n  \
         weft.dev/inject: is a label of the Namespace or the pod, not an annotation\n  \
         weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"\n  \
         weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?";
    assert_eq!(text, want);
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15001}]);
    pod["metadata"]["labels"] = json!({"weft.dev/inject": "true"});
    let text = outcome(&pod, &around(), &Settings::new())
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with(
            "5 problems in pod orders-7d9f\n  label weft.dev/inject: \"true\" is not one of"
        ),
        "{text}"
    );
    assert!(text.contains("port 15001 is the proxy's"), "{text}");
}

#[test]
fn some_pods_are_left_alone() {
    let mut labelled = app(json!({"weft.dev/nonsense": "1"}));
    labelled["metadata"]["labels"] = json!({"weft.dev/inject": "disabled"});
    let mut host = app(json!({}));
    host["spec"]["hostNetwork"] = json!(true);
    let mut windows = app(json!({}));
    windows["spec"]["os"] = json!({"name": "windows"});
    let mirror = app(json!({"kubernetes.io/config.mirror": "x"}));
    let rows = [
        (labelled, Reason::Disabled),
        (host, Reason::HostNetwork),
        (windows, Reason::Windows),
        (mirror, Reason::Static),
    ];
    for (pod, want) in rows {
        assert_eq!(
            outcome(&pod, &around(), &Settings::new()),
            Ok(Outcome::Left(want))
        );
    }
}

#[test]
fn layers_below_count_and_are_left_with_the_pod() {
    let defaults = Defaults {
        namespace: "weft-system".to_owned(),
        document: Some("proxy: {cpu: 50m}\nmtls: strict".to_owned()),
        annotations: BTreeMap::new(),
    };
    let around = around().with_defaults(&defaults);
    let (pod, _) = injected_with(&app(json!({})), &around, &Settings::new());
    assert_eq!(
        container(&pod, "weft-proxy")["resources"]["requests"]["cpu"],
        "50m"
    );
    let layers = pod["metadata"]["annotations"]["weft.dev/lower-layers"]
        .as_str()
        .unwrap();
    let layers = snapshot::read(layers, &around.scope).unwrap();
    assert_eq!(layers, around.layers);
    let weaker = outcome(
        &app(json!({"weft.dev/mtls": "permissive"})),
        &around,
        &Settings::new(),
    );
    let text = weaker.unwrap_err().to_string();
    assert!(
        text.contains("weft.dev/mtls: is strict by a layer below"),
        "{text}"
    );
}

#[test]
fn containers_that_come_later_are_brought_in() {
    let probed = |name: &str| json!({"name": name, "livenessProbe": {"tcpSocket": {"port": 80}}});
    let mut pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [probed("app")]}});
    pod = injected(&pod);
    let told = |pod: &Value| variables(container(pod, "weft-proxy"))["WEFT_APP_PROBES"].to_owned();
    assert_eq!(
        told(&pod),
        r#"{"app/liveness":{"ask":{"tcp":{"port":80}},"timeoutSeconds":1}}"#
    );
    // Another webhook adds a container, one before ours, and breaks the native sidecar.
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(probed("late"));
    let inits = pod["spec"]["initContainers"].as_array_mut().unwrap();
    inits[1].as_object_mut().unwrap().remove("restartPolicy");
    let mut early = probed("early");
    early["restartPolicy"] = json!("Always");
    inits.insert(0, early);
    let pod = injected(&pod);
    assert_eq!(
        names(&pod["spec"]["initContainers"]),
        ["early", "weft-redirect", "weft-proxy"]
    );
    assert_eq!(container(&pod, "weft-proxy")["restartPolicy"], "Always");
    assert_eq!(
        container(&pod, "late")["livenessProbe"]["httpGet"]["path"],
        "/app-health/late/liveness"
    );
    assert_eq!(
        container(&pod, "early")["livenessProbe"]["tcpSocket"]["port"],
        80
    );
    assert!(told(&pod).contains("app/liveness") && told(&pod).contains("late/liveness"));
}

#[test]
fn what_strict_will_refuse_is_told_of() {
    let mut pod = app(json!({"weft.dev/mtls": "strict", "weft.dev/ports.9000": "skip"}));
    pod["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 8080, "hostPort": 80}, {"containerPort": 9000, "hostPort": 90}]);
    pod["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"httpGet": {"path": "/end", "port": 8080}}});
    let mut around = around();
    around.labels.insert(
        "pod-security.kubernetes.io/enforce".to_owned(),
        "restricted".to_owned(),
    );
    let (_, warnings) = injected_with(&pod, &around, &Settings::new());
    let said = |part: &str| warnings.iter().filter(|one| one.contains(part)).count();
    assert_eq!(
        (said("host port 80 "), said("preStop"), said("Pod Security")),
        (1, 1, 1),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 3);
    assert!(warnings.iter().all(|one| one.chars().count() <= 256));
}
