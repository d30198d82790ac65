//! `weft install`, `upgrade`, `uninstall`, `check` and `version` against a real API server: the one that `TEST_KUBECONFIG` names.
//!
//! Here and not beside the other tests of a cluster, as Cargo gives a package's tests its own programs alone. Nothing acts on the
//! objects, so what pods say of themselves is written by the tests.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use weft_tests::ca::Ca;
use weft_tests::scratch::Scratch;
use weft_tests::skip::skip;

/// The cluster under test.
struct Cluster {
    kubeconfig: PathBuf,
}

impl Cluster {
    /// The one that is there, or says why the test is skipped.
    #[expect(
        clippy::disallowed_methods,
        reason = "where the API server is can come from nowhere else"
    )]
    fn connect() -> Option<Self> {
        let Ok(path) = std::env::var("TEST_KUBECONFIG") else {
            skip("TEST_KUBECONFIG names no API server");
            return None;
        };
        if Command::new("kubectl")
            .arg("version")
            .arg("--client")
            .output()
            .is_err()
        {
            skip("there is no kubectl in PATH");
            return None;
        }
        Some(Self {
            kubeconfig: path.into(),
        })
    }

    fn run(&self, program: &str, words: &[&str], input: &str) -> Output {
        let mut child = Command::new(program)
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    fn weft(&self, words: &[&str]) -> Output {
        self.run(env!("CARGO_BIN_EXE_weft"), words, "")
    }

    /// What kubectl prints; it must succeed.
    fn kubectl(&self, words: &[&str], input: &str) -> String {
        let output = self.run("kubectl", words, input);
        assert!(
            output.status.success(),
            "kubectl {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn apply(&self, object: &Value) {
        self.kubectl(&["apply", "-f", "-"], &object.to_string());
    }

    /// What `weft check` finds that is not good, a line each.
    fn found(&self, words: &[&str]) -> Vec<String> {
        let output = self.weft(&[&["check", "--output", "json"], words].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            output.status.success(),
            report["problems"] == 0,
            "{report:#}"
        );
        let findings = report["findings"].as_array().unwrap().iter();
        let bad = findings.filter(|one| one["verdict"] != "good");
        bad.map(|one| {
            assert!(!one["do"].as_str().unwrap().is_empty(), "{one}");
            let text = |key: &str| one[key].as_str().unwrap().to_owned();
            format!(
                "{} {} {}: {}",
                text("verdict"),
                text("area"),
                text("where"),
                text("what")
            )
        })
        .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn manifests(folder: &str) -> String {
    format!("{}/../manifests/{folder}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_api_server_takes_every_object_of_the_base_and_of_each_overlay() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    // A dry run makes no namespace for what comes after it, so that one is made.
    cluster.kubectl(&["apply", "-f", &manifests("base/namespace.yaml")], "");
    for folder in ["base", "overlays/ha", "overlays/dev"] {
        let said = cluster.kubectl(
            &[
                "apply",
                "--dry-run=server",
                "--validate=strict",
                "-k",
                &manifests(folder),
            ],
            "",
        );
        let objects = cluster.kubectl(&["kustomize", &manifests(folder)], "");
        let kinds = objects
            .lines()
            .filter(|line| line.starts_with("kind:"))
            .count();
        assert_eq!(said.lines().count(), kinds, "{folder}: {said}");
    }
}

#[test]
fn who_may_not_install_is_told_so_before() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let good = cluster.found(&["--before"]);
    assert!(
        !good.iter().any(|line| line.contains("you may not")),
        "{good:?}"
    );
    let scratch = Scratch::new();
    let file = kubeconfig_of(&cluster, "somebody", &scratch);
    let found = cluster.found(&["--before", "--kubeconfig", &file]);
    let refused = found
        .iter()
        .find(|line| line.starts_with("problem rights"))
        .unwrap();
    assert!(
        refused.contains("you may not create namespaces, priorityclasses, clusterroles"),
        "{refused}"
    );
}

/// The same cluster as somebody who has no rights but those that a test gives.
fn kubeconfig_of(cluster: &Cluster, user: &str, scratch: &Scratch) -> String {
    let config = cluster.kubectl(
        &[
            "config",
            "view",
            "--raw",
            "--minify",
            "--flatten",
            "--output",
            "json",
        ],
        "",
    );
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"]["as"] = user.into();
    let file = scratch.path().join("kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_cluster_that_is_away_is_told_of_and_fails() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let scratch = Scratch::new();
    let file = scratch.path().join("kubeconfig");
    let nowhere = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "users": [{"name": "a", "user": {}}]});
    std::fs::write(&file, nowhere.to_string()).unwrap();
    let found = cluster.found(&["--kubeconfig", file.to_str().unwrap()]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("problem cluster"), "{found:?}");
}

/// The webhook must not be left to others: it would keep pods of labelled namespaces from being made.
struct Installed<'a>(&'a Cluster);

impl<'a> Installed<'a> {
    fn apply(cluster: &'a Cluster) -> Self {
        let printed = cluster.weft(&["install", "--set", "all.WEFT_LOG=debug"]);
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        let installed = Self(cluster);
        let said = cluster.kubectl(&["apply", "-f", "-"], &text(&printed.stdout));
        assert!(said.contains("deployment.apps/weft-injector"), "{said}");
        installed
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        let words = [
            "delete",
            "--ignore-not-found",
            "mutatingwebhookconfigurations",
            "weft-injector",
        ];
        drop(self.0.run("kubectl", &words, ""));
    }
}

#[test]
fn what_is_installed_is_checked_upgraded_and_removed() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let seeded = seed(&cluster);
    let _installed = Installed::apply(&cluster);
    cluster.kubectl(
        &[
            "label",
            "--overwrite",
            "namespace",
            &seeded.meshed,
            "weft.dev/inject=enabled",
        ],
        "",
    );
    findings(&cluster, &seeded);
    who_may_not_look(&cluster);
    who_has_one_namespace(&cluster, &seeded.meshed);
    trust(&cluster);
    versions(&cluster);
    upgrade(&cluster);
    uninstall(&cluster, &seeded);
    cluster.kubectl(
        &["label", "namespace", &seeded.meshed, "weft.dev/inject-"],
        "",
    );
}

