//! Tokens that tell who is asking, and each kind that does not; keys from files and URLs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weft_certs::jwt::error::{JwtError, KeySetError};
use weft_policy::spiffe::TrustDomain;

use super::jwks::{KeyError, KeySource, Keys};
use super::mint::TokenIssuer;
use super::{JwtAuthenticator, TokenError};

const ISSUER: &str = "https://tokens.test";
const HOUR: Duration = Duration::from_secs(3600);

/// An authenticator, its key set file, and who signs.
struct Bench {
    authenticator: JwtAuthenticator,
    tokens: TokenIssuer,
    path: PathBuf,
    _dir: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        let tokens = TokenIssuer::generate(ISSUER).unwrap();
        fs::write(&path, tokens.key_set().unwrap()).unwrap();
        let authenticator = authenticator(KeySource::File(path.clone()));
        authenticator.keys.refresh().await.unwrap();
        Self {
            authenticator,
            tokens,
            path,
            _dir: dir,
        }
    }

    /// Who a token with the claims of `shop/web` is, after `change`.
    async fn ask(&self, change: impl FnOnce(&mut Value)) -> Result<String, TokenError> {
        let mut claims = claims();
        change(&mut claims);
        self.show(&self.tokens.sign(&claims).unwrap()).await
    }

    async fn show(&self, token: &str) -> Result<String, TokenError> {
        self.authenticator
            .authenticate(token)
            .await
            .map(|id| id.to_string())
    }
}

fn authenticator(source: KeySource) -> JwtAuthenticator {
    JwtAuthenticator {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        issuer: ISSUER.to_owned(),
        audiences: vec!["istio-ca".to_owned(), "weft".to_owned()],
        keys: Keys::new(source),
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": ["istio-ca"],
        "sub": "system:serviceaccount:shop:web",
        "iat": now(), "nbf": now(), "exp": now() + 3600,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "1"}},
    })
}

#[tokio::test]
async fn a_service_account_token_tells_who_is_asking() {
    let bench = Bench::new().await;
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    assert_eq!(bench.ask(|_| {}).await.unwrap(), web);
    let other_audience = bench
        .ask(|claims| claims["aud"] = json!(["other", "weft"]))
        .await;
    assert_eq!(other_audience.unwrap(), web);
    let without = bench
        .ask(|claims| claims["kubernetes.io"] = Value::Null)
        .await;
    assert_eq!(without.unwrap(), web, "sub is enough off Kubernetes");
    let minted = bench
        .tokens
        .token(("shop", "web"), "istio-ca", SystemTime::now(), HOUR)
        .unwrap();
    assert_eq!(bench.show(&minted).await.unwrap(), web);
}

#[tokio::test]
async fn tokens_with_wrong_claims_are_refused() {
    let bench = Bench::new().await;
    let rows = [
        ("another issuer", json!({"iss": "https://other"})),
        ("no issuer", json!({"iss": null})),
        ("another audience", json!({"aud": ["vault"]})),
        ("no audience", json!({"aud": null})),
        ("expired", json!({"exp": now() - 120})),
        ("no end", json!({"exp": null})),
        ("not yet valid", json!({"nbf": now() + 120})),
        ("a person", json!({"sub": "alice"})),
        ("a node", json!({"sub": "system:node:one"})),
        ("no subject", json!({"sub": null})),
        ("no name", json!({"sub": "system:serviceaccount:shop"})),
        (
            "too many parts",
            json!({"sub": "system:serviceaccount:shop:web:x"}),
        ),
        (
            "a path in the name",
            json!({"sub": "system:serviceaccount:shop:web/../admin"}),
        ),
        (
            "an empty name",
            json!({"sub": "system:serviceaccount:shop:"}),
        ),
        (
            "another account",
            json!({"sub": "system:serviceaccount:shop:admin"}),
        ),
        (
            "another namespace",
            json!({"sub": "system:serviceaccount:other:web"}),
        ),
    ];
    for (name, changes) in rows {
        let told = bench.ask(|claims| {
            for (claim, value) in changes.as_object().unwrap() {
                claims[claim] = value.clone();
            }
            if claims["sub"].as_str().is_some_and(|sub| sub.contains('/')) {
                claims["kubernetes.io"] = Value::Null;
            }
        });
        assert!(told.await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn tokens_that_are_not_signed_as_the_keys_say_are_refused() {
    let bench = Bench::new().await;
    let good = bench.tokens.sign(&claims()).unwrap();
    let kid = jsonwebtoken::decode_header(&good).unwrap().kid;
    let public = bench.tokens.key_set().unwrap();
    let stranger = rcgen::KeyPair::generate().unwrap();
    let stranger = EncodingKey::from_ec_der(stranger.serialized_der());
    let header = |algorithm| Header {
        kid: kid.clone(),
        ..Header::new(algorithm)
    };
    let sign = |header: &Header, key| encode(header, &claims(), key).unwrap();
    let critical = Header {
        crit: Some(vec!["x".to_owned()]),
        ..header(Algorithm::ES256)
    };
    let unnamed = Header::new(Algorithm::ES256);
    let mut parts = good.split('.');
    let (head, body) = (parts.next().unwrap(), parts.next().unwrap());
    let rows = [
        (
            "another key of the same name",
            sign(&header(Algorithm::ES256), &stranger),
        ),
        ("another key without name", sign(&unnamed, &stranger)),
        ("a critical header", sign(&critical, &stranger)),
        // The public key used as a shared secret.
        (
            "hmac",
            sign(
                &header(Algorithm::HS256),
                &EncodingKey::from_secret(public.as_bytes()),
            ),
        ),
        // {"alg":"none"}
        ("alg none", format!("eyJhbGciOiJub25lIn0.{body}.")),
        ("no signature", format!("{head}.{body}.")),
        (
            "changed body",
            format!(
                "{head}.{}.{}",
                body.replace('a', "b"),
                parts.next().unwrap()
            ),
        ),
        ("three dots", "...".to_owned()),
        ("nothing", String::new()),
        ("too long", "a".repeat(20_000)),
    ];
    for (name, token) in rows {
        assert!(bench.show(&token).await.is_err(), "{name}");
    }
    assert!(bench.show(&good).await.is_ok());
}

#[tokio::test]
async fn a_new_key_is_found_when_a_token_names_it_and_broken_keys_change_nothing() {
    let bench = Bench::new().await;
    let next = TokenIssuer::generate(ISSUER).unwrap();
    fs::write(&bench.path, next.key_set().unwrap()).unwrap();
    let token = next.sign(&claims()).unwrap();
    assert!(
        bench.show(&token).await.is_ok(),
        "read again for the unknown name"
    );
    let rows = [
        "",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"x"}]}"#,
    ];
    for broken in rows {
        fs::write(&bench.path, broken).unwrap();
        assert!(
            bench.authenticator.keys.refresh().await.is_err(),
            "{broken}"
        );
        assert!(bench.show(&token).await.is_ok(), "the last good keys stay");
    }
}

