//! Leafs and roots change under load, and no request fails.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::interval;
use weft_certs::bundle::{Bundle, fingerprint};
use weft_tests::app::echo;
use weft_tests::authority::{Authority, Issuer};
use weft_tests::ca::{Ca, Files, id};
use weft_tests::client::{Http1, Http2, mesh_tls};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Mesh, Pair, Proxy};
use weft_tests::metrics::Scrape;
use weft_tests::scratch::Scratch;

/// Calls until told to stop, on a new connection now and then; returns what went wrong.
async fn load(web: &Proxy, stop: &AtomicBool, served: &AtomicUsize) -> Vec<String> {
    let mut wrong = Vec::new();
    // As fast as it goes would leave nothing of the machine to the tests beside this one.
    let mut pace = interval(Duration::from_millis(3));
    while !stop.load(Ordering::Relaxed) {
        let mut one = Http1::connect(web.outbound).await;
        let two = Http2::connect(web.outbound).await;
        for _ in 0..5 {
            pace.tick().await;
            let answers = [
                one.get("orders", "/").await,
                one.post("orders", "/", b"hello").await,
                two.get("orders", "/").await,
                two.post("orders", "/", "hello").await,
            ];
            for answer in answers {
                if answer.status != 200 || answer.cut.is_some() {
                    wrong.push(format!("{answer:?}"));
                }
            }
            served.fetch_add(4, Ordering::Relaxed);
        }
    }
    wrong
}

/// Waits until `count` more requests have been served.
async fn more(served: &AtomicUsize, count: usize) {
    let from = served.load(Ordering::Relaxed);
    let look = async || served.load(Ordering::Relaxed) - from;
    eventually(Duration::from_secs(20), look, |more| *more >= count).await;
}

