//! What an issuer signs, and which issuers are refused before they sign anything.

use std::time::{Duration, SystemTime};

use rcgen::{CustomExtension, KeyPair};
use weft_certs::csr::Request;
use weft_certs::leaf::{MIN_RENEWAL_DELAY, renewal_delay};
use weft_policy::spiffe::{SpiffeId, TrustDomain};

use super::{BACKDATE, Issuer, IssuerError, authority_params};
use crate::csr::{CsrError, checked_key};

const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn web() -> SpiffeId {
    SpiffeId::workload(&domain(), "shop", "web").unwrap()
}

/// A root with name constraints that permit one subtree of the given kind (RFC 5280 section 4.2.1.6: 2 is DNS, 6 is URI).
fn constrained(kind: u8, base: &str) -> Result<Issuer, IssuerError> {
    let length = u8::try_from(base.len()).unwrap();
    let mut content = vec![
        0x30,
        length + 6,
        0xa0,
        length + 4,
        0x30,
        length + 2,
        0x80 | kind,
        length,
    ];
    content.extend_from_slice(base.as_bytes());
    let key = KeyPair::generate().unwrap();
    let now = SystemTime::now();
    let mut params = authority_params(&domain(), now, now + HOUR).unwrap();
    let mut constraint = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    constraint.set_criticality(true);
    params.custom_extensions = vec![constraint];
    let root = params.self_signed(&key).unwrap().pem();
    Issuer::from_pem(&domain(), &root, &key.serialize_pem(), &root)
}

#[test]
fn a_leaf_begins_early_and_never_outlives_its_signer() {
    let now = SystemTime::now();
    let root = Issuer::generate_for(&domain(), 10 * HOUR, now).unwrap();
    let middle = root.intermediate(5 * HOUR, now).unwrap();
    let second = Duration::from_secs(1);
    let rows = [
        ("short", &root, HOUR, HOUR),
        ("root ends first", &root, 20 * HOUR, 10 * HOUR),
        ("intermediate ends first", &middle, 20 * HOUR, 5 * HOUR),
    ];
    for (name, issuer, asked, want) in rows {
        let leaf = issuer.issue(&web(), asked, now).unwrap();
        assert!(leaf.not_before() <= now - BACKDATE, "{name}");
        assert!(
            leaf.not_after() <= now + want && leaf.not_after() + second >= now + want,
            "{name}"
        );
    }
    let late = root.issue(&web(), HOUR, now + 11 * HOUR);
    assert!(matches!(late, Err(IssuerError::Expired { .. })));
}

#[test]
fn an_intermediate_below_a_root_that_ends_first_ends_with_it() {
    let now = SystemTime::now();
    let root = Issuer::generate_for(&domain(), HOUR, now).unwrap();
    assert!(root.intermediate(5 * HOUR, now).unwrap().not_after() <= now + HOUR);
}

#[test]
fn an_answer_is_the_leaf_then_intermediates_then_all_roots() {
    let now = SystemTime::now();
    let root = Issuer::generate(&domain()).unwrap();
    let middle = root.intermediate(HOUR, now).unwrap();
    for (issuer, elements) in [(&root, 2), (&middle, 3)] {
        let request = Request::new(&web()).unwrap();
        let key = checked_key(request.pem(), &web()).unwrap();
        let answer = issuer.response(&issuer.sign(&web(), &key, HOUR, now).unwrap());
        assert_eq!(answer.len(), elements);
        assert!(answer.iter().all(|pem| pem.ends_with("-----\n")));
        assert_eq!(answer.last(), Some(&root.bundle().to_pem()));
        let leaf = request.into_leaf(&answer[..elements - 1]).unwrap();
        assert_eq!(leaf.id(), &web());
    }
}

#[test]
fn an_issuer_with_a_uri_constraint_is_refused_by_its_name() {
    let refused = constrained(6, "cluster.local").err().unwrap().to_string();
    assert!(
        refused.contains("permitted;URI(cluster.local)"),
        "{refused}"
    );
    assert!(
        constrained(2, "cluster.local").is_ok(),
        "a DNS constraint is only warned of"
    );
}

