//! That what this program prints is what the manifests say, and that the manifests say what they must.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use weft_tests::scratch::Scratch;
use weft_tests::skip::skip;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    install: InstallArgs,
}

pub(super) fn choices(words: &[&str]) -> Choices {
    let line = Line::try_parse_from(std::iter::once(&"weft").chain(words));
    line.unwrap_or_else(|mistake| panic!("{mistake}"))
        .install
        .choices
}

fn installed(words: &[&str]) -> Vec<Value> {
    objects(&choices(words)).unwrap()
}

fn find<'a>(objects: &'a [Value], id_of: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| id(object) == id_of)
        .unwrap_or_else(|| panic!("no {id_of}"))
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

#[test]
fn every_file_of_the_base_is_built_in_and_in_its_order() {
    let text = std::fs::read_to_string(manifests().join("base/kustomization.yaml")).unwrap();
    let kustomization: Value = serde_saphyr::from_str(&text).unwrap();
    let built_in: Vec<&str> = files::BASE.iter().map(|(name, _)| *name).collect();
    assert_eq!(kustomization["resources"], serde_json::json!(built_in));
    let mut there: Vec<String> = std::fs::read_dir(manifests().join("base"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    there.sort();
    let mut sorted = built_in;
    sorted.sort_unstable();
    assert_eq!(there, sorted);
}

#[test]
fn it_prints_what_kustomize_builds() {
    let rows: [(&str, &[&str]); 4] = [
        ("base", &[]),
        ("overlays/ha", &["--overlay", "ha"]),
        ("overlays/ha", &["--ha"]),
        ("overlays/dev", &["--overlay", "dev"]),
    ];
    for (folder, words) in rows {
        let built = Command::new("kubectl")
            .arg("kustomize")
            .arg(manifests().join(folder))
            .output();
        let Ok(built) = built else {
            return skip("there is no kubectl");
        };
        assert!(
            built.status.success(),
            "{folder}: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        let built = String::from_utf8(built.stdout).unwrap();
        let built: Vec<Value> = serde_saphyr::from_multiple(&built).unwrap();
        let ours = install(&InstallArgs {
            choices: choices(words),
        })
        .unwrap();
        let ours: Vec<Value> = serde_saphyr::from_multiple(&ours).unwrap();
        let by_id = |objects: &[Value]| -> BTreeMap<String, Value> {
            objects
                .iter()
                .map(|object| (id(object), object.clone()))
                .collect()
        };
        let (built, mut ours) = (by_id(&built), by_id(&ours));
        // The only thing that Kustomize does not write down.
        ours.get_mut("ConfigMap weft-system/weft-install").unwrap()["data"]["choices"] =
            "{}".into();
        assert_eq!(
            built.keys().collect::<Vec<_>>(),
            ours.keys().collect::<Vec<_>>(),
            "{folder}"
        );
        for (name, object) in built {
            assert_eq!(ours[&name], object, "{folder}: {name}");
        }
    }
}

/// Whoever takes the base and says `images:` in their own kustomization gets no other image anywhere, the proxies' among them.
#[test]
fn images_of_a_kustomization_reach_everything() {
    let scratch = Scratch::new();
    let mesh = scratch.path().join("mesh");
    std::fs::create_dir(&mesh).unwrap();
    for file in std::fs::read_dir(manifests().join("base")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), mesh.join(file.file_name())).unwrap();
    }
    let own = "resources: [mesh]\nimages: [{name: weft.dev/weft, newName: registry.test/weft, newTag: \"2\"}]\n";
    scratch.file("kustomization.yaml", own);
    let built = Command::new("kubectl")
        .arg("kustomize")
        .arg(scratch.path())
        .output();
    let Ok(built) = built else {
        return skip("there is no kubectl");
    };
    let built = String::from_utf8(built.stdout).unwrap();
    assert_eq!(
        built.matches("image: registry.test/weft:2\n").count(),
        3,
        "{built}"
    );
    assert!(!built.contains("weft.dev/weft"), "{built}");
}

#[test]
fn values_are_filled_in_where_they_belong() {
    let objects = installed(&[
        "--image",
        "registry.test/weft:2",
        "--trust-domain",
        "mesh.test",
        "--cluster-domain",
        "k8s.test",
        "--set",
        "all.WEFT_LOG=debug",
        "--set",
        "injector.replicas=4",
        "--set",
        "ca.WEFT_CA_DEFAULT_TTL=12h",
        "--set",
        "discovery.memory-limit=1Gi",
        "--set",
        "discovery.cpu-limit=2",
    ]);
    let container = |name: &str| {
        let deployment = find(&objects, &format!("Deployment weft-system/{name}"));
        deployment["spec"]["template"]["spec"]["containers"][0].clone()
    };
    let variable = |name: &str, variable: &str| {
        let container = container(name);
        let all = container["env"].as_array().unwrap().clone();
        let found = all.into_iter().find(|one| one["name"] == variable);
        found.map_or(Value::Null, |one| one["value"].clone())
    };
    for name in ["weft-ca", "weft-discovery", "weft-injector"] {
        assert_eq!(container(name)["image"], "registry.test/weft:2", "{name}");
        assert_eq!(variable(name, "WEFT_LOG"), "debug", "{name}");
        assert_eq!(variable(name, "WEFT_TRUST_DOMAIN"), "mesh.test", "{name}");
    }
    // The injector puts the image of its own pod into others.
    assert_eq!(variable("weft-injector", "WEFT_IMAGE"), Value::Null);
    assert_eq!(variable("weft-ca", "WEFT_CLUSTER_DOMAIN"), Value::Null);
    assert_eq!(
        variable("weft-discovery", "WEFT_CLUSTER_DOMAIN"),
        "k8s.test"
    );
    assert_eq!(variable("weft-ca", "WEFT_CA_DEFAULT_TTL"), "12h");
    assert_eq!(
        variable("weft-injector", "WEFT_CA_DEFAULT_TTL"),
        Value::Null
    );
    assert_eq!(
        container("weft-discovery")["resources"]["limits"],
        serde_json::json!({"cpu": "2", "memory": "1Gi"})
    );
    assert_eq!(
        find(&objects, "Deployment weft-system/weft-injector")["spec"]["replicas"],
        4
    );
    assert_eq!(
        find(&objects, "Deployment weft-system/weft-ca")["spec"]["replicas"],
        2
    );
}

#[test]
fn rights_for_proxies_of_nodes_come_with_their_setting_alone() {
    let count = |words: &[&str]| {
        let objects = installed(words);
        let all = objects
            .iter()
            .map(id)
            .filter(|id| id.ends_with(" weft-ca-pods"));
        all.count()
    };
    assert_eq!(count(&[]), 0);
    let nodes = "ca.WEFT_CA_TRUSTED_NODE_ACCOUNTS=istio-system/ztunnel";
    assert_eq!(count(&["--set", nodes]), 2);
}

#[test]
fn what_was_chosen_is_written_down_and_an_upgrade_begins_with_it() {
    let objects = installed(&[
        "--ha",
        "--image",
        "a:1",
        "--set",
        "ca.replicas=5",
        "--set",
        "all.WEFT_LOG=warn",
    ]);
    let record = find(&objects, "ConfigMap weft-system/weft-install");
    let before = Choices::written_down(record).unwrap();
    let now = choices(&["--image", "a:2", "--set", "all.WEFT_LOG=info"]).over(before);
    let want = choices(&[
        "--overlay",
        "ha",
        "--image",
        "a:2",
        "--set",
        "ca.replicas=5",
        "--set",
        "all.WEFT_LOG=info",
    ]);
    assert_eq!(now, want);
    let plain = installed(&[]);
    assert_eq!(
        find(&plain, "ConfigMap weft-system/weft-install")["data"]["choices"],
        "{}"
    );
}

#[test]
fn settings_that_mean_nothing_are_named() {
    let rows = [
        ("replicas=3", "is not PART.NAME=VALUE"),
        ("ca.replicas", "is not PART.NAME=VALUE"),
        ("proxy.replicas=3", "there are all, ca, discovery, injector"),
        ("ca.replica=3", "did you mean replicas?"),
        ("ca.replicas=many", "is no number of replicas"),
        ("ca.WEFT_LOG=", "a value is missing"),
    ];
    for (setting, want) in rows {
        let mistake = Line::try_parse_from(["weft", "--set", setting]).err();
        let mistake = mistake
            .unwrap_or_else(|| panic!("{setting} was taken"))
            .to_string();
        assert!(mistake.contains(want), "{setting}: {mistake}");
    }
    let args = InstallArgs {
        choices: choices(&["--trust-domain", "No Domain"]),
    };
    assert!(install(&args).is_err());
}

#[test]
fn secrets_are_not_written_down() {
    let printed = |setting: &str| {
        let choices = choices(&["--set", setting]);
        install(&InstallArgs { choices }).map_err(|error| format!("{error:#}"))
    };
    let shown = [
        "all.OTEL_EXPORTER_OTLP_HEADERS=authorization=hunter2",
        "injector.WEFT_PROXY_ENV=OTEL_EXPORTER_OTLP_HEADERS=authorization=hunter2",
    ];
    for setting in shown {
        let refused = printed(setting).unwrap_err();
        assert!(
            refused.contains("OTEL_EXPORTER_OTLP_HEADERS=secret:NAME/KEY"),
            "{refused}"
        );
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    let named = printed("injector.WEFT_PROXY_ENV=OTEL_EXPORTER_OTLP_HEADERS=secret:otlp/headers");
    assert!(named.unwrap().contains("secret:otlp/headers"));
}

#[test]
fn the_image_is_the_one_of_this_version() {
    let want = format!("weft.dev/weft:{}", env!("CARGO_PKG_VERSION"));
    let text = install(&InstallArgs {
        choices: Choices::default(),
    })
    .unwrap();
    let images = text.lines().filter(|line| line.contains("weft.dev/weft:"));
    let images: Vec<&str> = images.collect();
    assert_eq!(images.len(), 3, "{images:?}");
    assert!(images.iter().all(|line| line.contains(&want)), "{images:?}");
}

/// What Pod Security `restricted` demands, and what we demand beyond it.
#[test]
fn the_control_plane_has_no_more_rights_on_its_node_than_it_needs() {
    let objects = installed(&[]);
    let deployments = objects
        .iter()
        .filter(|object| object["kind"] == "Deployment");
    let mut count = 0;
    for deployment in deployments {
        count += 1;
        let name = id(deployment);
        let pod = &deployment["spec"]["template"]["spec"];
        let [container] = pod["containers"].as_array().unwrap().as_slice() else {
            panic!("{name}: values are filled into one container");
        };
        let rows = [
            (&pod["securityContext"]["runAsNonRoot"], true.into()),
            (&pod["securityContext"]["runAsUser"], 65532.into()),
            (
                &pod["securityContext"]["seccompProfile"]["type"],
                "RuntimeDefault".into(),
            ),
            (
                &container["securityContext"]["allowPrivilegeEscalation"],
                false.into(),
            ),
            (
                &container["securityContext"]["readOnlyRootFilesystem"],
                true.into(),
            ),
            (
                &container["securityContext"]["capabilities"],
                serde_json::json!({"drop": ["ALL"]}),
            ),
            (
                &container["livenessProbe"]["httpGet"]["path"],
                "/live".into(),
            ),
            (
                &container["readinessProbe"]["httpGet"]["path"],
                "/ready".into(),
            ),
            (&pod["priorityClassName"], "weft-control-plane".into()),
            (&pod["enableServiceLinks"], false.into()),
        ];
        for (index, (found, want)) in rows.into_iter().enumerate() {
            assert_eq!(*found, want, "{name}, row {index}");
        }
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            let kind = volume
                .as_object()
                .unwrap()
                .keys()
                .find(|key| *key != "name")
                .unwrap();
            assert!(
                ["projected", "configMap"].contains(&kind.as_str()),
                "{name}: {kind}"
            );
        }
        assert!(
            container["resources"]["limits"]["memory"].is_string(),
            "{name}"
        );
    }
    assert_eq!(count, 3);
}

#[test]
fn no_role_reads_secrets_of_the_cluster_or_has_wildcards() {
    for object in installed(&[]) {
        let name = id(&object);
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words: Vec<&str> = ["apiGroups", "resources", "verbs", "nonResourceURLs"]
                .into_iter()
                .flat_map(|key| rule[key].as_array().into_iter().flatten())
                .map(|word| word.as_str().unwrap())
                .collect();
            assert!(
                !words.iter().any(|word| word.contains('*')),
                "{name}: {rule}"
            );
            for power in [
                "escalate",
                "bind",
                "impersonate",
                "deletecollection",
                "pods/exec",
                "pods/attach",
            ] {
                assert!(!words.contains(&power), "{name}: {rule}");
            }
            if words.iter().any(|word| word.starts_with("secrets")) {
                assert!(
                    name.starts_with("Role weft-system/weft-ca"),
                    "{name}: {rule}"
                );
            }
        }
    }
}