/// Waits until the inbound proxy shows a leaf that `files`, and nobody else, would accept.
async fn shown(pair: &Pair, files: &Files) {
    let config = files
        .identity()
        .client_config(&id("orders"), &[b"istio-http/1.1"])
        .unwrap();
    let look = async || {
        mesh_tls(pair.orders.inbound, config.clone())
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let _shown = eventually(Duration::from_secs(5), look, Result::is_ok).await;
}

#[tokio::test]
async fn leafs_and_roots_are_exchanged_without_a_lost_request() {
    let pair = Pair::new(echo());
    let (old, new) = (&pair.mesh.ca, Ca::new());
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rotate = async {
        more(&served, 30).await;
        // New leafs of the same root, again and again.
        for _ in 0..5 {
            old.files("web").put(&pair.web.folder);
            old.files("orders").put(&pair.orders.folder);
            more(&served, 30).await;
        }
        // Another root: first it is trusted everywhere, then it signs, then the old one is no longer trusted.
        let folders = [("web", &pair.web.folder), ("orders", &pair.orders.folder)];
        for (account, folder) in folders {
            old.files(account).trusting(&new).put(folder);
        }
        more(&served, 60).await;
        for (account, folder) in folders {
            new.files(account).trusting(old).put(folder);
            more(&served, 60).await;
        }
        shown(&pair, &new.files("web")).await;
        for (account, folder) in folders {
            new.files(account).put(folder);
            more(&served, 60).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (wrong, ()) = tokio::join!(load(&pair.web, &stop, &served), rotate);
    assert!(
        wrong.is_empty(),
        "{} of {}: {}",
        wrong.len(),
        served.load(Ordering::Relaxed),
        wrong[0]
    );
    // And what was signed by the old root is refused now.
    let stranger = old.files("web").trusting(&new);
    let config = stranger
        .identity()
        .client_config(&id("orders"), &[b"istio-http/1.1"])
        .unwrap();
    let look = async || match mesh_tls(pair.orders.inbound, config.clone()).await {
        Err(_) => None,
        Ok(io) => {
            let mut client = Http1::over(io);
            let request = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
            let _sent = client.try_send(request).await;
            client.try_answer("GET").await.ok()
        }
    };
    eventually(Duration::from_secs(2), look, Option::is_none).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_keep_the_identity_that_is_there() {
    let pair = Pair::new(echo());
    let broken = Files {
        chain: "nothing".to_owned(),
        ..pair.mesh.ca.files("orders")
    };
    broken.put(&pair.orders.folder);
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..50 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert_eq!(
        Http1::connect(pair.web.outbound)
            .await
            .get("orders", "/")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_session_is_not_resumed_once_its_root_is_gone() {
    // Kept connections would be used on: only new ones tell who is trusted now.
    let pair = Pair::with(
        echo(),
        |web| web.set("WEFT_POOL_IDLE", "1ms"),
        |orders| orders,
    );
    let (old, new) = (&pair.mesh.ca, Ca::new());
    let caller = old.files("web").trusting(&new).identity();
    let config = caller
        .client_config(&id("orders"), &[b"istio-http/1.1"])
        .unwrap();
    let call = async || {
        let io = mesh_tls(pair.orders.inbound, Arc::clone(&config)).await?;
        let kind = io.get_ref().1.handshake_kind();
        let mut client = Http1::over(io);
        client
            .try_send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
            .await?;
        let answer = client.try_answer("GET").await?;
        Ok::<_, std::io::Error>((format!("{kind:?}"), answer.status.as_u16()))
    };
    let mut kinds = Vec::new();
    for _ in 0..2 {
        kinds.push(call().await.unwrap());
    }
    let want = [("Some(Full)", 200), ("Some(Resumed)", 200)];
    assert_eq!(kinds, want.map(|(kind, status)| (kind.to_owned(), status)));

    new.files("orders").put(&pair.orders.folder);
    let refused = async || call().await.map_err(|error| error.to_string());
    eventually(Duration::from_secs(5), refused, Result::is_err)
        .await
        .unwrap_err();
    let labels = ["direction=\"inbound\"", "reason=\"unknown_root\""];
    let scrape = Scrape::of(pair.orders.metrics).await;
    assert!(scrape.sum("weft_tls_handshakes_total", &labels) >= 1.0);

    // And the other way round: the caller no longer trusts the root under which it has a session.
    let mut client = Http1::connect(pair.web.outbound).await;
    new.files("web").put(&pair.web.folder);
    let good = async || client.get("orders", "/").await.status.as_u16();
    eventually(Duration::from_secs(5), good, |status| *status == 200).await;
    old.files("orders").trusting(&new).put(&pair.orders.folder);
    let cut = async || {
        let mut client = Http1::connect(pair.web.outbound).await;
        client.get("orders", "/").await.reject().to_owned()
    };
    eventually(Duration::from_secs(5), cut, |reason| reason == "handshake").await;
}

#[tokio::test]
async fn an_authority_that_goes_and_changes_its_root_costs_no_request() {
    let mut authority = Authority::new();
    let (mesh, app) = (Mesh::new(), echo());
    let orders = mesh.proxy("orders").serves(80, app.address);
    let orders = authority.supplies(orders, "orders", LIFETIME).start();
    mesh.services(&[("orders", 80, "-", &[orders.endpoint()])]);
    let web = authority
        .supplies(mesh.proxy("web"), "web", LIFETIME)
        .start();
    let proxies = [&web, &orders];
    renewed(proxies, "ok", 1.0).await;
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let change = async {
        renewed(proxies, "ok", 2.0).await;
        // Gone while a renewal is due. Not until the other proxy's is, too: leafs as short as these would end meanwhile.
        let roots = authority.roots();
        for _ in 0..2 {
            authority.stop();
            let before = failures(proxies).await;
            let look = async || failures(proxies).await;
            eventually(Duration::from_secs(20), look, |seen| *seen > before).await;
            authority.start();
            renewed(proxies, "ok", 1.0).await;
        }
        assert_eq!(authority.roots(), roots, "a restart makes no other root");
        // Another root, by the steps of docs/ca.md.
        let (old, new) = (authority.present(), authority.another("new"));
        authority.trust(&new);
        given_out(&authority, &[old.certificate(), new.certificate()]).await;
        settled(proxies, &served).await;
        authority.trust(&old);
        authority.sign_with(&new);
        let signs = async || authority.signs_with(&new).await;
        eventually(Duration::from_secs(5), signs, |yes| *yes).await;
        settled(proxies, &served).await;
        authority.distrust(&old);
        given_out(&authority, &[new.certificate()]).await;
        settled(proxies, &served).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (wrong, ()) = tokio::join!(load(&web, &stop, &served), change);
    let all = served.load(Ordering::Relaxed);
    assert!(wrong.is_empty(), "{} of {all}: {}", wrong.len(), wrong[0]);
}

#[tokio::test]
async fn a_root_is_exchanged_by_the_mounted_file_long_before_leafs_end() {
    let authority = Authority::new();
    let mount = Mount::new(&authority.roots());
    let (mesh, app) = (Mesh::new(), echo());
    let supplied = |starting, account| {
        authority
            .supplies(starting, account, "24h")
            .set("WEFT_CA_ROOT", mount.file().display())
            .set("WEFT_CERT_SPREAD", "200ms")
    };
    let orders = mesh.proxy("orders").serves(80, app.address);
    let orders = supplied(orders, "orders").start();
    mesh.services(&[("orders", 80, "-", &[orders.endpoint()])]);
    let web = supplied(mesh.proxy("web"), "web").start();
    let proxies = [&web, &orders];
    // There is one for a day: it may have come before we look.
    for proxy in proxies {
        let first = async || renewals(proxy, "result=\"ok\"").await;
        eventually(Duration::from_secs(20), first, |seen| *seen >= 1.0).await;
    }
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (old, new) = (authority.present(), authority.another("new"));
    let change = async {
        more(&served, 30).await;
        // It is trusted, though no answer of the authority has said so yet.
        authority.trust(&new);
        given_out(&authority, &[old.certificate(), new.certificate()]).await;
        mount.put(&authority.roots());
        shows(proxies, ROOT, &new, 1.0).await;
        more(&served, 60).await;
        // It signs.
        authority.trust(&old);
        authority.sign_with(&new);
        let signs = async || authority.signs_with(&new).await;
        eventually(Duration::from_secs(5), signs, |yes| *yes).await;
        mount.put(&authority.roots());
        shows(proxies, ISSUER, &new, 1.0).await;
        more(&served, 60).await;
        // The old one is forgotten.
        authority.distrust(&old);
        given_out(&authority, &[new.certificate()]).await;
        mount.put(&authority.roots());
        shows(proxies, ROOT, &old, 0.0).await;
        shows(proxies, ROOT, &new, 1.0).await;
        more(&served, 60).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (wrong, ()) = tokio::join!(load(&web, &stop, &served), change);
    let all = served.load(Ordering::Relaxed);
    assert!(wrong.is_empty(), "{} of {all}: {}", wrong.len(), wrong[0]);
}

/// A folder with `ca.crt`, as the kubelet mounts a ConfigMap.
struct Mount(Scratch);

impl Mount {
    fn new(roots: &str) -> Self {
        let mount = Self(Scratch::new());
        symlink("..data/ca.crt", mount.file()).unwrap();
        mount.put(roots);
        mount
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("ca.crt")
    }

    /// Replaces it as the kubelet does: a new folder, to which one link is turned.
    fn put(&self, roots: &str) {
        let folder = |name: &str| self.0.path().join(name);
        let version = format!("..{}", std::fs::read_dir(self.0.path()).unwrap().count());
        std::fs::create_dir(folder(&version)).unwrap();
        std::fs::write(folder(&version).join("ca.crt"), roots).unwrap();
        symlink(&version, folder("..next")).unwrap();
        std::fs::rename(folder("..next"), folder("..data")).unwrap();
    }
}

const ROOT: &str = "weft_identity_root_info";
const ISSUER: &str = "weft_identity_issuer_info";

/// Waits until each proxy says `value` of `issuer`.
async fn shows(proxies: [&Proxy; 2], metric: &str, issuer: &Issuer, value: f64) {
    let bundle = Bundle::from_pem(issuer.certificate()).unwrap();
    let label = format!("fingerprint=\"{}\"", fingerprint(&bundle.roots()[0]));
    for proxy in proxies {
        let look = async || Scrape::of(proxy.metrics).await.sum(metric, &[&label]);
        eventually(Duration::from_secs(20), look, |seen| *seen == value).await;
    }
}

#[tokio::test]
async fn a_missing_token_is_told_and_cured_without_a_restart() {
    let authority = Authority::new();
    let (mesh, app) = (Mesh::new(), echo());
    let orders = mesh.proxy("orders").serves(80, app.address);
    let orders = authority.supplies(orders, "orders", "1h").start();
    mesh.services(&[("orders", 80, "-", &[orders.endpoint()])]);
    let web = authority.supplies(mesh.proxy("web"), "web", "1h");
    let token = authority.take_token("web");
    let web = web.start();
    renewed([&web, &web], "failed", 1.0).await;
    let ready = async || {
        let mut client = Http1::connect(web.ready).await;
        client.get("web", "/ready").await.status.as_u16()
    };
    assert_eq!(ready().await, 503);
    let mut client = Http1::connect(web.outbound).await;
    let answer = client.get("orders", "/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (503, "no_identity")
    );
    authority.give_token("web", &token);
    eventually(Duration::from_secs(10), ready, |status| *status == 200).await;
    assert_eq!(client.get("orders", "/").await.status, 200);
}

/// Long enough for a stall of a busy machine between the renewal, at half of it, and its end.
const LIFETIME: &str = "4s";

async fn renewals(proxy: &Proxy, label: &str) -> f64 {
    let scrape = Scrape::of(proxy.metrics).await;
    scrape.sum("weft_identity_renewals_total", &[label])
}

async fn failures([one, other]: [&Proxy; 2]) -> f64 {
    let label = "result=\"failed\"";
    renewals(one, label).await + renewals(other, label).await
}

/// Waits until each proxy has counted `more` renewals with `result`.
async fn renewed(proxies: [&Proxy; 2], result: &str, more: f64) {
    let label = format!("result=\"{result}\"");
    let count = async |proxy: &Proxy| renewals(proxy, &label).await;
    let from = [count(proxies[0]).await, count(proxies[1]).await];
    for (proxy, from) in proxies.into_iter().zip(from) {
        let look = async || count(proxy).await - from;
        eventually(Duration::from_secs(20), look, |seen| *seen >= more).await;
    }
}

/// Waits until each proxy has what the authority gives out now.
async fn settled(proxies: [&Proxy; 2], served: &AtomicUsize) {
    // A renewal that was under way has ended by then, and does not count.
    more(served, 200).await;
    renewed(proxies, "ok", 1.0).await;
}

async fn given_out(authority: &Authority, roots: &[&str]) {
    let look = async || authority.roots();
    let right = |text: &String| {
        let lines = |text: &str| text.matches("BEGIN CERTIFICATE").count();
        lines(text) == roots.len() && roots.iter().all(|root| contains(text, root))
    };
    eventually(Duration::from_secs(5), look, right).await;
}

fn contains(text: &str, certificate: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    plain(text).contains(&plain(certificate))
}
