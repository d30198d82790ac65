//! Handshakes in memory between two identities, good ones and each kind of bad one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    ServerConnection,
};
use rustls_pki_types::{CertificateDer, ServerName};
use weft_policy::spiffe::{SpiffeId, TrustDomain};

use weft_ca::issuer::Issuer;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::csr::private_key;
use weft_certs::identity::Identity;
use weft_certs::leaf::Leaf;
use weft_certs::verify::{VerifyError, handshake_failure_reason, peer_of};

const HOUR: Duration = Duration::from_secs(3600);

struct Mesh {
    domain: TrustDomain,
    issuer: Issuer,
}

impl Mesh {
    fn new(domain: &str) -> Self {
        let domain = TrustDomain::parse(domain).unwrap();
        Self {
            issuer: Issuer::generate(&domain).unwrap(),
            domain,
        }
    }

    fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(&self.domain, "shop", account).unwrap()
    }

    fn trust(&self) -> Arc<TrustBundles> {
        Arc::new(TrustBundles::of(
            self.domain.clone(),
            self.issuer.bundle().clone(),
        ))
    }

    fn identity(&self, account: &str) -> Identity {
        let leaf = self
            .issuer
            .issue(&self.id(account), HOUR, SystemTime::now())
            .unwrap();
        Identity::new(Arc::new(leaf), self.trust()).unwrap()
    }

    /// An identity whose leaf is made by `change` from a good one for `web`; such a leaf is not checked when it is loaded.
    fn bad_identity(&self, change: impl FnOnce(&mut CertificateParams)) -> BadIdentity {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(self.id("web").as_str())];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, self.issuer.signer()).unwrap();
        BadIdentity {
            chain: vec![leaf.der().clone()],
            key,
        }
    }
}

struct BadIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl BadIdentity {
    fn client(&self, like: &Identity, expected: &SpiffeId) -> Arc<ClientConfig> {
        let mut config = (*like.client_config(expected, &[]).unwrap()).clone();
        config.client_auth_cert_resolver = Arc::new(self.resolver());
        Arc::new(config)
    }

    fn server(&self, like: &Identity) -> Arc<ServerConfig> {
        let mut config = (*like.server_config(&[]).unwrap()).clone();
        config.cert_resolver = Arc::new(self.resolver());
        Arc::new(config)
    }

    fn resolver(&self) -> rustls::sign::SingleCertAndKey {
        let key = private_key(&self.key);
        let provider = weft_certs::crypto::provider();
        rustls::sign::CertifiedKey::from_der(self.chain.clone(), key, &provider)
            .unwrap()
            .into()
    }
}

/// Both ends after a handshake.
#[derive(Debug)]
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

#[derive(Debug, PartialEq)]
enum Failed {
    Client(&'static str),
    Server(&'static str),
}

fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Pair, Failed> {
    let name = ServerName::try_from("outbound_.80_._.web.shop").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..6 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut io::Cursor::new(bytes)).unwrap();
        server
            .process_new_packets()
            .map_err(|error| Failed::Server(reason(error)))?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut io::Cursor::new(bytes)).unwrap();
        client
            .process_new_packets()
            .map_err(|error| Failed::Client(reason(error)))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Pair { client, server })
}

fn reason(error: rustls::Error) -> &'static str {
    handshake_failure_reason(&io::Error::new(io::ErrorKind::InvalidData, error))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let mesh = Mesh::new("cluster.local");
    let (web, orders) = (mesh.identity("web"), mesh.identity("orders"));
    let client = web
        .client_config(orders.leaf.id(), &[b"istio-h2", b"h2"])
        .unwrap();
    let server = orders.server_config(&[b"h2", b"http/1.1"]).unwrap();
    let pair = handshake(client, server).unwrap();
    let now = SystemTime::now();
    let caller = peer_of(pair.server.peer_certificates(), now).unwrap();
    let called = peer_of(pair.client.peer_certificates(), now).unwrap();
    assert_eq!((&caller.id, &called.id), (web.leaf.id(), orders.leaf.id()));
    assert_eq!(caller.not_after, web.leaf.not_after());
    assert_eq!(
        pair.client.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    assert_eq!(pair.client.alpn_protocol(), Some(&b"h2"[..]));
    let group = pair
        .client
        .negotiated_key_exchange_group()
        .map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
}