/// Two namespaces with what is wrong.
struct Seeded {
    meshed: String,
    plain: String,
}

fn seed(cluster: &Cluster) -> Seeded {
    let namespace = |prefix: &str, annotations: Value| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": prefix, "annotations": annotations}});
        let made = cluster.kubectl(
            &["create", "-f", "-", "-o", "jsonpath={.metadata.name}"],
            &object.to_string(),
        );
        made.trim().to_owned()
    };
    let meshed = namespace("meshed-", json!({"weft.dev/timeout": "10"}));
    let plain = namespace("plain-", json!({}));
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    pod(cluster, (&meshed, "old"), json!({}), &ready, false);
    let mut failed = ready.clone();
    failed["initContainerStatuses"] = json!([{"name": "weft-redirect", "image": "a", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"terminated": {"exitCode": 3, "message": "no nft"}}}]);
    pod(cluster, (&meshed, "broken"), json!({}), &failed, true);
    for (name, retry) in [("one", "2"), ("two", "3")] {
        pod(
            cluster,
            (&meshed, name),
            json!({"weft.dev/retry": retry}),
            &ready,
            true,
        );
    }
    pod(cluster, (&plain, "left"), json!({}), &ready, true);
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders", "namespace": meshed},
        "spec": {"selector": {"app": "orders"}, "ports": [{"port": 80}]}}));
    Seeded { meshed, plain }
}

fn pod(
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    annotations: Value,
    status: &Value,
    proxy: bool,
) {
    let init = match proxy {
        true => {
            json!([{"name": "weft-redirect", "image": "a"}, {"name": "weft-proxy", "image": "weft.dev/weft:0.0.1", "restartPolicy": "Always"}])
        }
        false => json!([]),
    };
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "orders"}, "annotations": annotations},
        "spec": {"initContainers": init, "containers": [{"name": "app", "image": "a"}]}}));
    let patch = json!({"status": status}).to_string();
    cluster.kubectl(
        &[
            "patch",
            "pod",
            name,
            "-n",
            namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ],
        "",
    );
}

