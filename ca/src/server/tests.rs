//! The authority as its callers see it: real TLS, real gRPC, real tokens.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use weft_api::istio_ca::IstioCertificateRequest;
use weft_api::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use weft_certs::bundle::Bundle;
use weft_certs::csr;
use weft_certs::web;
use weft_policy::spiffe::{SpiffeId, TrustDomain};

use crate::app::{self, Bound};
use crate::config::Config;
use crate::issuer::Issuer;
use crate::token::mint::TokenIssuer;

const ISSUER: &str = "https://tokens.test";
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Ca {
    dir: TempDir,
    bound: Bound,
    tokens: TokenIssuer,
}

impl Ca {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(dir: TempDir) -> Self {
        let tokens = TokenIssuer::generate(ISSUER).unwrap();
        fs::write(dir.path().join("jwks.json"), tokens.key_set().unwrap()).unwrap();
        let bound = app::start(config(dir.path())).unwrap();
        Self { dir, bound, tokens }
    }

    fn root(&self) -> String {
        fs::read_to_string(self.dir.path().join("ca/ca.crt")).unwrap()
    }

    fn token(&self, audience: &str) -> String {
        let token = self
            .tokens
            .token(("shop", "web"), audience, SystemTime::now(), DAY);
        format!("Bearer {}", token.unwrap())
    }

    async fn channel(&self) -> Channel {
        let tls = web::client_config(&self.root(), None, &[b"h2"]).unwrap();
        let tcp = TcpStream::connect(self.bound.ca).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, tcp)
            .await
            .unwrap();
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
            async move { stream.map_err(io::Error::from) }
        });
        let endpoint = Endpoint::from_static("https://localhost");
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    async fn ask(
        &self,
        authorization: &str,
        message: IstioCertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let mut request = Request::new(message);
        if !authorization.is_empty() {
            request
                .metadata_mut()
                .insert("authorization", authorization.parse().unwrap());
        }
        let mut client = IstioCertificateServiceClient::new(self.channel().await);
        let answer = client.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    /// Asks for one page by HTTP/1.
    async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.bound.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: ca\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }
}

fn config(dir: &Path) -> Config {
    let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let given = dir.join("given");
    let variables = [
        ("WEFT_CA_DIR", text("ca")),
        (
            "WEFT_CA_ISSUER_DIR",
            if given.exists() {
                text("given")
            } else {
                String::new()
            },
        ),
        ("WEFT_CA_JWKS", text("jwks.json")),
        ("WEFT_CA_TOKEN_ISSUER", ISSUER.to_owned()),
        ("WEFT_CA_LISTEN", "127.0.0.1:0".to_owned()),
        ("WEFT_CA_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("WEFT_CA_RELOAD", "20ms".to_owned()),
    ];
    let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
    Config::from_env(|name| value(name).map(|(_, value)| value.clone())).unwrap()
}

fn web_id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()
}

fn message(csr: &str, seconds: i64) -> IstioCertificateRequest {
    IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: seconds,
        metadata: None,
    }
}

fn impersonating(csr: &str, asked: &str) -> IstioCertificateRequest {
    let kind = Some(prost_types::value::Kind::StringValue(asked.to_owned()));
    let fields = [(
        "ImpersonatedIdentity".to_owned(),
        prost_types::Value { kind },
    )];
    let metadata = Some(prost_types::Struct {
        fields: fields.into(),
    });
    IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: 60,
        metadata,
    }
}

#[tokio::test]
async fn callers_get_the_lifetime_they_ask_for_or_the_default() {
    let ca = Ca::start();
    for (asked, want) in [
        (3600, 3600),
        (0, 24 * 3600),
        (-5, 24 * 3600),
        (7_776_000, 7_776_000),
    ] {
        let request = csr::Request::new(&web_id()).unwrap();
        let answer = ca
            .ask(&ca.token("istio-ca"), message(request.pem(), asked))
            .await
            .unwrap();
        assert_eq!(answer.len(), 2);
        assert_eq!(answer[1], ca.root());
        let leaf = request.into_leaf(&answer[..1]).unwrap();
        assert_eq!(*leaf.id(), web_id());
        let left = leaf
            .not_after()
            .duration_since(SystemTime::now())
            .unwrap()
            .as_secs();
        assert!(
            left <= want && left + 60 > want,
            "asked {asked}, got {left}"
        );
    }
}

#[tokio::test]
async fn refusals_have_istios_codes() {
    let ca = Ca::start();
    let good = csr::Request::new(&web_id()).unwrap();
    let admin = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/admin").unwrap();
    let foreign = csr::Request::new(&admin).unwrap();
    let (token, other) = (ca.token("istio-ca"), ca.token("vault"));
    let csr = good.pem();
    let rows = [
        ("no token", "", message(csr, 60), Code::Unauthenticated),
        (
            "no bearer",
            "Basic eDp5",
            message(csr, 60),
            Code::Unauthenticated,
        ),
        (
            "empty bearer",
            "Bearer ",
            message(csr, 60),
            Code::Unauthenticated,
        ),
        (
            "garbage",
            "Bearer x.y.z",
            message(csr, 60),
            Code::Unauthenticated,
        ),
        (
            "other audience",
            &other,
            message(csr, 60),
            Code::Unauthenticated,
        ),
        (
            "impersonation",
            &token,
            impersonating(csr, admin.as_str()),
            Code::Unauthenticated,
        ),
        (
            "lifetime",
            &token,
            message(csr, 7_776_001),
            Code::InvalidArgument,
        ),
        ("no request", &token, message("", 60), Code::InvalidArgument),
        (
            "foreign name",
            &token,
            message(foreign.pem(), 60),
            Code::InvalidArgument,
        ),
        (
            "too large",
            &token,
            message(&"x".repeat(100_000), 60),
            Code::OutOfRange,
        ),
    ];
    for (name, token, message, code) in rows {
        let refused = ca.ask(token, message).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused}");
    }
    let himself = impersonating(csr, web_id().as_str());
    assert!(ca.ask(&token, himself).await.is_ok());
    assert!(
        ca.ask(&token.replacen("Bearer", "bearer", 1), message(csr, 60))
            .await
            .is_ok()
    );
    let page = ca.page("/metrics").await;
    assert!(
        page.contains(r#"weft_ca_requests_total{result="bad_request"} 2"#),
        "{page}"
    );
}

