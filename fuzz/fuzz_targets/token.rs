//! Service-account tokens: whatever the claims of a signed one, the identity is that of its service account; one that is not
//! signed is nobody's.
//!
//! The input is a token, or, if it is JSON, the claims of one that we sign.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use weft_ca::token::jwks::{KeySource, Keys};
use weft_ca::token::mint::TokenIssuer;
use weft_ca::token::{Authenticator, JwtAuthenticator};
use weft_policy::spiffe::{SpiffeId, TrustDomain};

struct Checker {
    issuer: TokenIssuer,
    authenticator: Authenticator,
    runtime: Runtime,
}

static CHECKER: LazyLock<Checker> = LazyLock::new(|| {
    let issuer = TokenIssuer::generate("weft").expect("there is randomness");
    let file = std::env::temp_dir().join(format!("weft-fuzz-keys.{}", std::process::id()));
    std::fs::write(&file, issuer.key_set().expect("a key can be written")).expect("a file too");
    let keys = Keys::new(KeySource::File(file.clone()));
    keys.read_file().expect("our own keys can be read");
    std::fs::remove_file(file).expect("it is there");
    Checker {
        issuer,
        authenticator: Authenticator::Jwt(JwtAuthenticator {
            trust_domain: TrustDomain::parse("cluster.local").expect("it is one"),
            issuer: "weft".to_owned(),
            audiences: vec!["istio-ca".to_owned()],
            keys,
        }),
        runtime: Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime"),
    }
});

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn authenticate(token: &str) -> Option<SpiffeId> {
    let checker = &*CHECKER;
    checker
        .runtime
        .block_on(checker.authenticator.authenticate(token, PEER))
        .ok()
        .map(|caller| caller.id)
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(claims) = serde_json::from_str::<Value>(text) else {
        assert_eq!(authenticate(text), None, "not signed by anybody");
        return;
    };
    let Ok(token) = CHECKER.issuer.sign(&claims) else {
        return;
    };
    if let Some(id) = authenticate(&token) {
        let subject = format!(
            "system:serviceaccount:{}:{}",
            id.namespace().expect("a workload has one"),
            id.service_account().expect("a workload has one")
        );
        assert_eq!(
            claims.get("sub").and_then(Value::as_str),
            Some(subject.as_str())
        );
    }
});