fn findings(cluster: &Cluster, seeded: &Seeded) {
    let found = cluster.found(&[]);
    let (meshed, plain) = (&seeded.meshed, &seeded.plain);
    let want = [
        "problem control plane Deployment weft-system/weft-injector: 0 of 2 replicas ready".to_owned(),
        "problem roots ConfigMap weft-system/weft-ca-root: is not there".to_owned(),
        "problem webhook MutatingWebhookConfiguration weft-injector: inject.weft.dev has no caBundle".to_owned(),
        "cannot be made: ".to_owned(),
        format!("warning pods namespace {meshed}: 1 pods run without a proxy, though they should have one: old"),
        format!("warning pods namespace {plain}: 1 pods have a proxy, and will have none when they start anew: left"),
        format!("problem pods {meshed}/broken: its redirection could not be set up: it ended with 3 no nft"),
        format!("problem policy Namespace {meshed}: its annotations cannot be used"),
        format!("warning policy Service {meshed}/orders: its pods ask different things of their callers"),
        "proxies could not be asked".to_owned(),
    ];
    for want in want {
        assert!(
            found.iter().any(|line| line.contains(&want)),
            "not found: {want}\n{}",
            found.join("\n")
        );
    }
    // One namespace alone has nothing of the other.
    let one = cluster.found(&["--namespace", plain]);
    let tried = format!("problem webhook a pod in {plain}: cannot be made");
    assert!(one.iter().any(|line| line.contains(&tried)), "{one:?}");
    assert!(
        !one.iter()
            .any(|line| line.contains(&format!("pods {meshed}/"))),
        "{one:?}"
    );
    let told = text(&cluster.weft(&["check"]).stdout);
    assert!(
        told.contains("\nwebhook\n") && told.contains("        -> "),
        "{told}"
    );
}

