//! Identities from a real authority over real sockets, and from files that are replaced in every usual way.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weft_ca::app::{self, Bound};
use weft_ca::config::Config;
use weft_ca::issuer::Issuer;
use weft_ca::token::mint::TokenIssuer;
use weft_certs::authority::{Authority, RequestError};
use weft_policy::spiffe::{SpiffeId, TrustDomain};

use super::{Identities, Kept, Source, chain};

const ISSUER: &str = "https://tokens.test";
const HOUR: Duration = Duration::from_secs(3600);

fn web() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()
}

/// A weft-ca in this process with a directory of its own.
struct Ca {
    dir: TempDir,
    bound: Bound,
    tokens: TokenIssuer,
}

impl Ca {
    fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    fn start_at(listen: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = TokenIssuer::generate(ISSUER).unwrap();
        fs::write(dir.path().join("jwks.json"), tokens.key_set().unwrap()).unwrap();
        let bound = app::start(Self::config(dir.path(), listen)).unwrap();
        let ca = Self { dir, bound, tokens };
        ca.write_token(("shop", "web"), "istio-ca");
        ca
    }

    fn config(dir: &Path, listen: &str) -> Config {
        let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let variables = [
            ("WEFT_CA_DIR", text("ca")),
            ("WEFT_CA_JWKS", text("jwks.json")),
            ("WEFT_CA_TOKEN_ISSUER", ISSUER.to_owned()),
            ("WEFT_CA_LISTEN", listen.to_owned()),
            ("WEFT_CA_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
            ("WEFT_CA_RELOAD", "50ms".to_owned()),
        ];
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Config::from_env(|name| value(name).map(|(_, value)| value.clone())).unwrap()
    }

    fn write_token(&self, account: (&str, &str), audience: &str) {
        let token = self
            .tokens
            .token(account, audience, SystemTime::now(), HOUR)
            .unwrap();
        fs::write(self.dir.path().join("token"), token + "\n").unwrap();
    }

    fn client(&self) -> Authority {
        Authority {
            address: format!("https://{}", self.bound.ca).parse().unwrap(),
            roots: self.dir.path().join("ca/ca.crt"),
            name: None,
            token_file: self.dir.path().join("token"),
            lifetime: HOUR,
        }
    }
}

fn run(source: Source) -> (Identities, AbortOnDropHandle<()>) {
    let (identities, supply) = Identities::new(source, web()).unwrap();
    let task =
        crate::tasks::Tasks::default().spawn("identity", supply.run(CancellationToken::new()));
    (identities, AbortOnDropHandle::new(task))
}

async fn next(identities: &mut Identities) -> std::sync::Arc<weft_certs::identity::Identity> {
    let changed = timeout(Duration::from_secs(20), identities.changed()).await;
    changed.expect("no identity was published");
    identities.current().unwrap()
}

#[tokio::test]
async fn an_authority_gives_the_identity_that_was_asked_for() {
    let ca = Ca::start();
    let identity = ca.client().request(&web()).await.unwrap();
    assert_eq!(*identity.leaf.id(), web());
    assert!(identity.leaf.is_valid_at(SystemTime::now()));
    let left = identity
        .leaf
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(left <= HOUR && left > HOUR - Duration::from_secs(60));
    let root = fs::read_to_string(ca.dir.path().join("ca/ca.crt")).unwrap();
    let bundle = identity.trust.bundle(&web().trust_domain()).unwrap();
    assert_eq!(bundle.to_pem(), root);
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_said() {
    let ca = Ca::start();
    let other = Ca::start();
    let gone = ca.dir.path().join("gone");
    let empty = ca.dir.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let good = || ca.client();
    let stranger = other.dir.path().join("token");
    let closed = "https://127.0.0.1:1".parse().unwrap();
    let rows = [
        (
            "gone",
            Authority {
                token_file: gone.clone(),
                ..good()
            },
            "cannot read",
        ),
        (
            "empty token",
            Authority {
                token_file: empty.clone(),
                ..good()
            },
            "holds no token",
        ),
        (
            "foreign token",
            Authority {
                token_file: stranger,
                ..good()
            },
            "authenticate",
        ),
        (
            "gone",
            Authority {
                roots: gone,
                ..good()
            },
            "cannot read",
        ),
        (
            "no roots",
            Authority {
                roots: empty,
                ..good()
            },
            "holds no roots",
        ),
        (
            "other roots",
            Authority {
                roots: other.client().roots,
                ..good()
            },
            "UnknownIssuer",
        ),
        (
            "nobody there",
            Authority {
                address: closed,
                ..good()
            },
            "refused",
        ),
        (
            "too long",
            Authority {
                lifetime: 9999 * HOUR,
                ..good()
            },
            "is more than",
        ),
    ];
    for (name, authority, want) in rows {
        let error = authority.request(&web()).await.unwrap_err();
        assert!(chain(&error).contains(want), "{name}: {}", chain(&error));
    }
}

#[tokio::test]
async fn a_token_of_somebody_else_gives_no_identity_of_ours() {
    let ca = Ca::start();
    ca.write_token(("shop", "admin"), "istio-ca");
    let error = ca.client().request(&web()).await.unwrap_err();
    // The request names us, so the authority refuses it before we have to.
    assert!(
        matches!(error, RequestError::Refused(_)),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn an_authority_may_show_a_second_name() {
    let ca = Ca::start_at("127.0.0.2:0");
    let named = |name: &str| Authority {
        name: Some(name.to_owned()),
        ..ca.client()
    };
    assert!(
        ca.client().request(&web()).await.is_err(),
        "127.0.0.2 is none of its names"
    );
    assert!(
        named("istiod.istio-system.svc")
            .request(&web())
            .await
            .is_err()
    );
    assert!(
        named("weft-ca.weft-system.svc")
            .request(&web())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_leaf_is_renewed_at_half_of_its_life() {
    let ca = Ca::start();
    let short = Authority {
        lifetime: Duration::from_secs(4),
        ..ca.client()
    };
    let (mut identities, _task) = run(Source::Authority(short));
    let first = next(&mut identities).await;
    let second = next(&mut identities).await;
    assert_ne!(first.leaf.chain(), second.leaf.chain());
    assert!(
        first.leaf.is_valid_at(SystemTime::now()),
        "renewed while the old one was good"
    );
}

#[tokio::test]
async fn the_old_leaf_stays_while_the_authority_is_away_and_is_renewed_when_it_is_back() {
    let ca = Ca::start();
    let client = Authority {
        lifetime: Duration::from_secs(2),
        ..ca.client()
    };
    let (mut identities, _task) = run(Source::Authority(client));
    let first = next(&mut identities).await;
    let (dir, address) = (ca.dir, ca.bound.ca.to_string());
    ca.bound.shutdown();
    let ended = tokio::task::spawn_blocking(|| ca.bound.wait()).await;
    ended.unwrap().unwrap();
    while identities.failures() == 0 {
        tokio::task::yield_now().await;
    }
    let kept = identities.current().unwrap();
    assert_eq!(kept.leaf.chain(), first.leaf.chain());
    let back = app::start(Ca::config(dir.path(), &address)).unwrap();
    let renewed = next(&mut identities).await;
    assert_ne!(renewed.leaf.chain(), first.leaf.chain());
    assert_eq!(
        renewed.trust, first.trust,
        "the restarted authority has the same root"
    );
    drop(back);
}

#[tokio::test]
async fn without_a_source_there_is_no_identity() {
    let (identities, supply) = Identities::new(Source::None, web()).unwrap();
    supply.run(CancellationToken::new()).await;
    assert!(identities.current().is_none());
}

/// Writes an identity's files into a directory.
fn write_identity(dir: &Path, issuer: &Issuer, account: &str) {
    let id = SpiffeId::workload(issuer.domain(), "shop", account).unwrap();
    let request = weft_certs::csr::Request::new(&id).unwrap();
    let key = weft_ca::csr::checked_key(request.pem(), &id).unwrap();
    let leaf = issuer.sign(&id, &key, HOUR, SystemTime::now()).unwrap();
    let chain = issuer.response(&leaf);
    let (roots, chain) = chain.split_last().unwrap();
    fs::create_dir_all(dir).unwrap();
    for (name, text) in [("tls.key", request.key_pem()), ("ca.crt", roots.clone())] {
        fs::write(dir.join(name), text).unwrap();
    }
    fs::write(dir.join("tls.crt"), chain.concat()).unwrap();
}

fn issuer() -> Issuer {
    Issuer::generate(&TrustDomain::parse("cluster.local").unwrap()).unwrap()
}

#[tokio::test]
async fn files_are_followed_over_a_swap_of_symbolic_links() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = issuer();
    write_identity(&dir.path().join("..1"), &issuer, "first");
    write_identity(&dir.path().join("..2"), &issuer, "second");
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    };
    link("..1", "..data");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        link(&format!("..data/{name}"), name);
    }
    let (mut identities, _task) = run(Source::Files(dir.path().to_owned()));
    assert_eq!(
        next(&mut identities).await.leaf.id().service_account(),
        Some("first")
    );
    // As the kubelet does it: another link beside, renamed over the old one.
    link("..2", "..data_tmp");
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    assert_eq!(
        next(&mut identities).await.leaf.id().service_account(),
        Some("second")
    );
}

#[test]
fn files_that_are_missing_at_the_start_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::Files(dir.path().to_owned());
    let error = Identities::new(source, web()).err().unwrap();
    assert!(error.to_string().contains("tls.crt"), "{error}");
}

#[tokio::test]
async fn files_that_do_not_belong_together_leave_the_old_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (issuer(), issuer());
    write_identity(dir.path(), &old, "web");
    let (mut identities, _task) = run(Source::Files(dir.path().to_owned()));
    let first = next(&mut identities).await;
    let good = fs::read_to_string(dir.path().join("ca.crt")).unwrap();
    let both = format!("{good}{}", new.bundle().to_pem());
    for broken in [new.bundle().to_pem(), "no certificate".to_owned()] {
        let before = identities.failures();
        fs::write(dir.path().join("ca.crt"), broken).unwrap();
        while identities.failures() == before {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            identities.current().unwrap().leaf.chain(),
            first.leaf.chain()
        );
    }
    fs::write(dir.path().join("ca.crt"), both).unwrap();
    let overlapping = next(&mut identities).await;
    let bundle = overlapping.trust.bundle(&web().trust_domain()).unwrap();
    assert_eq!(bundle.roots().len(), 2);
}

#[tokio::test]
async fn who_restarts_while_the_authority_is_away_is_who_it_was() {
    let ca = Ca::start();
    let dir = tempfile::tempdir().unwrap();
    let (_, material) = ca.client().issue(&web()).await.unwrap();
    Kept::new(dir.path()).write(&material);
    let mode = std::os::unix::fs::MetadataExt::mode(
        &fs::metadata(dir.path().join("identity.json")).unwrap(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let client = ca.client();
    drop(ca);
    for (id, found) in [
        (web(), true),
        (
            SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap(),
            false,
        ),
    ] {
        let (identities, supply) = Identities::new(Source::Authority(client.clone()), id).unwrap();
        let _supply = supply.keeping(Some(dir.path()));
        assert_eq!(identities.current().is_some(), found);
    }
}