#[test]
fn leafs_of_intermediates_are_believed() {
    let mesh = Mesh::new("cluster.local");
    let issuer = mesh.issuer.intermediate(HOUR, SystemTime::now()).unwrap();
    let issuer = issuer.intermediate(HOUR, SystemTime::now()).unwrap();
    let leaf = issuer
        .issue(&mesh.id("web"), HOUR, SystemTime::now())
        .unwrap();
    assert_eq!(leaf.chain().len(), 3);
    let web = Identity::new(Arc::new(leaf), mesh.trust()).unwrap();
    let orders = mesh.identity("orders");
    let client = web.client_config(orders.leaf.id(), &[]).unwrap();
    assert!(handshake(client, orders.server_config(&[]).unwrap()).is_ok());
    let client = orders.client_config(web.leaf.id(), &[]).unwrap();
    assert!(handshake(client, web.server_config(&[]).unwrap()).is_ok());
}

#[test]
fn leafs_without_exactly_one_identity_are_refused() {
    let mesh = Mesh::new("cluster.local");
    let web = mesh.id("web");
    let rows = [
        (
            "two_uri_sans",
            vec![
                uri(web.as_str()),
                uri("spiffe://cluster.local/ns/shop/sa/admin"),
            ],
        ),
        ("two_uri_sans", vec![uri(web.as_str()), uri(web.as_str())]),
        ("no_uri_san", vec![dns("web.shop")]),
        ("no_uri_san", vec![]),
        ("bad_identity", vec![uri("spiffe://cluster.local")]),
        (
            "bad_identity",
            vec![uri("spiffe://cluster.local/ns/shop/sa/web?x")],
        ),
        (
            "bad_identity",
            vec![uri("https://cluster.local/ns/shop/sa/web")],
        ),
    ];
    for (want, names) in rows {
        refused_by_both_sides(&mesh, want, |leaf| leaf.subject_alt_names = names);
    }
}

#[test]
fn leafs_for_another_use_are_refused() {
    let mesh = Mesh::new("cluster.local");
    let usages = |want: &str, usages: &[KeyUsagePurpose]| {
        refused_by_both_sides(&mesh, want, |leaf| leaf.key_usages = usages.to_vec());
    };
    let signs = KeyUsagePurpose::DigitalSignature;
    usages("bad_key_usage", &[]);
    usages("bad_key_usage", &[KeyUsagePurpose::KeyEncipherment]);
    usages("bad_key_usage", &[signs, KeyUsagePurpose::KeyCertSign]);
    usages("bad_key_usage", &[signs, KeyUsagePurpose::CrlSign]);
    let extended = [
        ExtendedKeyUsagePurpose::CodeSigning,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    for usage in extended {
        refused_by_both_sides(&mesh, "bad_key_usage", |leaf| {
            leaf.extended_key_usages = vec![usage];
        });
    }
    let ca = IsCa::Ca(BasicConstraints::Unconstrained);
    refused_by_both_sides(&mesh, "ca_leaf", |leaf| leaf.is_ca = ca);
}

#[test]
fn leafs_out_of_their_time_are_refused() {
    let mesh = Mesh::new("cluster.local");
    let now = SystemTime::now();
    refused_by_both_sides(&mesh, "expired", |leaf| {
        leaf.not_after = (now - Duration::from_secs(2)).into();
    });
    refused_by_both_sides(&mesh, "not_yet_valid", |leaf| {
        leaf.not_before = (now + Duration::from_secs(60)).into();
    });
}

#[test]
fn leafs_of_roots_that_do_not_count_are_refused() {
    let (mesh, impostor) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
    let other = Mesh::new("other.example");
    let mut trust = (*mesh.trust()).clone();
    let orders = mesh.identity("orders");
    both_refuse(&orders, &impostor.bad_identity(|_| {}), "unknown_root");
    both_refuse(&orders, &other.bad_identity(|_| {}), "unknown_trust_domain");
    // Roots that are known, but of another domain than the leaf names.
    trust.insert(other.domain.clone(), other.issuer.bundle().clone());
    let orders = Identity::new(orders.leaf, Arc::new(trust)).unwrap();
    let stolen = other.bad_identity(|leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web")];
    });
    both_refuse(&orders, &stolen, "unknown_root");
}