#[tokio::test]
async fn garbage_harms_only_its_sender() {
    let ca = Ca::start();
    let mut garbage = TcpStream::connect(ca.bound.ca).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _silent = TcpStream::connect(ca.bound.ca).await.unwrap();
    let mut end = Vec::new();
    garbage.read_to_end(&mut end).await.unwrap();
    let request = csr::Request::new(&web_id()).unwrap();
    assert!(
        ca.ask(&ca.token("istio-ca"), message(request.pem(), 60))
            .await
            .is_ok()
    );
    let page = ca.page("/metrics").await;
    assert!(
        page.contains(r#"weft_ca_handshake_failures_total{reason="malformed"} 1"#),
        "{page}"
    );
}

/// Asks until the answer's roots are as `wanted`.
async fn roots_become(ca: &Ca, wanted: impl Fn(&Bundle) -> bool) -> Vec<String> {
    let ask = async {
        loop {
            let request = csr::Request::new(&web_id()).unwrap();
            let answer = ca
                .ask(&ca.token("istio-ca"), message(request.pem(), 60))
                .await
                .unwrap();
            if wanted(&Bundle::from_pem(answer.last().unwrap()).unwrap()) {
                return answer;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ask)
        .await
        .expect("roots did not change")
}

#[tokio::test]
async fn a_root_is_exchanged_without_a_restart() {
    let ca = Ca::start();
    let home = ca.dir.path().join("ca");
    let old = Bundle::from_pem(&ca.root()).unwrap();
    let next = Issuer::generate(&TrustDomain::parse("cluster.local").unwrap()).unwrap();
    let pem = format!(
        "{}{}",
        next.bundle().to_pem(),
        next.signer().key().serialize_pem()
    );

    // First everybody learns the next root, still signed by the old one.
    fs::create_dir(home.join("roots")).unwrap();
    fs::write(home.join("roots/next.crt"), next.bundle().to_pem()).unwrap();
    let answer = roots_become(&ca, |roots| roots.roots().len() == 2).await;
    assert_eq!(
        Bundle::from_pem(&answer[1]).unwrap().roots()[0],
        old.roots()[0]
    );
    assert_eq!(
        Bundle::from_pem(&ca.root()).unwrap().roots().len(),
        2,
        "ca.crt has both"
    );

    // Then the next one signs, and the old one is still trusted.
    fs::write(home.join("roots/old.crt"), old.to_pem()).unwrap();
    fs::write(home.join("issuer.tmp"), pem).unwrap();
    fs::rename(home.join("issuer.tmp"), home.join("issuer.pem")).unwrap();
    let answer = roots_become(&ca, |roots| roots.roots()[0] == next.bundle().roots()[0]).await;
    assert_eq!(Bundle::from_pem(&answer[1]).unwrap().roots().len(), 2);

    // A broken file changes nothing.
    fs::write(home.join("roots/old.crt"), "broken").unwrap();
    while !ca
        .page("/metrics")
        .await
        .contains("weft_ca_reload_failures_total")
    {}
    roots_become(&ca, |roots| roots.roots().len() == 2).await;

    // At last the old one goes.
    fs::remove_file(home.join("roots/old.crt")).unwrap();
    roots_become(&ca, |roots| roots == next.bundle()).await;
}

#[tokio::test]
async fn a_given_intermediate_signs_and_its_chain_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let root = Issuer::generate(&TrustDomain::parse("cluster.local").unwrap()).unwrap();
    let given = root.intermediate(DAY / 2, SystemTime::now()).unwrap();
    let place = dir.path().join("given");
    fs::create_dir(&place).unwrap();
    let chain: String = given
        .chain()
        .iter()
        .map(weft_certs::bundle::certificate_to_pem)
        .collect();
    fs::write(place.join("tls.crt"), chain).unwrap();
    fs::write(place.join("tls.key"), given.signer().key().serialize_pem()).unwrap();
    fs::write(place.join("ca.crt"), root.bundle().to_pem()).unwrap();
    let ca = Ca::start_in(dir);
    let request = csr::Request::new(&web_id()).unwrap();
    let answer = ca
        .ask(&ca.token("istio-ca"), message(request.pem(), 0))
        .await
        .unwrap();
    assert_eq!(answer.len(), 3);
    let leaf = request.into_leaf(&answer[..2]).unwrap();
    assert!(
        leaf.not_after() <= given.not_after(),
        "cut to the life of its signer"
    );
    assert!(root.bundle().vouches_for(&leaf));
}

#[tokio::test]
async fn it_ends_when_told_and_leaves_no_thread() {
    let ca = Ca::start();
    let _idle = ca.channel().await;
    ca.bound.shutdown();
    let ended = tokio::task::spawn_blocking(|| ca.bound.wait());
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(ended.expect("still open").unwrap().is_ok());
}

#[test]
fn what_is_missing_at_the_start_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = app::start(config(dir.path())).err().unwrap();
    assert!(format!("{error:#}").contains("jwks.json"), "{error:#}");
    fs::create_dir(dir.path().join("given")).unwrap();
    let error = app::start(config(dir.path())).err().unwrap();
    assert!(format!("{error:#}").contains("tls.crt"), "{error:#}");
}