#[test]
fn every_rule_carries_its_reason() {
    for (file, text) in files::BASE {
        let mut in_rules = false;
        let mut above = "";
        for line in text.lines() {
            if !line.starts_with([' ', '-', '#']) {
                in_rules = line == "rules:";
            }
            if in_rules && line.trim_start().starts_with("- apiGroups") {
                assert!(
                    above.trim_start().starts_with('#'),
                    "{file}: no reason above {line:?}"
                );
            }
            above = line;
        }
    }
}

/// As long as one of them is out of step, a pod is shown twice or not at all.
#[test]
fn the_two_webhooks_of_pods_differ_in_their_selectors_alone() {
    let objects = installed(&[]);
    let configuration = find(&objects, "MutatingWebhookConfiguration weft-injector");
    let [one, other, annotations] = configuration["webhooks"].as_array().unwrap().as_slice() else {
        panic!("three webhooks");
    };
    let rest = |webhook: &Value| {
        let mut rest = webhook.clone();
        let map = rest.as_object_mut().unwrap();
        for key in ["name", "namespaceSelector", "objectSelector"] {
            map.remove(key);
        }
        rest
    };
    assert_eq!(rest(one), rest(other));
    assert_eq!(one["failurePolicy"], "Fail");
    // What only helps must not be in the way.
    assert_eq!(annotations["failurePolicy"], "Ignore");
    for webhook in [one, other, annotations] {
        let excluded = webhook["namespaceSelector"]["matchExpressions"][1]["values"]
            .as_array()
            .unwrap();
        for namespace in ["weft-system", "kube-system"] {
            assert!(excluded.iter().any(|one| one == namespace), "{namespace}");
        }
    }
}
