//! Who may speak with whom: identities on both sides, what the app learns of its caller, and what is refused.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;
use weft_tests::app::{self, App};
use weft_tests::ca::{Ca, Wanted, id};
use weft_tests::client::{Http1, Http2, mesh_tls};
use weft_tests::mesh::{Endpoint, Mesh, Pair};

#[tokio::test]
async fn a_request_passes_two_proxies_and_the_app_learns_who_called() {
    let pair = Pair::new(app::echo());
    let want = format!("URI={}", id("web"));
    let one = Http1::connect(pair.web.outbound)
        .await
        .post("orders", "/a?b", b"hello")
        .await;
    let two = Http2::connect(pair.web.outbound)
        .await
        .post("orders", "/a?b", "hello")
        .await;
    for (answer, version, target) in [
        (one, "HTTP/1.1", "/a?b"),
        (two, "HTTP/2.0", "http://orders/a?b"),
    ] {
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "hello"));
        assert_eq!(answer.header("version"), version);
        assert_eq!(answer.header("target"), target, "{version}");
        let xfcc = answer.header("seen-x-forwarded-client-cert");
        assert!(xfcc.ends_with(&want), "{version}: {xfcc}");
        assert!(
            xfcc.starts_with(&format!("By={};Hash=", id("orders"))),
            "{version}: {xfcc}"
        );
        assert_eq!(
            answer.header("seen-x-weft-client-id"),
            id("web").to_string()
        );
    }
}

#[tokio::test]
async fn a_forged_caller_is_removed_on_every_way_in() {
    let pair = Pair::new(app::echo());
    let forged = "GET / HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://evil/x\r\n\
                  X-Forwarded-Client-Cert: By=me\r\nx-weft-client-id: evil\r\n\
                  connection: x-forwarded-client-cert, x-weft-client-id\r\n\r\n";
    let rows = [
        ("through the mesh", pair.web.outbound, true),
        ("in plaintext", pair.orders.inbound, false),
    ];
    for (name, address, verified) in rows {
        let mut client = Http1::connect(address).await;
        client.send(forged).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{name}");
        let seen = answer
            .headers
            .get_all("seen-x-forwarded-client-cert")
            .iter();
        assert_eq!(seen.count(), usize::from(verified), "{name}");
        let caller = answer.header("seen-x-weft-client-id");
        assert_eq!(
            caller,
            if verified {
                id("web").to_string()
            } else {
                String::new()
            },
            "{name}"
        );
        assert!(
            !format!("{:?}", answer.headers).contains("evil"),
            "{name}: {:?}",
            answer.headers
        );
    }
}

#[tokio::test]
async fn strict_refuses_plaintext_and_serves_the_mesh() {
    let pair = Pair::with(
        app::echo(),
        |web| web,
        |orders| orders.set("WEFT_MTLS", "strict"),
    );
    let hello: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"*1\r\n$4\r\nPING\r\n",
    ];
    for bytes in hello {
        let mut client = Http1::connect(pair.orders.inbound).await;
        client.send(bytes).await;
        let answer = client.rest().await;
        assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
    }
    let answer = Http1::connect(pair.web.outbound)
        .await
        .get("orders", "/")
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn permissive_serves_plaintext_of_both_protocols() {
    let pair = Pair::new(app::echo());
    let one = Http1::connect(pair.orders.inbound)
        .await
        .get("orders", "/")
        .await;
    let two = Http2::connect(pair.orders.inbound)
        .await
        .get("orders", "/")
        .await;
    for answer in [one, two] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("seen-x-forwarded-client-cert"), "");
    }
}