#[tokio::test]
async fn keys_that_sign_nothing_for_us_are_skipped() {
    let bench = Bench::new().await;
    let mut set: Value = serde_json::from_str(&bench.tokens.key_set().unwrap()).unwrap();
    let token = bench.tokens.sign(&claims()).unwrap();
    for (name, value) in [("use", "enc"), ("alg", "ES384")] {
        let mut other = set.clone();
        other["keys"][0][name] = json!(value);
        fs::write(&bench.path, other.to_string()).unwrap();
        let refreshed = bench.authenticator.keys.refresh().await;
        assert!(
            matches!(refreshed, Err(KeyError::Set(KeySetError::NoneUsable))),
            "{name}"
        );
    }
    let unknown = json!({"kty": "future", "kid": "1"});
    set["keys"].as_array_mut().unwrap().insert(0, unknown);
    fs::write(&bench.path, set.to_string()).unwrap();
    bench.authenticator.keys.refresh().await.unwrap();
    assert!(bench.show(&token).await.is_ok());
}

/// Answers every connection with the same bytes and counts them.
async fn web_server(answer: String) -> (http::Uri, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hits);
    tokio_util::task::TaskTracker::new().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, hits)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn keys_of_a_url_are_got_once_for_many_unknown_tokens() {
    let tokens = TokenIssuer::generate(ISSUER).unwrap();
    let stranger = TokenIssuer::generate(ISSUER).unwrap();
    let (url, hits) = web_server(ok(&tokens.key_set().unwrap())).await;
    let authenticator = authenticator(KeySource::Url {
        url,
        roots: PathBuf::new(),
    });
    assert!(
        authenticator
            .authenticate(&tokens.sign(&claims()).unwrap())
            .await
            .is_ok()
    );
    for _ in 0..5 {
        let unknown = authenticator
            .authenticate(&stranger.sign(&claims()).unwrap())
            .await;
        assert!(matches!(unknown, Err(TokenError::Invalid(JwtError::Key))));
    }
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn answers_of_a_url_that_are_no_keys_are_errors() {
    let long = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(300_000));
    let rows = [
        ("too large", ok(&long)),
        (
            "not found",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ),
        (
            "cut off",
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned(),
        ),
        ("no http", "hello\r\n\r\n".to_owned()),
        (
            "no text",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\u{0}\u{1}".to_owned(),
        ),
    ];
    for (name, answer) in rows {
        let (url, _) = web_server(answer).await;
        let authenticator = authenticator(KeySource::Url {
            url,
            roots: PathBuf::new(),
        });
        assert!(authenticator.keys.refresh().await.is_err(), "{name}");
        let token = TokenIssuer::generate(ISSUER)
            .unwrap()
            .sign(&claims())
            .unwrap();
        let told = authenticator.authenticate(&token).await;
        assert!(
            matches!(told, Err(TokenError::Keys(_))),
            "{name}: the caller may come again"
        );
    }
}