/// What may not be read is not taken for what is not there.
fn who_may_not_look(cluster: &Cluster) {
    let scratch = Scratch::new();
    let file = kubeconfig_of(cluster, "half", &scratch);
    let nothing = cluster.found(&["--kubeconfig", &file]);
    let unknown = "whether one is there cannot be seen";
    assert!(
        nothing.iter().any(|line| line.contains(unknown)),
        "{nothing:?}"
    );
    assert!(
        !nothing.iter().any(|line| line.contains("is not there")),
        "{nothing:?}"
    );
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "half"},
        "rules": [{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "half"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "half"}, "subjects": [{"kind": "User", "name": "half", "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.apply(&role);
    cluster.apply(&binding);
    let half = cluster.found(&["--kubeconfig", &file]);
    for want in [
        "warning cluster : not looked at, as you may not list deployments.apps in namespace weft-system",
        "warning cluster : not looked at, as you may not list configmaps of the whole cluster",
        "warning webhook a pod in default: not tried, as you may not create pods in namespace default",
        "has no caBundle",
    ] {
        assert!(
            half.iter().any(|line| line.contains(want)),
            "{want}\n{}",
            half.join("\n")
        );
    }
    assert!(
        !half.iter().any(|line| line.contains("is not there")),
        "{half:?}"
    );
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", "half"], "");
}

/// Whoever has rights in one namespace is told what is wrong there, and not that they may not install a mesh.
fn who_has_one_namespace(cluster: &Cluster, namespace: &str) {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let rules = [
        rule(
            "",
            &["pods", "services", "configmaps", "namespaces"],
            &["get", "list"],
        ),
        rule("", &["pods"], &["create"]),
        rule(
            "apps",
            &["deployments", "statefulsets", "daemonsets"],
            &["get", "list"],
        ),
        rule("batch", &["jobs", "cronjobs"], &["get", "list"]),
    ];
    let api = "rbac.authorization.k8s.io";
    let version = format!("{api}/v1");
    let meta = json!({"name": "developer", "namespace": namespace});
    cluster
        .apply(&json!({"apiVersion": version, "kind": "Role", "metadata": meta, "rules": rules}));
    cluster.apply(&json!({"apiVersion": version, "kind": "RoleBinding", "metadata": meta,
        "roleRef": {"apiGroup": api, "kind": "Role", "name": "developer"}, "subjects": [{"kind": "User", "name": "developer", "apiGroup": api}]}));
    let scratch = Scratch::new();
    let file = kubeconfig_of(cluster, "developer", &scratch);
    let found = cluster.found(&["--namespace", namespace, "--kubeconfig", &file]);
    let all = found.join("\n");
    for want in [
        format!("warning pods namespace {namespace}: 1 pods run without a proxy"),
        format!("problem pods {namespace}/broken: its redirection could not be set up"),
        format!("problem policy Namespace {namespace}: its annotations cannot be used"),
        format!("problem webhook a pod in {namespace}: cannot be made"),
        "not looked at, as you may not list deployments.apps in namespace weft-system".to_owned(),
    ] {
        assert!(all.contains(&want), "{want}\n{all}");
    }
    assert!(
        !all.contains("is not there") && !all.contains("rights"),
        "{all}"
    );
}

/// Which roots the API server trusts the injector by.
fn trust(cluster: &Cluster) {
    let (root, other) = (Ca::new().roots(), Ca::new().roots());
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weft-ca-root", "namespace": "weft-system"}, "data": {"ca.crt": root}}));
    let lacking = "has a caBundle without the roots of now";
    for (pem, wrong) in [(&other, true), (&format!("{other}{root}"), false)] {
        let coded = cluster.kubectl(
            &[
                "create",
                "secret",
                "generic",
                "x",
                "--dry-run=client",
                "-o",
                "jsonpath={.data.a}",
                "--from-literal",
                &format!("a={pem}"),
            ],
            "",
        );
        let rule = |name: &str| json!({"name": name, "clientConfig": {"caBundle": coded}});
        let patch =
            json!({"webhooks": [rule("inject.weft.dev"), rule("pod.inject.weft.dev"), rule("annotations.weft.dev")]}).to_string();
        cluster.kubectl(
            &[
                "patch",
                "mutatingwebhookconfiguration",
                "weft-injector",
                "--type=strategic",
                "-p",
                &patch,
            ],
            "",
        );
        let found = cluster.found(&[]).join("\n");
        assert_eq!(found.contains(lacking), wrong, "{found}");
        assert!(!found.contains("has no caBundle"), "{found}");
    }
    cluster.kubectl(
        &["delete", "configmap", "weft-ca-root", "-n", "weft-system"],
        "",
    );
}

fn versions(cluster: &Cluster) {
    let told = text(&cluster.weft(&["version"]).stdout);
    let ours = env!("CARGO_PKG_VERSION");
    for want in [
        format!("weft {ours}\n"),
        format!("weft-injector {ours}\n"),
        "weft-proxy 0.0.1 (".to_owned(),
    ] {
        assert!(told.contains(&want), "{want}: {told}");
    }
}

fn upgrade(cluster: &Cluster) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "weft-old", "namespace": "weft-system", "labels": {"app.kubernetes.io/part-of": "weft"}}}));
    let same = cluster.weft(&["upgrade", "--diff"]);
    assert!(same.status.success(), "{}", text(&same.stderr));
    assert!(
        text(&same.stdout).contains(": 0 new, 0 change, "),
        "{}",
        text(&same.stdout)
    );
    assert!(
        text(&same.stdout).contains("ConfigMap weft-system/weft-old: is no longer a part of it"),
        "{}",
        text(&same.stdout)
    );
    let begins_with = format!(
        "image weft.dev/weft:{}, which is this version's\nkept from the installation: --set all.WEFT_LOG=debug\n",
        env!("CARGO_PKG_VERSION")
    );
    assert!(
        text(&same.stdout).starts_with(&begins_with),
        "{}",
        text(&same.stdout)
    );
    cluster.kubectl(
        &["delete", "configmap", "weft-old", "-n", "weft-system"],
        "",
    );
    own_registry(cluster);
    let other = cluster.weft(&["upgrade", "--trust-domain", "mesh.test"]);
    assert!(!other.status.success() && other.stdout.is_empty());
    let refused = text(&other.stderr);
    assert!(
        refused.contains("from cluster.local to mesh.test"),
        "{refused}"
    );
    let more = cluster.weft(&["upgrade", "--set", "injector.replicas=5"]);
    let (changes, manifests) = (text(&more.stderr), text(&more.stdout));
    assert!(changes.contains("Deployment weft-system/weft-injector: changes\n  - spec.replicas: 2\n  + spec.replicas: 5\n"), "{changes}");
    assert!(
        !changes.contains("WEFT_LOG\""),
        "what was chosen before stays: {changes}"
    );
    // The caBundle is the injector's, and stays whatever is applied.
    cluster.kubectl(&["apply", "-f", "-"], &manifests);
    let bundle = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    let bundle = cluster.kubectl(
        &[
            "get",
            "mutatingwebhookconfigurations",
            "weft-injector",
            "-o",
            bundle,
        ],
        "",
    );
    assert!(!bundle.is_empty());
}

