//! Roots: how long they last, and whether every namespace of the mesh has them.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use weft_certs::bundle::Bundle;

use super::finding::{Findings, some};
use super::seen::{Kind, SYSTEM, Seen};
use crate::objects::{Namespace, Pod, text};

/// Looks at the ConfigMaps weft-ca-root.
pub(super) fn look(seen: &Seen, now: SystemTime, findings: &mut Findings) {
    if !seen.read(&[Kind::Bundles]) {
        return;
    }
    let remedy = REMEDY;
    let place = format!("ConfigMap {SYSTEM}/weft-ca-root");
    let Some(bundle) = bundle_of(seen, SYSTEM) else {
        let what = "is not there: nobody knows the roots, and pods wait".to_owned();
        findings.problem(AREA, &place, (what, remedy));
        return;
    };
    let roots = match parsed(bundle) {
        Ok(roots) => roots,
        Err(why) => {
            findings.problem(AREA, &place, (why, remedy));
            return;
        }
    };
    expiry(&roots, now, &place, findings);
    everywhere(seen, &roots, findings);
    immutable(seen, findings);
}

/// Whether each namespace of the mesh has these roots, whatever else its ConfigMap says beside the certificates.
fn everywhere(seen: &Seen, roots: &Bundle, findings: &mut Findings) {
    let injecting = seen.namespaces.iter().map(Namespace);
    let injecting = injecting.filter(|one| one.injects() || has_pods(seen, one.name()));
    let (mut missing, mut other) = (Vec::new(), Vec::new());
    for namespace in injecting {
        match bundle_of(seen, namespace.name()) {
            None => missing.push(namespace.name().to_owned()),
            Some(found) if parsed(found).is_ok_and(|found| same(&found, roots)) => {}
            Some(_) => other.push(namespace.name().to_owned()),
        }
    }
    if !missing.is_empty() {
        let what = format!(
            "the roots are not in {}: new pods there wait",
            some(&missing)
        );
        let remedy = "weft-ca puts them where the label weft.dev/inject is, whatever its value: kubectl -n weft-system logs deployment/weft-ca";
        findings.problem(AREA, "", (what, remedy));
    }
    if !other.is_empty() {
        let what = format!("the roots in {} are not those of {SYSTEM}", some(&other));
        findings.problem(AREA, "", (what, REMEDY));
    }
    if missing.is_empty() && other.is_empty() && seen.read(&[Kind::Namespaces]) {
        findings.good(AREA, "", "every namespace of the mesh has the roots");
    }
}

/// Whether both trust the same, in whatever order.
fn same(one: &Bundle, other: &Bundle) -> bool {
    let all_of = |one: &Bundle, other: &Bundle| {
        let mut roots = one.roots().iter();
        roots.all(|root| other.roots().contains(root))
    };
    all_of(one, other) && all_of(other, one)
}

/// One that cannot be changed keeps its roots when the mesh gets others.
fn immutable(seen: &Seen, findings: &mut Findings) {
    let fixed = seen.bundles.iter();
    let fixed = fixed.filter(|one| one.get("immutable") == Some(&Value::Bool(true)));
    let fixed: Vec<String> = fixed
        .map(|one| text(one, "/metadata/namespace").to_owned())
        .collect();
    if !fixed.is_empty() {
        let what = format!(
            "the ConfigMap weft-ca-root is immutable in {}: another root does not get there",
            some(&fixed)
        );
        let remedy =
            "delete it, and weft-ca makes it anew; look for what makes ConfigMaps immutable";
        findings.warning(AREA, "", (what, remedy));
    }
}

/// Whether pods are there that ask for a proxy by themselves.
fn has_pods(seen: &Seen, namespace: &str) -> bool {
    let mut pods = seen.pods.iter().map(Pod);
    pods.any(|pod| pod.namespace() == namespace && pod.asks() == Some("enabled") && !pod.finished())
}

/// The roots that the authority has made known.
pub(super) fn current(seen: &Seen) -> Option<Bundle> {
    parsed(bundle_of(seen, SYSTEM)?).ok()
}

fn bundle_of<'a>(seen: &'a Seen, namespace: &str) -> Option<&'a Value> {
    let mut bundles = seen.bundles.iter();
    bundles.find(|one| text(one, "/metadata/namespace") == namespace)
}

fn parsed(bundle: &Value) -> Result<Bundle, String> {
    let read = Bundle::from_pem(text(bundle, CA));
    read.map_err(|error| format!("its ca.crt cannot be read: {error}"))
}

