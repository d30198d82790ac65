//! `weft-ca` in the test's process, on sockets: it goes and comes back at the same address, and exchanges its root.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_ca::app::{self, Bound};
use weft_ca::config::Config;
use weft_ca::store::Store;
use weft_ca::token::mint::TokenIssuer;
use weft_certs::web;

use crate::eventually::soon;
use crate::mesh::Starting;
use crate::scratch::Scratch;

/// An authority, its directory and the tokens it accepts.
pub struct Authority {
    scratch: Scratch,
    tokens: TokenIssuer,
    address: SocketAddr,
    bound: Option<Bound>,
}

impl Authority {
    /// Starts an authority that makes its root.
    pub fn new() -> Self {
        let (scratch, tokens) = (Scratch::new(), TokenIssuer::generate(ISSUER).unwrap());
        scratch.file("jwks.json", tokens.key_set().unwrap());
        let bound = start(&scratch, "127.0.0.1:0".parse().unwrap());
        let address = bound.ca;
        Self {
            scratch,
            tokens,
            address,
            bound: Some(bound),
        }
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(bound) = self.bound.take() {
            bound.shutdown();
            bound.wait().unwrap();
        }
    }

    /// Starts it again: same address, same directory.
    pub fn start(&mut self) {
        self.bound = Some(start(&self.scratch, self.address));
    }

    /// Makes `starting` take its identity, as `account`, from here; a leaf lives for `lifetime`.
    pub fn supplies<'a>(
        &self,
        starting: Starting<'a>,
        account: &str,
        lifetime: &str,
    ) -> Starting<'a> {
        let mut starting = starting.without_identity();
        for (name, value) in self.variables(account) {
            starting = starting.set(name, value);
        }
        starting.set("WEFT_CERT_TTL", lifetime)
    }

    /// What a program needs to know to get an identity as `account` from here.
    pub fn variables(&self, account: &str) -> [(&'static str, String); 4] {
        let token = self.tokens.token(
            ("default", account),
            "istio-ca",
            SystemTime::now(),
            Duration::from_secs(3600),
        );
        let token = self
            .scratch
            .file(&format!("{account}.token"), token.unwrap());
        [
            ("WEFT_CA_ADDRESS", format!("https://{}", self.address)),
            ("WEFT_CA_NAME", "localhost".to_owned()),
            ("WEFT_CA_ROOT", self.path("ca/ca.crt").display().to_string()),
            ("WEFT_TOKEN_FILE", token.display().to_string()),
        ]
    }

    /// Takes away the token of `account`.
    pub fn take_token(&self, account: &str) -> String {
        let path = self.path(&format!("{account}.token"));
        let token = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        token
    }

    /// Gives it back.
    pub fn give_token(&self, account: &str, token: &str) {
        self.replace(&format!("{account}.token"), token);
    }

    /// Returns the roots that it gives out.
    pub fn roots(&self) -> String {
        std::fs::read_to_string(self.path("ca/ca.crt")).unwrap()
    }

    /// Tells whether the authority's own certificate is of the root of `issuer`.
    pub async fn signs_with(&self, issuer: &Issuer) -> bool {
        let config = web::client_config(&issuer.certificate, None, &[b"h2"]).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let io = soon(TcpStream::connect(self.address)).await.unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, io))
            .await
            .is_ok()
    }

    /// Makes another root, with which [`sign_with`](Self::sign_with) can go on.
    pub fn another(&self, name: &str) -> Issuer {
        Store::Own(self.path(name))
            .read(&"cluster.local".parse().unwrap())
            .unwrap();
        self.issuer(name)
    }

    /// Returns the present issuer.
    pub fn present(&self) -> Issuer {
        self.issuer("ca")
    }

    /// Trusts the root of `issuer` beside its own.
    pub fn trust(&self, issuer: &Issuer) {
        std::fs::create_dir_all(self.path("ca/roots")).unwrap();
        self.replace(
            &format!("ca/roots/{}.crt", issuer.name),
            &issuer.certificate,
        );
    }

    /// No longer trusts the root of `issuer`.
    pub fn distrust(&self, issuer: &Issuer) {
        std::fs::remove_file(self.path(&format!("ca/roots/{}.crt", issuer.name))).unwrap();
    }

    /// Signs with `issuer` from now on.
    pub fn sign_with(&self, issuer: &Issuer) {
        self.replace("ca/issuer.pem", &issuer.text);
    }

    fn issuer(&self, name: &str) -> Issuer {
        let text = std::fs::read_to_string(self.path(name).join("issuer.pem")).unwrap();
        let begin = text.find("-----BEGIN CERTIFICATE-----").unwrap();
        let end = text.find(END).unwrap() + END.len();
        let certificate = format!("{}\n", text.get(begin..end).unwrap());
        Issuer {
            name: name.to_owned(),
            text,
            certificate,
        }
    }

    fn replace(&self, name: &str, text: &str) {
        let next = self.scratch.file("next", text);
        std::fs::rename(next, self.path(name)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// A root with its key.
pub struct Issuer {
    name: String,
    text: String,
    certificate: String,
}

impl Issuer {
    /// Returns the certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

fn start(scratch: &Scratch, listen: SocketAddr) -> Bound {
    let text = |name: &str| scratch.path().join(name).display().to_string();
    let variables = [
        ("WEFT_CA_DIR", text("ca")),
        ("WEFT_CA_JWKS", text("jwks.json")),
        ("WEFT_CA_TOKEN_ISSUER", ISSUER.to_owned()),
        ("WEFT_CA_LISTEN", listen.to_string()),
        ("WEFT_CA_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("WEFT_CA_RELOAD", "20ms".to_owned()),
    ];
    let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
    let config = Config::from_env(|name| value(name).map(|(_, value)| value.clone()));
    app::start(config.unwrap()).unwrap()
}

const ISSUER: &str = "https://tokens.test";
const END: &str = "-----END CERTIFICATE-----";
