//! The proxies themselves, by what they count: version, identity, policy, control plane, who called in plain text, redirection.
//!
//! Their `/metrics` are read by way of the API server, which reaches every pod; so are those of the authority.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::control;
use super::finding::{Findings, some};
use super::roots::days;
use super::samples::Samples;
use super::seen::Seen;
use crate::kubectl::{Kubectl, KubectlError};

/// Asks all proxies, and the authority.
pub(super) async fn look(kubectl: &Kubectl, seen: &Seen, now: SystemTime, findings: &mut Findings) {
    let authority = seen.pods_of("weft-ca").filter(|pod| pod.running());
    let authority: Vec<String> = authority.map(|pod| pod.place()).collect();
    for (pod, answer) in ask(kubectl, &authority, CONTROL).await {
        if let Ok(samples) = answer {
            issuer(&pod, &samples, now, findings);
        }
    }
    let all: Vec<String> = seen
        .meshed()
        .filter(|pod| pod.running())
        .map(|pod| pod.place())
        .collect();
    let asked: Vec<String> = all.iter().take(MOST).cloned().collect();
    if asked.is_empty() {
        return;
    }
    let answers = ask(kubectl, &asked, PROXY).await;
    judge(
        &answers,
        control::version(seen, "weft-injector"),
        now,
        findings,
    );
    if all.len() > MOST {
        findings.good(
            AREA,
            "",
            format!(
                "only {MOST} of {} were asked: name one namespace with -n",
                all.len()
            ),
        );
    }
}

type Answer = (String, Result<Samples, String>);

