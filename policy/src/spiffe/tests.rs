//! Rows of what is an identity and what is none, and the law that printing and parsing are inverse.

use proptest::prelude::*;

use super::{SpiffeId, SpiffeIdError, TrustDomain};

#[test]
fn identities_are_read_by_their_parts() {
    let rows: &[(&str, &str, &str)] = &[
        (
            "spiffe://cluster.local/ns/shop/sa/web",
            "cluster.local",
            "/ns/shop/sa/web",
        ),
        (
            "SPIFFE://Cluster.LOCAL/ns/shop/sa/web",
            "cluster.local",
            "/ns/shop/sa/web",
        ),
        ("spiffe://a_b-1.c/...", "a_b-1.c", "/..."),
        ("spiffe://a/Frontend", "a", "/Frontend"),
    ];
    for (text, domain, path) in rows {
        let id = SpiffeId::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(
            (id.trust_domain().as_str(), id.path()),
            (*domain, *path),
            "{text}"
        );
        assert_eq!(id.as_str(), format!("spiffe://{domain}{path}"), "{text}");
    }
}

#[test]
fn only_the_exact_path_form_names_a_service_account() {
    let rows: &[(&str, Option<(&str, &str)>)] = &[
        ("spiffe://a/ns/shop/sa/web", Some(("shop", "web"))),
        ("spiffe://a/ns/sa/sa/ns", Some(("sa", "ns"))),
        ("spiffe://a/NS/shop/sa/web", None),
        ("spiffe://a/ns/shop/sa/web/x", None),
        ("spiffe://a/ns/x/shop/sa/web", None),
        ("spiffe://a/x/ns/shop/sa/web", None),
    ];
    for (text, account) in rows {
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!(id.namespace().zip(id.service_account()), *account, "{text}");
    }
}

#[test]
fn text_that_is_no_identity_is_refused_with_the_broken_rule() {
    let rows: &[(&str, SpiffeIdError)] = &[
        ("", SpiffeIdError::Scheme),
        ("spiffe:/", SpiffeIdError::Scheme),
        ("https://a/b", SpiffeIdError::Scheme),
        ("spiffé://a/b", SpiffeIdError::Scheme),
        ("spiffe://", SpiffeIdError::NoPath),
        ("spiffe:///b", SpiffeIdError::NoTrustDomain),
        ("spiffe://a", SpiffeIdError::NoPath),
        ("spiffe://a/", SpiffeIdError::NoPath),
        ("spiffe://a/b/", SpiffeIdError::EmptySegment),
        ("spiffe://a//b", SpiffeIdError::EmptySegment),
        (
            "spiffe://a/./b",
            SpiffeIdError::DotSegment {
                segment: ".".into(),
            },
        ),
        (
            "spiffe://a/b/..",
            SpiffeIdError::DotSegment {
                segment: "..".into(),
            },
        ),
        (
            "spiffe://a:443/b",
            SpiffeIdError::TrustDomainCharacter { character: ':' },
        ),
        (
            "spiffe://user@a/b",
            SpiffeIdError::TrustDomainCharacter { character: '@' },
        ),
        (
            "spiffe://a?/b",
            SpiffeIdError::TrustDomainCharacter { character: '?' },
        ),
        (
            "spiffe://a/b?c",
            SpiffeIdError::PathCharacter { character: '?' },
        ),
        (
            "spiffe://a/b#c",
            SpiffeIdError::PathCharacter { character: '#' },
        ),
        (
            "spiffe://a/%62",
            SpiffeIdError::PathCharacter { character: '%' },
        ),
        (
            "spiffe://a/b c",
            SpiffeIdError::PathCharacter { character: ' ' },
        ),
        (
            "spiffe://a/b\0",
            SpiffeIdError::PathCharacter { character: '\0' },
        ),
        (
            "spiffe://a/é",
            SpiffeIdError::PathCharacter { character: 'é' },
        ),
    ];
    for (text, want) in rows {
        assert_eq!(SpiffeId::parse(text).as_ref(), Err(want), "{text:?}");
    }
}

#[test]
fn lengths_are_bounded() {
    let longest = format!("spiffe://a/{}", "b".repeat(2048 - 11));
    assert_eq!(
        SpiffeId::parse(&longest).map(|id| id.as_str().len()),
        Ok(2048)
    );
    assert!(matches!(
        SpiffeId::parse(&format!("{longest}b")),
        Err(SpiffeIdError::TooLong { bytes: 2049, .. })
    ));
    assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
    assert!(matches!(
        TrustDomain::parse(&"a".repeat(256)),
        Err(SpiffeIdError::TooLong { .. })
    ));
    let domain = TrustDomain::parse("a").unwrap();
    assert!(matches!(
        SpiffeId::workload(&domain, &"n".repeat(2000), &"s".repeat(100)),
        Err(SpiffeIdError::TooLong { .. })
    ));
}

#[test]
fn a_name_cannot_smuggle_segments_into_a_workload_identity() {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    for name in ["", ".", "..", "a/b", "a/sa/b", "a%2fb"] {
        assert!(
            SpiffeId::workload(&domain, name, "web").is_err(),
            "namespace {name:?}"
        );
        assert!(
            SpiffeId::workload(&domain, "shop", name).is_err(),
            "service account {name:?}"
        );
    }
    assert_eq!(
        SpiffeId::workload(&domain, "shop", "web").unwrap().as_str(),
        "spiffe://cluster.local/ns/shop/sa/web"
    );
}

proptest! {
    #[test]
    fn printing_and_parsing_are_inverse(domain in "[a-z0-9._-]{1,60}", path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}){1,5}") {
        let text = format!("spiffe://{domain}{path}");
        let id = SpiffeId::parse(&text).unwrap();
        prop_assert_eq!(id.to_string(), text.clone());
        prop_assert_eq!(text.parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn any_text_is_an_identity_with_itself_as_text_or_an_error(text in "(spiffe://)?\\PC{0,40}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert!(id.as_str().eq_ignore_ascii_case(&text));
            prop_assert_eq!(SpiffeId::parse(id.as_str()), Ok(id.clone()));
        }
    }

    #[test]
    fn workload_identities_give_their_names_back(namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", account in "[a-z0-9][a-z0-9.-]{0,20}[a-z0-9]") {
        let id = SpiffeId::workload(&TrustDomain::parse("td").unwrap(), &namespace, &account).unwrap();
        prop_assert_eq!(id.namespace(), Some(namespace.as_str()));
        prop_assert_eq!(id.service_account(), Some(account.as_str()));
    }
}