fn expiry(roots: &Bundle, now: SystemTime, place: &str, findings: &mut Findings) {
    let remedy = "weft rotate-root; see docs/identity.md, how to exchange the root";
    let count = roots.roots().len();
    let Some(end) = roots.first_expiry() else {
        return;
    };
    match end.duration_since(now) {
        Err(_past) => findings.problem(AREA, place, ("a root has expired".to_owned(), remedy)),
        Ok(left) if left < SOON => {
            let what = format!("a root expires in {}", days(left));
            findings.warning(AREA, place, (what, remedy));
        }
        Ok(left) => findings.good(
            AREA,
            place,
            format!("{count} roots, the first expires in {}", days(left)),
        ),
    }
}

/// `12 days`, or `5 hours`.
pub(super) fn days(left: Duration) -> String {
    let hours = left.as_secs() / 3600;
    match hours / 24 {
        0 => format!("{hours} hours"),
        days => format!("{days} days"),
    }
}

const AREA: &str = "roots";
const REMEDY: &str = "weft-ca makes it: kubectl -n weft-system logs deployment/weft-ca";
const CA: &str = "/data/ca.crt";
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_tests::ca::Ca;

    use super::*;

    fn bundle(namespace: &str, pem: &str) -> Value {
        json!({"metadata": {"namespace": namespace, "name": "weft-ca-root"}, "data": {"ca.crt": pem}})
    }

    fn looked(bundles: Vec<Value>, now: SystemTime) -> Vec<String> {
        let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"weft.dev/inject": "enabled"}}});
        let seen = Seen {
            namespaces: vec![namespace("shop"), namespace("other")],
            bundles,
            ..Seen::default()
        };
        let mut findings = Findings::default();
        look(&seen, now, &mut findings);
        findings.bad()
    }

    #[test]
    fn namespaces_without_the_roots_or_with_others_are_named() {
        let (now, pem, strange) = (SystemTime::now(), Ca::new().roots(), Ca::new().roots());
        assert!(looked(vec![], now)[0].contains("is not there"));
        let all = |shop: &str, other: &str| {
            vec![
                bundle(SYSTEM, &pem),
                bundle("shop", shop),
                bundle("other", other),
            ]
        };
        assert_eq!(looked(all(&pem, &pem), now), Vec::<String>::new());
        assert_eq!(
            looked(all(&pem, &strange), now),
            ["Problem : the roots in other are not those of weft-system"]
        );
        let missing = looked(vec![bundle(SYSTEM, &pem), bundle("shop", &pem)], now);
        assert_eq!(
            missing,
            ["Problem : the roots are not in other: new pods there wait"]
        );
        assert!(looked(vec![bundle(SYSTEM, "x")], now)[0].contains("cannot be read"));
        assert_eq!(
            looked(all("x", &pem), now),
            ["Problem : the roots in shop are not those of weft-system"]
        );
    }

    #[test]
    fn roots_are_compared_as_certificates_and_not_as_text() {
        let (now, one, other) = (SystemTime::now(), Ca::new().roots(), Ca::new().roots());
        let (written, read) = (
            format!("{one}{other}"),
            format!(
                "# from elsewhere\n{}\n{}",
                other.trim_end(),
                one.replace('\n', "\r\n")
            ),
        );
        let of = |shop: &str| {
            vec![
                bundle(SYSTEM, &written),
                bundle("shop", shop),
                bundle("other", &written),
            ]
        };
        assert_eq!(looked(of(&read), now), Vec::<String>::new());
        assert_eq!(
            looked(of(&one), now),
            ["Problem : the roots in shop are not those of weft-system"]
        );
    }

    #[test]
    fn roots_that_cannot_be_changed_are_told() {
        let (now, pem) = (SystemTime::now(), Ca::new().roots());
        let mut fixed = bundle("shop", &pem);
        fixed["immutable"] = json!(true);
        let bad = looked(
            vec![bundle(SYSTEM, &pem), fixed, bundle("other", &pem)],
            now,
        );
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].contains("is immutable in shop"), "{bad:?}");
    }

    #[test]
    fn roots_that_end_are_told_of_before() {
        let pem = Ca::new().roots();
        let all = || {
            vec![
                bundle(SYSTEM, &pem),
                bundle("shop", &pem),
                bundle("other", &pem),
            ]
        };
        let end = Bundle::from_pem(&pem).unwrap().first_expiry().unwrap();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(looked(all(), end - 31 * day), Vec::<String>::new());
        assert!(looked(all(), end - 3 * day)[0].contains("a root expires in 3 days"));
        assert!(looked(all(), end + day)[0].contains("a root has expired"));
    }
}