async fn ask(kubectl: &Kubectl, pods: &[String], port: u16) -> Vec<Answer> {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut asked = JoinSet::new();
    for pod in pods {
        let (kubectl, places, pod) = (kubectl.clone(), Arc::clone(&places), pod.clone());
        asked.spawn(async move {
            let _place = places.acquire_owned().await;
            let (namespace, name) = pod.split_once('/').unwrap_or_default();
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics");
            let text = kubectl.text(&["get", "--raw", &path]).await;
            let samples = text.map(|text| Samples::parse(&text));
            (pod, samples.map_err(|error| why(&error)))
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by(|one, other| one.0.cmp(&other.0));
    answers
}

/// A missing right is the same for all pods of a namespace.
fn why(error: &KubectlError) -> String {
    let missing = error.missing();
    let right = missing.first().map(|right| format!("you may not {right}"));
    right.unwrap_or_else(|| error.to_string())
}

fn issuer(pod: &str, samples: &Samples, now: SystemTime, findings: &mut Findings) {
    let Some(end) = samples.sum("weft_ca_issuer_expiry_timestamp_seconds", &[]) else {
        return;
    };
    let remedy = "weft rotate-root; see docs/identity.md, how to exchange the root";
    match left(end, now) {
        None => findings.problem(
            "roots",
            pod,
            (
                "the certificate it signs with has expired".to_owned(),
                remedy,
            ),
        ),
        Some(left) if left < MONTH => {
            let what = format!("the certificate it signs with expires in {}", days(left));
            findings.warning("roots", pod, (what, remedy));
        }
        Some(left) => findings.good(
            "roots",
            pod,
            format!("what it signs with expires in {}", days(left)),
        ),
    }
}

fn judge(answers: &[Answer], wanted: Option<&str>, now: SystemTime, findings: &mut Findings) {
    let mut silent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut carried, mut answered) = (0_usize, 0_usize);
    for (pod, answer) in answers {
        match answer {
            Err(why) => silent.entry(why).or_default().push(pod.clone()),
            Ok(samples) => {
                answered += 1;
                carried += usize::from(has_carried(samples));
                let version = samples
                    .label("weft_build_info", "version")
                    .unwrap_or("unknown");
                versions
                    .entry(version.to_owned())
                    .or_default()
                    .push(pod.clone());
                one(pod, samples, now, findings);
            }
        }
    }
    for (why, pods) in silent {
        let what = format!(
            "{} proxies could not be asked: {}: {why}",
            pods.len(),
            some(&pods)
        );
        findings.warning(AREA, "", (what, "the API server must reach port 15020 of pods, and you need the right to get pods/proxy"));
    }
    for (version, pods) in versions
        .iter()
        .filter(|(version, _)| wanted.is_some_and(|wanted| *version != wanted))
    {
        let what = format!(
            "{} proxies have version {version}: {}",
            pods.len(),
            some(pods)
        );
        findings.warning(AREA, "", (what, "restart their workloads, which gives them the proxy of the control plane's version"));
    }
    if answered > 0 && !findings.bad_in(AREA) {
        let versions: Vec<String> = versions.into_keys().collect();
        let what = format!(
            "{answered} proxies are well, version {}; {carried} of them have carried redirected connections",
            versions.join(", ")
        );
        findings.good(AREA, "", what);
    }
}

fn has_carried(samples: &Samples) -> bool {
    let names = [
        "weft_inbound_connections_accepted_total",
        "weft_outbound_connections_accepted_total",
    ];
    names
        .iter()
        .any(|name| samples.sum(name, &[]).unwrap_or(0.0) > 0.0)
}

/// What one proxy says.
fn one(pod: &str, samples: &Samples, now: SystemTime, findings: &mut Findings) {
    let (namespace, name) = pod.split_once('/').unwrap_or_default();
    let logs = format!("kubectl -n {namespace} logs {name} -c weft-proxy");
    let counted = |metric: &str, labels: &[&str]| samples.sum(metric, labels).unwrap_or(0.0);
    match samples.sum("weft_identity_expiry_seconds", &[]) {
        None => {}
        Some(0.0) => findings.problem(AREA, pod, ("has no identity".to_owned(), &logs)),
        Some(end) => match left(end, now) {
            None => findings.problem(AREA, pod, ("its certificate has expired".to_owned(), &logs)),
            Some(left) if left < HOUR => {
                let what = format!(
                    "its certificate expires in {} minutes and was not renewed",
                    left.as_secs() / 60
                );
                findings.warning(AREA, pod, (what, &logs));
            }
            Some(_) => {}
        },
    }
    if samples.sum("weft_discovery_connected", &[]) == Some(0.0) {
        findings.problem(
            AREA,
            pod,
            (
                "is not connected to weft-discovery: it goes on with what it knows".to_owned(),
                &logs,
            ),
        );
    }
    if counted("weft_policy_rejected_total", &[]) > 0.0 {
        let what = "a change of its policy was refused, the last good one stays".to_owned();
        let remedy = format!("kubectl -n {namespace} port-forward {name} 15000 & weft explain");
        findings.warning(AREA, pod, (what, &remedy));
    }
    if counted(
        "weft_rejects_total",
        &["direction=\"inbound\"", "reason=\"original_destination\""],
    ) > 0.0
    {
        let what = "connections reached it that nothing had redirected: redirection does not work, or somebody calls port 15006 itself".to_owned();
        let remedy = format!("kubectl -n {namespace} logs {name} -c weft-redirect");
        findings.warning(AREA, pod, (what, &remedy));
    }
    let early = counted(
        "weft_tls_handshakes_total",
        &["result=\"failed\"", "reason=\"not_yet_valid\""],
    );
    if early > 0.0 {
        let what = format!(
            "{early} handshakes failed because a certificate was not valid yet: a clock is off"
        );
        findings.warning(AREA, pod, (what, "compare the clocks of the nodes"));
    }
    let plain = counted("weft_plaintext_connections_total", &[]);
    if plain > 0.0 {
        let what = format!("{plain} connections came in plain text");
        let remedy = format!(
            "put the callers into the mesh; weft edges -n {namespace} shows what is called so. When the number stands still: weft.dev/mtls: strict"
        );
        findings.warning("plaintext", pod, (what, &remedy));
    }
}

/// How long until a Unix time, or none if it has passed.
fn left(end: f64, now: SystemTime) -> Option<Duration> {
    let end = Duration::try_from_secs_f64(end).ok()?;
    (SystemTime::UNIX_EPOCH + end).duration_since(now).ok()
}

const AREA: &str = "proxies";
const PROXY: u16 = 15020;
const CONTROL: u16 = 15014;
const MOST: usize = 500;
const AT_A_TIME: usize = 8;
const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(metrics: &str) -> Vec<String> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let answers = [
            ("shop/a".to_owned(), Ok(Samples::parse(metrics))),
            ("shop/b".to_owned(), Err("refused".to_owned())),
        ];
        let mut findings = Findings::default();
        judge(&answers[..1], Some("0.1.0"), now, &mut findings);
        let bad = findings.bad();
        judge(&answers, Some("0.1.0"), now, &mut findings);
        assert!(
            findings
                .text()
                .contains("1 proxies could not be asked: shop/b: refused"),
            "{}",
            findings.text()
        );
        bad
    }

    #[test]
    fn what_a_proxy_counts_is_judged() {
        let well = "weft_build_info{version=\"0.1.0\"} 1\nweft_identity_expiry_seconds 1040000\nweft_discovery_connected 1\n\
            weft_policy_rejected_total 0\nweft_plaintext_connections_total 0\n";
        assert_eq!(judged(well), Vec::<String>::new());
        let rows = [
            (
                "weft_identity_expiry_seconds 0\n",
                "Problem shop/a: has no identity",
            ),
            (
                "weft_identity_expiry_seconds 999999\n",
                "Problem shop/a: its certificate has expired",
            ),
            (
                "weft_identity_expiry_seconds 1000600\n",
                "Warning shop/a: its certificate expires in 10 minutes",
            ),
            (
                "weft_discovery_connected 0\n",
                "Problem shop/a: is not connected to weft-discovery",
            ),
            (
                "weft_policy_rejected_total 2\n",
                "Warning shop/a: a change of its policy was refused",
            ),
            (
                "weft_plaintext_connections_total 7\n",
                "Warning shop/a: 7 connections came in plain text",
            ),
            (
                "weft_rejects_total{direction=\"inbound\",reason=\"original_destination\"} 1\n",
                "Warning shop/a: connections reached it that nothing had redirected",
            ),
            (
                "weft_tls_handshakes_total{direction=\"inbound\",result=\"failed\",reason=\"not_yet_valid\"} 3\n",
                "Warning shop/a: 3 handshakes failed",
            ),
        ];
        for (metrics, want) in rows {
            let bad = judged(&format!(
                "weft_build_info{{version=\"0.1.0\"}} 1\n{metrics}"
            ));
            assert!(
                bad.len() == 1 && bad[0].starts_with(want),
                "{metrics}: {bad:?}"
            );
        }
        let old = judged("weft_build_info{version=\"0.0.9\"} 1\n");
        assert_eq!(old, ["Warning : 1 proxies have version 0.0.9: shop/a"]);
    }
}