fn refused_by_both_sides(mesh: &Mesh, want: &str, change: impl FnOnce(&mut CertificateParams)) {
    both_refuse(&mesh.identity("orders"), &mesh.bad_identity(change), want);
}

#[track_caller]
fn both_refuse(good: &Identity, bad: &BadIdentity, want: &str) {
    let client = bad.client(good, good.leaf.id());
    match handshake(client, good.server_config(&[]).unwrap()) {
        Err(Failed::Server(reason)) => assert_eq!(reason, want, "as client"),
        other => panic!("{want}: the server should have refused: {other:?}"),
    }
    let web = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    let client = good.client_config(&web, &[]).unwrap();
    match handshake(client, bad.server(good)) {
        Err(Failed::Client(reason)) => assert_eq!(reason, want, "as server"),
        other => panic!("{want}: the client should have refused: {other:?}"),
    }
}

#[test]
fn names_beside_the_identity_are_ignored() {
    let mesh = Mesh::new("cluster.local");
    let orders = mesh.identity("orders");
    let web = mesh.bad_identity(|leaf| leaf.subject_alt_names.push(dns("web.shop.svc")));
    let client = web.client(&orders, orders.leaf.id());
    assert!(handshake(client, orders.server_config(&[]).unwrap()).is_ok());
}

#[test]
fn another_identity_of_the_same_mesh_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let (web, orders) = (mesh.identity("web"), mesh.identity("orders"));
    let rows = [
        "spiffe://cluster.local/ns/shop/sa/order",
        "spiffe://cluster.local/ns/shop/sa/Orders",
    ];
    for other in rows {
        let client = web
            .client_config(&SpiffeId::parse(other).unwrap(), &[])
            .unwrap();
        let failed = handshake(client, orders.server_config(&[]).unwrap()).unwrap_err();
        assert_eq!(failed, Failed::Client("wrong_identity"), "{other}");
    }
}

#[test]
fn a_client_without_certificate_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let orders = mesh.identity("orders");
    let mut client = (*orders.client_config(orders.leaf.id(), &[]).unwrap()).clone();
    client.client_auth_cert_resolver = Arc::new(NoCertificate);
    let failed = handshake(Arc::new(client), orders.server_config(&[]).unwrap()).unwrap_err();
    assert_eq!(failed, Failed::Server("no_certificate"));
    assert_eq!(
        peer_of(None, SystemTime::now()),
        Err(VerifyError::NoCertificate)
    );
    assert_eq!(
        peer_of(Some(&[]), SystemTime::now()),
        Err(VerifyError::NoCertificate)
    );
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn two_trust_domains_meet_when_each_knows_the_other() {
    let (here, there) = (Mesh::new("here.example"), Mesh::new("there.example"));
    let mut trust = (*here.trust()).clone();
    trust.insert(there.domain.clone(), there.issuer.bundle().clone());
    let trust = Arc::new(trust);
    let both = |identity: Identity| Identity::new(identity.leaf, Arc::clone(&trust)).unwrap();
    let (web, orders) = (both(here.identity("web")), both(there.identity("orders")));
    let client = web.client_config(orders.leaf.id(), &[]).unwrap();
    assert!(handshake(client, orders.server_config(&[]).unwrap()).is_ok());
}