/// An image that was given stays, and one that somebody else has put there does not; both are told.
fn own_registry(cluster: &Cluster) {
    let image = |image: &str| {
        let words = ["set", "image", "-n", "weft-system", "deployment/weft-ca"];
        cluster.kubectl(&[&words[..], &[&format!("weft-ca={image}")]].concat(), "");
    };
    image("registry.test/weft:0.0.1");
    let told = text(&cluster.weft(&["upgrade", "--diff"]).stdout);
    assert!(
        told.contains("warning: image registry.test/weft:0.0.1 runs now and was not chosen"),
        "{told}"
    );
    image(concat!("weft.dev/weft:", env!("CARGO_PKG_VERSION")));
    let given = cluster.weft(&["upgrade", "--image", "registry.test/weft:0.0.1"]);
    cluster.kubectl(&["apply", "-f", "-"], &text(&given.stdout));
    let next = cluster.weft(&["upgrade", "--diff"]);
    let told = text(&next.stdout);
    let stays = "warning: image registry.test/weft:0.0.1 stays, as it was said at the installation";
    assert!(told.starts_with(stays), "{told}");
    assert!(told.contains(": 0 new, 0 change, "), "{told}");
}

fn uninstall(cluster: &Cluster, seeded: &Seeded) {
    roots(cluster, &seeded.plain, "weft-ca");
    roots(cluster, &seeded.meshed, "trust-manager");
    cluster.kubectl(
        &["apply", "-f", &manifests("ztunnel/ca-pods-rbac.yaml")],
        "",
    );
    let printed = cluster.weft(&["uninstall"]);
    let warnings = text(&printed.stderr);
    for want in [
        format!("namespace {} is still in the mesh", seeded.meshed),
        format!(
            "ConfigMap {}/weft-ca-root looks like a part of weft",
            seeded.meshed
        ),
    ] {
        assert!(warnings.contains(&want), "{want}: {warnings}");
    }
    let said = cluster.kubectl(
        &["delete", "--dry-run=server", "-f", "-"],
        &text(&printed.stdout),
    );
    for want in [
        "mutatingwebhookconfiguration",
        "deployment.apps \"weft-ca\"",
        "namespace \"weft-system\"",
        "clusterrole.rbac.authorization.k8s.io \"weft-ca-pods\"",
        "clusterrolebinding.rbac.authorization.k8s.io \"weft-ca-pods\"",
        "configmap \"weft-ca-root\"",
    ] {
        assert!(said.contains(want), "{want}: {said}");
    }
    let manifests_of = |namespace: &str| {
        let line = format!("  namespace: {namespace}");
        let doomed = text(&printed.stdout);
        doomed.lines().filter(|one| *one == line).count()
    };
    assert_eq!(
        (manifests_of(&seeded.plain), manifests_of(&seeded.meshed)),
        (1, 0)
    );
    for namespace in [&seeded.plain, &seeded.meshed] {
        cluster.kubectl(
            &["delete", "configmap", "weft-ca-root", "-n", namespace],
            "",
        );
    }
    cluster.kubectl(
        &["delete", "-f", &manifests("ztunnel/ca-pods-rbac.yaml")],
        "",
    );
}

/// A ConfigMap with roots, as whoever manages it writes it.
fn roots(cluster: &Cluster, namespace: &str, manager: &str) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "weft-ca-root", "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "weft", "app.kubernetes.io/managed-by": manager}}}));
}
