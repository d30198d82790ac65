//! Whom one trusts by the roots file and by an authority's answer.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, SystemTime};

use weft_ca::issuer::Issuer;
use weft_certs::bundle::Bundle;
use weft_certs::leaf::Leaf;
use weft_certs::roots::{Agreement, trusted};
use weft_policy::spiffe::{SpiffeId, TrustDomain};

fn issuer() -> Issuer {
    Issuer::generate(&TrustDomain::parse("cluster.local").unwrap()).unwrap()
}

fn leaf(issuer: &Issuer) -> Leaf {
    let id = SpiffeId::workload(issuer.domain(), "shop", "web").unwrap();
    let hour = Duration::from_secs(3600);
    issuer.issue(&id, hour, SystemTime::now()).unwrap()
}

fn pem(issuers: &[&Issuer]) -> String {
    issuers
        .iter()
        .map(|issuer| issuer.bundle().to_pem())
        .collect()
}

#[test]
fn roots_of_the_file_are_trusted_beside_those_of_the_answer() {
    let [old, new, third] = [issuer(), issuer(), issuer()];
    let many: Vec<Issuer> = (0..17).map(|_| issuer()).collect();
    let web = pem(&many.iter().chain([&old]).collect::<Vec<_>>());
    let (settled, changing, unrelated) = (
        Agreement::Settled,
        Agreement::Changing,
        Agreement::Unrelated,
    );
    let rows: &[(&str, &[&Issuer], String, &[&Issuer], Agreement)] = &[
        ("one root", &[&old], pem(&[&old]), &[&old], settled),
        (
            "added, known to the file first",
            &[&old],
            pem(&[&old, &new]),
            &[&old, &new],
            changing,
        ),
        (
            "added, known to both",
            &[&old, &new],
            pem(&[&new, &old]),
            &[&old, &new],
            changing,
        ),
        (
            "dropped, known to the file first",
            &[&old, &new],
            pem(&[&old]),
            &[&old, &new],
            changing,
        ),
        (
            "another mesh's, or the web's",
            &[&old],
            pem(&[&third]),
            &[&old],
            unrelated,
        ),
        ("too many for a mesh", &[&old], web, &[&old], unrelated),
        ("none", &[&old], String::new(), &[&old], unrelated),
        ("broken", &[&old], "x".to_owned(), &[&old], unrelated),
    ];
    let leaf = leaf(&old);
    for (name, answer, file, want, agreement) in rows {
        let answer = Bundle::from_pem(&pem(answer)).unwrap();
        let (trust, told) = trusted(&leaf, &answer, file);
        assert_eq!((trust.to_pem(), told), (pem(want), *agreement), "{name}");
    }
}

#[test]
fn a_leaf_is_under_one_root() {
    let [old, new] = [issuer(), issuer()];
    let both = Bundle::from_pem(&pem(&[&old, &new])).unwrap();
    for issuer in [&old, &new] {
        let root = both.root_of(&leaf(issuer));
        assert_eq!(root, issuer.bundle().roots().first());
    }
    assert!(old.bundle().root_of(&leaf(&new)).is_none());
}
