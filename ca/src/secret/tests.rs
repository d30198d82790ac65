//! Secrets as we, cert-manager and Istio's operators write them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn secret(data: &[(&str, &str)]) -> Secret {
    let own = |(key, text): &(&str, &str)| ((*key).to_owned(), ByteString(text.as_bytes().into()));
    let data: BTreeMap<_, _> = data.iter().map(own).collect();
    Secret {
        data: Some(data),
        ..Secret::default()
    }
}

/// A root and an intermediate below it, each as certificate and key.
fn pair() -> [(String, String); 2] {
    let root = Issuer::generate(&domain()).unwrap();
    let own = root.intermediate(Duration::from_secs(3600), SystemTime::now());
    let own = own.unwrap();
    let chain = own.chain().iter().map(|one| certificate_to_pem(one));
    let key = |issuer: &Issuer| issuer.signer().key().serialize_pem();
    [
        (root.bundle().to_pem(), key(&root)),
        (chain.collect(), key(&own)),
    ]
}

#[test]
fn each_known_form_makes_an_issuer() {
    let [(root, root_key), (own, key)] = pair();
    let both = format!("{own}{root}");
    let forms: &[(&str, &[(&str, &str)])] = &[
        (
            "ours",
            &[
                ("tls.crt", &root),
                ("tls.key", &root_key),
                ("ca.crt", &root),
            ],
        ),
        (
            "cert-manager, an intermediate",
            &[("tls.crt", &own), ("tls.key", &key), ("ca.crt", &root)],
        ),
        (
            "cert-manager, which knows no root but that in the chain",
            &[("tls.crt", &both), ("tls.key", &key)],
        ),
        (
            "Istio, with the whole chain",
            &[
                ("ca-cert.pem", &own),
                ("ca-key.pem", &key),
                ("cert-chain.pem", &both),
                ("root-cert.pem", &root),
            ],
        ),
        (
            "Istio, without a chain",
            &[
                ("ca-cert.pem", &root),
                ("ca-key.pem", &root_key),
                ("cert-chain.pem", ""),
                ("root-cert.pem", &root),
            ],
        ),
    ];
    for (name, data) in forms {
        let issuer = material(&secret(data)).unwrap().issuer(&domain());
        let issuer = issuer.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(issuer.bundle().to_pem(), root, "{name}");
        assert!(issuer.chain().len() <= 1, "{name}");
    }
}

#[test]
fn roots_that_overlap_are_trusted_and_that_of_the_issuer_is_first() {
    let [(old, _), _] = pair();
    let [(new, key), _] = pair();
    let rows: [(&str, &[(&str, &str)]); 2] = [
        ("added", &[("next.crt", &old)]),
        ("exchanged", &[("previous.crt", &old), ("next.crt", "")]),
    ];
    for (name, more) in rows {
        let mut data = vec![
            ("tls.crt", new.as_str()),
            ("tls.key", &key),
            ("ca.crt", &new),
        ];
        data.extend_from_slice(more);
        let issuer = material(&secret(&data)).unwrap().issuer(&domain()).unwrap();
        assert_eq!(issuer.bundle().to_pem(), format!("{new}{old}"), "{name}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let [(root, _), (own, key)] = pair();
    let rows: [(&str, &[(&str, &str)]); 5] = [
        ("tls.crt", &[]),
        ("tls.crt", &[("tls.crt", " \n"), ("tls.key", &key)]),
        ("tls.key", &[("tls.crt", &root)]),
        ("ca.crt", &[("tls.crt", &own), ("tls.key", &key)]),
        (
            "root-cert.pem",
            &[("ca-cert.pem", &own), ("ca-key.pem", &key)],
        ),
    ];
    for (want, data) in rows {
        let error = material(&secret(data)).err().unwrap();
        assert_eq!(error.to_string(), format!("the Secret has no {want}"));
    }
}

#[test]
fn what_we_make_is_what_we_read() {
    let issuer = Issuer::generate(&domain()).unwrap();
    let mut made = secret_of("weft-ca", &issuer);
    let text = made.string_data.take().unwrap().into_iter();
    made.data = Some(
        text.map(|(key, text)| (key, ByteString(text.into_bytes())))
            .collect(),
    );
    let read = material(&made).unwrap();
    assert_eq!(read.sequence, Some(1));
    assert_eq!(read.issuer(&domain()).unwrap().bundle(), issuer.bundle());
}
