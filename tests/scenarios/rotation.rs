//! Leafs and roots change under load, and no request fails.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use weft_tests::app::echo;
use weft_tests::ca::{Ca, Files, id};
use weft_tests::client::{Http1, Http2, mesh_tls};
use weft_tests::eventually::eventually;
use weft_tests::mesh::Pair;

/// Calls until told to stop, on a new connection now and then; returns what went wrong.
async fn load(pair: &Pair, stop: &AtomicBool, served: &AtomicUsize) -> Vec<String> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut one = Http1::connect(pair.web.outbound).await;
        let two = Http2::connect(pair.web.outbound).await;
        for _ in 0..5 {
            let answers = [
                one.get("orders", "/").await,
                one.post("orders", "/", b"hello").await,
                two.post("orders", "/", "hello").await,
            ];
            for answer in answers {
                if answer.status != 200 || answer.cut.is_some() {
                    wrong.push(format!("{answer:?}"));
                }
            }
            served.fetch_add(3, Ordering::Relaxed);
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
    let (wrong, ()) = tokio::join!(load(&pair, &stop, &served), rotate);
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
