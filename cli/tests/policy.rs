//! What people are told of policy: `weft explain` of a real proxy, `weft token`, `weft lint`, as the program that is shipped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use weft_tests::app::echo;
use weft_tests::eventually::eventually;
use weft_tests::mesh::Pair;
use weft_tests::scratch::Scratch;

/// Runs `weft` with `input` on its standard input.
async fn weft(words: &[&str], input: &'static str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        // A program that does not read it may be gone by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn said(output: &Output) -> String {
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn explain_tells_each_value_with_its_layer_and_why_a_change_was_refused() {
    let policy = "rate-limit: 100/s\njwt: {issuer: 'https://i.test', algorithms: [HS256], jwks: {secret: aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gMzI=}}\n";
    let pair = Pair::with(
        echo(),
        |web| web,
        |orders| {
            orders
                .policy(policy)
                .annotations("weft.dev/allow=\"web\"\nweft.dev/timeout=\"2s\"\n")
        },
    );
    let admin = pair.orders.admin.to_string();
    let explain = async || said(&weft(&["explain", "--proxy", &admin], "").await);
    let told = explain().await;
    let line = |path: &str| {
        let mut lines = told.lines().filter(|line| line.starts_with(path));
        let line = lines.next().unwrap_or_else(|| panic!("no {path}: {told}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(told.starts_with("policy version 1\n"), "{told}");
    assert!(line("allow").starts_with("allow web pod"), "{told}");
    assert!(line("timeout.request").contains(" 2s pod"), "{told}");
    assert!(line("rate-limit").contains(" 100/s file"), "{told}");
    assert!(line("jwt").contains("file"), "{told}");
    assert!(!told.contains("aGVsbG8"), "a secret is shown: {told}");

    pair.orders
        .set_annotations("weft.dev/retry.attemps=\"3\"\nweft.dev/timeout=\"10\"\n");
    let refused = eventually(Duration::from_secs(10), explain, |told| {
        told.contains("problems: 2")
    });
    let told = refused.await;
    for want in [
        "the newest change was refused, the policy above stays; problems: 2",
        "weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"",
        "weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?",
    ] {
        assert!(told.contains(want), "{want}: {told}");
    }
    assert!(told.starts_with("policy version 1\n"), "{told}");

    let json = weft(&["explain", "--proxy", &admin, "--output", "json"], "").await;
    let page: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(page["problems"].as_array().unwrap().len(), 2, "{page:#}");
}

/// RFC 7515, appendix A.3.
const TOKEN: &str = "Bearer eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q\n";
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

#[tokio::test]
async fn a_token_is_explained_without_its_signature() {
    let scratch = Scratch::new();
    let keys = scratch.file("keys.json", KEYS);
    let keys = keys.to_str().unwrap();
    let output = weft(&["token", "-", "--jwks", keys], TOKEN).await;
    let told = said(&output);
    for want in [
        "ES256",
        "good",
        "joe",
        "2011-03-22 18:43:00 UTC",
        "refused, jwt_expired",
    ] {
        assert!(told.contains(want), "{want}: {told}");
    }
    assert!(!told.contains("DtEhU3ljbEg8L38V"), "{told}");
    let file = scratch.file("token", TOKEN);
    let output = weft(&["token", file.to_str().unwrap()], "").await;
    assert!(said(&output).contains("not checked"), "{}", said(&output));
}

#[tokio::test]
async fn lint_names_every_mistake_of_files_and_manifests_and_fails() {
    let scratch = Scratch::new();
    let good = scratch.file("good.yaml", "retry: 3\nallow: web\n");
    let policy = scratch.file("policy.yaml", "retry: {attemps: 3}\ninject: disabled\n");
    let manifest = scratch.file(
        "manifest.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: orders, namespace: shop, annotations: {weft.dev/timeout: '10'}}\nspec: {template: {metadata: {annotations: {weft.dev/skip.outbound-ports: '5432', weft.dev/cors: '{}'}}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop, annotations: {weft.dev/allow: web}}\n",
    );
    let path = |file: &std::path::Path| file.to_str().unwrap().to_owned();
    let output = weft(&["lint", &path(&good)], "").await;
    assert!(output.status.success(), "{}", said(&output));
    let output = weft(
        &["lint", &path(&good), &path(&policy), &path(&manifest)],
        "",
    )
    .await;
    assert!(!output.status.success());
    let told = said(&output);
    for want in [
        "did you mean weft.dev/retry.attempts?",
        "weft.dev/inject",
        "weft.dev/timeout: \"10\" has no unit",
        "weft.dev/cors",
        "a Service says only how its callers call it",
    ] {
        assert!(told.contains(want), "{want}: {told}");
    }
    assert!(!told.contains("outbound-ports"), "{told}");
}