#[test]
fn sessions_resume_and_keep_the_peer() {
    let mesh = Mesh::new("cluster.local");
    let (web, orders) = (mesh.identity("web"), mesh.identity("orders"));
    let client = web.client_config(orders.leaf.id(), &[]).unwrap();
    handshake(Arc::clone(&client), orders.server_config(&[]).unwrap()).unwrap();
    // Another worker's configuration of the same identity.
    let pair = handshake(client, orders.server_config(&[]).unwrap()).unwrap();
    assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Resumed));
    let now = SystemTime::now();
    assert_eq!(
        peer_of(pair.server.peer_certificates(), now).unwrap().id,
        *web.leaf.id()
    );
    assert_eq!(
        peer_of(pair.client.peer_certificates(), now).unwrap().id,
        *orders.leaf.id()
    );
    let later = peer_of(pair.server.peer_certificates(), now + 2 * HOUR).unwrap_err();
    assert_eq!(later.reason(), "expired");
}

#[test]
fn sessions_end_with_the_roots_they_began_under() {
    let (mesh, next) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
    let (web, orders) = (mesh.identity("web"), mesh.identity("orders"));
    let client = web.client_config(orders.leaf.id(), &[]).unwrap();
    handshake(Arc::clone(&client), orders.server_config(&[]).unwrap()).unwrap();

    // The called one drops the caller's root: the session must not carry the caller over.
    let moved = Identity::new(Arc::clone(&orders.leaf), next.trust()).unwrap();
    let failed = handshake(Arc::clone(&client), moved.server_config(&[]).unwrap()).unwrap_err();
    assert_eq!(failed, Failed::Server("unknown_root"));

    // A renewed leaf under the same roots: a full handshake that works.
    let renewed = Identity::new(Arc::clone(&orders.leaf), mesh.trust()).unwrap();
    let pair = handshake(client, renewed.server_config(&[]).unwrap()).unwrap();
    assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full));

    // The caller drops the called one's root: its new configuration knows no session.
    let moved = Identity::new(Arc::clone(&web.leaf), next.trust()).unwrap();
    let client = moved.client_config(orders.leaf.id(), &[]).unwrap();
    let failed = handshake(client, orders.server_config(&[]).unwrap()).unwrap_err();
    assert_eq!(failed, Failed::Client("unknown_root"));
}

#[test]
fn roots_overlap_while_one_is_exchanged() {
    let (old, new) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
    let pem = [old.issuer.bundle().to_pem(), new.issuer.bundle().to_pem()].concat();
    let bundle = Bundle::from_pem(&pem).unwrap();
    let both = Arc::new(TrustBundles::of(old.domain.clone(), bundle));
    for (caller, called) in [(&old, &new), (&new, &old)] {
        let web = Identity::new(caller.identity("web").leaf, Arc::clone(&both)).unwrap();
        let orders = Identity::new(called.identity("orders").leaf, Arc::clone(&both)).unwrap();
        let client = web.client_config(orders.leaf.id(), &[]).unwrap();
        assert!(handshake(client, orders.server_config(&[]).unwrap()).is_ok());
    }
}

#[test]
fn a_refused_client_learns_why() {
    let (mesh, other) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
    let orders = mesh.identity("orders");
    let stranger = Identity::new(other.identity("web").leaf, mesh.trust()).unwrap();
    let client = stranger.client_config(orders.leaf.id(), &[]).unwrap();
    let name = ServerName::try_from("orders").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(orders.server_config(&[]).unwrap()).unwrap();
    let mut last = Ok(());
    for _ in 0..4 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut io::Cursor::new(bytes)).unwrap();
        let _ = server.process_new_packets();
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut io::Cursor::new(bytes)).unwrap();
        last = last.and(client.process_new_packets().map(|_| ()));
    }
    assert_eq!(last.map_err(reason), Err("refused_unknown_root"));
}

#[test]
fn a_leaf_needs_its_own_key() {
    let mesh = Mesh::new("cluster.local");
    let leaf = mesh
        .issuer
        .issue(&mesh.id("web"), HOUR, SystemTime::now())
        .unwrap();
    let key = private_key(&KeyPair::generate().unwrap());
    assert!(Leaf::new(leaf.chain().to_vec(), key).is_err());
}