/// A client as no proxy of ours would be: it shows any certificate, and believes the server's.
fn client_with(
    mesh: &Mesh,
    certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Arc<ClientConfig> {
    let good = mesh.ca.files("web").identity();
    let template = good.client_config(&id("orders"), &[]).unwrap();
    let provider = Arc::clone(template.crypto_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match certificate {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"istio-http/1.1".to_vec()];
    Arc::new(config)
}

/// Believes every server.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls12_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_caller_with_a_bad_certificate_does_not_reach_the_app() {
    let pair = Pair::new(app::echo());
    let ca = &pair.mesh.ca;
    let other = Ca::new();
    let rows = [
        ("good", Some(ca.sign(&Wanted::good("web"))), true),
        ("none", None, false),
        (
            "expired",
            Some(ca.sign(&Wanted::good("web").expired())),
            false,
        ),
        (
            "unknown_root",
            Some(other.sign(&Wanted::good("web"))),
            false,
        ),
        (
            "two_uri_sans",
            Some(ca.sign(&Wanted::good("web").and("admin"))),
            false,
        ),
        (
            "unknown_trust_domain",
            Some(ca.sign(&Wanted {
                uris: vec!["spiffe://evil/ns/default/sa/web".to_owned()],
                ..Wanted::good("web")
            })),
            false,
        ),
        (
            "no_uri_san",
            Some(ca.sign(&Wanted {
                uris: vec![],
                ..Wanted::good("web")
            })),
            false,
        ),
    ];
    for (name, certificate, good) in rows {
        let config = client_with(&pair.mesh, certificate);
        // Under TLS 1.3 a client learns of the refusal with its first read.
        let served = match mesh_tls(pair.orders.inbound, config).await {
            Err(_) => None,
            Ok(io) => {
                let mut client = Http1::over(io);
                let request = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
                match client.try_send(request).await {
                    Err(_) => None,
                    Ok(()) => client.try_answer("GET").await.ok(),
                }
            }
        };
        assert_eq!(served.is_some(), good, "{name}: {served:?}");
    }
}

/// An app that does a TLS handshake with any certificate, as a false endpoint would.
fn impostor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, ca: &Ca) -> App {
    let provider = ca
        .files("any")
        .identity()
        .client_config(&id("any"), &[])
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider.crypto_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"istio".to_vec(), b"http/1.1".to_vec(), b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    App::tcp(move |io| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut io) = acceptor.accept(io).await {
                let mut seen = Vec::new();
                let _ = io.read_to_end(&mut seen).await;
                assert!(
                    seen.is_empty(),
                    "an impostor was sent {:?}",
                    String::from_utf8_lossy(&seen)
                );
            }
        }
    })
}

#[tokio::test]
async fn an_endpoint_with_a_bad_certificate_is_sent_nothing() {
    let mesh = Mesh::new();
    let (ca, other) = (&mesh.ca, Ca::new());
    let rows = [
        (
            "wrong_identity",
            ca.sign(&Wanted::good("payments")),
            "wrong_identity",
        ),
        (
            "expired",
            ca.sign(&Wanted::good("orders").expired()),
            "handshake",
        ),
        (
            "unknown_root",
            other.sign(&Wanted::good("orders")),
            "handshake",
        ),
        (
            "two_uri_sans",
            ca.sign(&Wanted::good("orders").and("admin")),
            "handshake",
        ),
    ];
    for (name, (chain, key), reject) in rows {
        let app = impostor(chain, key, ca);
        let endpoint = Endpoint {
            inbound: Some(app.address),
            account: Some("orders".to_owned()),
            ..Endpoint::plain(app.address)
        };
        mesh.services(&[("orders", 80, "-", &[endpoint])]);
        let web = mesh.proxy("web").start();
        let one = Http1::connect(web.outbound)
            .await
            .post("orders", "/", b"secret")
            .await;
        let two = Http2::connect(web.outbound)
            .await
            .post("orders", "/", "secret")
            .await;
        for answer in [one, two] {
            assert_eq!(
                (answer.status.as_u16(), answer.reject()),
                (502, reject),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn a_proxy_without_an_identity_never_falls_back_to_plaintext() {
    let mesh = Mesh::new();
    let app = app::echo();
    let orders = mesh.proxy("orders").serves(80, app.address).start();
    mesh.services(&[("orders", 80, "-", &[orders.endpoint()])]);
    let web = mesh.proxy("web").without_identity().start();
    let answer = Http1::connect(web.outbound).await.get("orders", "/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (503, "no_identity")
    );
    // The other way round: callers with an identity are not served by a proxy that has none.
    let bare = mesh
        .proxy("orders")
        .serves(80, app.address)
        .without_identity()
        .start();
    mesh.services(&[("orders", 80, "-", &[bare.endpoint()])]);
    let web = mesh.proxy("web").start();
    let answer = Http1::connect(web.outbound).await.get("orders", "/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (502, "handshake")
    );
}

#[tokio::test]
async fn a_session_is_resumed_and_the_caller_still_known() {
    let pair = Pair::new(app::echo());
    let config = pair
        .mesh
        .ca
        .files("web")
        .identity()
        .client_config(&id("orders"), &[b"istio-http/1.1"])
        .unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let io = mesh_tls(pair.orders.inbound, Arc::clone(&config))
            .await
            .unwrap();
        kinds.push(io.get_ref().1.handshake_kind().unwrap());
        let answer = Http1::over(io).get("orders", "/").await;
        assert_eq!(
            answer.header("seen-x-weft-client-id"),
            id("web").to_string()
        );
    }
    assert_eq!(
        format!("{kinds:?}"),
        "[Full, Resumed]",
        "the second handshake"
    );
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum() {
    let pair = Pair::new(app::echo());
    let config = pair
        .mesh
        .ca
        .files("web")
        .identity()
        .client_config(&id("orders"), &[b"istio-http/1.1"])
        .unwrap();
    let io = mesh_tls(pair.orders.inbound, config).await.unwrap();
    let group = io
        .get_ref()
        .1
        .negotiated_key_exchange_group()
        .map(|group| group.name());
    assert_eq!(format!("{group:?}"), "Some(X25519MLKEM768)");
}