#[test]
fn an_issuer_must_belong_together() {
    let (one, two) = (
        Issuer::generate(&domain()).unwrap(),
        Issuer::generate(&domain()).unwrap(),
    );
    let pem = |issuer: &Issuer| issuer.bundle().to_pem();
    let key = |issuer: &Issuer| issuer.signer().key().serialize_pem();
    let from = |chain: &str, key: &str, roots: &str| Issuer::from_pem(&domain(), chain, key, roots);
    assert!(from(&pem(&one), &key(&one), &pem(&one)).is_ok());
    let mixed = from(&pem(&one), &key(&two), &pem(&one));
    assert!(matches!(mixed, Err(IssuerError::KeyMismatch)));
    let mixed = from(&pem(&one), &key(&one), &pem(&two));
    assert!(matches!(
        mixed,
        Err(IssuerError::Proof(webpki::Error::UnknownIssuer))
    ));
    let now = SystemTime::now();
    let expired = Issuer::generate_for(&domain(), HOUR, now - 2 * HOUR).unwrap();
    let expired = from(&pem(&expired), &key(&expired), &pem(&expired));
    assert!(matches!(expired, Err(IssuerError::Expired { .. })));
    let leaf = one.issue(&web(), HOUR, now).unwrap();
    let leaf = weft_certs::bundle::certificate_to_pem(&leaf.chain()[0]);
    assert!(matches!(
        from(&leaf, &key(&one), &pem(&one)),
        Err(IssuerError::NotAnAuthority)
    ));
    assert!(matches!(
        from("", &key(&one), &pem(&one)),
        Err(IssuerError::Material(_))
    ));
    assert!(matches!(
        from(&pem(&one), &key(&one), "no pem"),
        Err(IssuerError::Material(_))
    ));
}

#[test]
fn each_leaf_has_a_serial_number_of_its_own() {
    let issuer = Issuer::generate(&domain()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = || {
        issuer
            .sign(&web(), &key, HOUR, SystemTime::UNIX_EPOCH + HOUR)
            .unwrap()
    };
    assert_ne!(leaf(), leaf());
}

#[test]
fn a_leaf_is_renewed_when_half_of_it_is_left() {
    let now = SystemTime::now();
    let issuer = Issuer::generate(&domain()).unwrap();
    let second = Duration::from_secs(1);
    let rows = [
        ("a day", 24 * HOUR, now, 12 * HOUR),
        ("seconds", 20 * second, now, 10 * second),
        ("received late", 24 * HOUR, now + 20 * HOUR, 2 * HOUR),
        (
            "our clock is far ahead",
            HOUR,
            now + 30 * HOUR,
            (HOUR + BACKDATE) / 20,
        ),
        (
            "our clock is far behind",
            HOUR,
            now - 30 * HOUR,
            (HOUR + BACKDATE) / 2,
        ),
        ("nothing left", second, now, MIN_RENEWAL_DELAY),
    ];
    for (name, lifetime, received, want) in rows {
        let leaf = issuer.issue(&web(), lifetime, now).unwrap();
        let delay = renewal_delay(&leaf, received, 0.0);
        assert!(
            delay <= want + second && delay + second >= want,
            "{name}: {delay:?}"
        );
        let early = renewal_delay(&leaf, received, 1.0);
        assert!(
            early <= delay && early >= MIN_RENEWAL_DELAY.max(delay.mul_f64(0.89)),
            "{name}: {early:?}"
        );
    }
}

#[test]
fn requests_are_taken_for_their_key_only() {
    let other = SpiffeId::workload(&domain(), "shop", "admin").unwrap();
    let request = Request::new(&web()).unwrap();
    assert!(checked_key(request.pem(), &web()).is_ok());
    assert!(matches!(
        checked_key(request.pem(), &other),
        Err(CsrError::ForeignName { .. })
    ));

    let mut params = rcgen::CertificateParams::default();
    let key = KeyPair::generate().unwrap();
    assert!(
        checked_key(
            &params.serialize_request(&key).unwrap().pem().unwrap(),
            &web()
        )
        .is_ok()
    );
    params.subject_alt_names = vec![rcgen::SanType::DnsName("web".try_into().unwrap())];
    let foreign = params.serialize_request(&key).unwrap().pem().unwrap();
    assert!(matches!(
        checked_key(&foreign, &web()),
        Err(CsrError::ForeignName { .. })
    ));
}

#[test]
fn broken_requests_and_weak_keys_are_refused() {
    let params = rcgen::CertificateParams::default();
    let request = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    };
    assert!(checked_key(&request(&rcgen::PKCS_ECDSA_P384_SHA384), &web()).is_ok());
    let unknown = [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P521_SHA512];
    for algorithm in unknown {
        assert_eq!(
            checked_key(&request(algorithm), &web()).unwrap_err(),
            CsrError::UnknownKey
        );
    }
    let weak = include_str!("testdata/rsa1024.csr.pem");
    assert_eq!(
        checked_key(weak, &web()).unwrap_err(),
        CsrError::RsaSize { bits: 1024 }
    );
    let unknown = include_str!("testdata/secp256k1.csr.pem");
    assert_eq!(
        checked_key(unknown, &web()).unwrap_err(),
        CsrError::UnknownKey
    );
    let mut der = pem::parse(request(&rcgen::PKCS_ECDSA_P256_SHA256))
        .unwrap()
        .into_contents();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der.clone()));
    assert_eq!(
        checked_key(&forged, &web()).unwrap_err(),
        CsrError::Signature
    );
    let rows = [
        "",
        "no pem",
        &pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", &der[..40])),
    ];
    for text in rows {
        assert_eq!(
            checked_key(text, &web()).unwrap_err(),
            CsrError::Encoding,
            "{text:?}"
        );
    }
}
