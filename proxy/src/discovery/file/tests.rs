//! The services file on a real file system: how changes get in, and how mistakes do not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::discovery::dns::DnsSource;
use crate::discovery::supply::Supply;
use crate::discovery::{Discovery, DiscoveryConfig};

const ONE: &str = "services: [{name: orders, port: 80, endpoints: [{address: 10.0.0.1:80}]}]";
const TWO: &str = "services: [{name: orders, port: 80, endpoints: [{address: 10.0.0.1:80}, {address: 10.0.0.2:80}]}]";
const WRONG: &str = "services: [{name: orders, port: 80, endpoints: [{address: nowhere}]}]";

#[tokio::test]
async fn each_way_to_replace_the_file_is_live_within_a_second() {
    let folder = Folder::new();
    let path = folder.0.join("services.yaml");
    fs::write(&path, ONE).unwrap();
    let (discovery, supply) = following(&path).unwrap();
    while_supplied(supply, async {
        loaded(&discovery, 1).await;
        fs::write(&path, TWO).unwrap();
        endpoints_are(&discovery, 2, "written in place").await;

        let other = folder.0.join("other");
        fs::write(&other, ONE).unwrap();
        fs::rename(&other, &path).unwrap();
        endpoints_are(&discovery, 1, "renamed over").await;

        fs::remove_file(&path).unwrap();
        fs::write(&path, TWO).unwrap();
        endpoints_are(&discovery, 2, "removed and written").await;
    })
    .await;
}

#[tokio::test]
async fn a_swapped_symbolic_link_is_live_within_a_second() {
    let folder = Folder::new();
    let at = |name: &str| folder.0.join(name);
    for (version, text) in [("v1", ONE), ("v2", TWO)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("services.yaml"), text).unwrap();
    }
    // As Kubernetes projects a ConfigMap.
    symlink("v1", at("..data")).unwrap();
    symlink("..data/services.yaml", at("services.yaml")).unwrap();
    let (discovery, supply) = following(&at("services.yaml")).unwrap();
    while_supplied(supply, async {
        loaded(&discovery, 1).await;
        for (version, count) in [("v2", 2), ("v1", 1)] {
            symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            endpoints_are(&discovery, count, version).await;
        }
        fs::write(at("v1").join("services.yaml"), TWO).unwrap();
        endpoints_are(&discovery, 2, "written behind the links").await;
    })
    .await;
}

#[tokio::test]
async fn a_wrong_update_is_counted_and_the_last_good_one_stays() {
    let folder = Folder::new();
    let path = folder.0.join("services.yaml");
    fs::write(&path, TWO).unwrap();
    let (discovery, supply) = following(&path).unwrap();
    while_supplied(supply, async {
        loaded(&discovery, 1).await;
        let held = discovery.known("orders", 80).unwrap();
        fs::write(&path, WRONG).unwrap();
        eventually("one is refused", || {
            discovery.metrics().rejected_updates() == 1
        })
        .await;
        fs::remove_file(&path).unwrap();
        eventually("a removed file is refused", || {
            discovery.metrics().rejected_updates() == 2
        })
        .await;
        let service = discovery.known("orders", 80).unwrap();
        assert!(Arc::ptr_eq(&held, &service));
        assert_eq!(service.endpoints().len(), 2);
        assert!(
            service
                .endpoints()
                .iter()
                .all(|member| !member.endpoint.retired())
        );

        fs::write(&path, ONE).unwrap();
        endpoints_are(&discovery, 1, "mended").await;
        assert_eq!(discovery.metrics().rejected_updates(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_is_written_between_start_and_watch_is_not_missed() {
    let folder = Folder::new();
    let path = folder.0.join("services.yaml");
    fs::write(&path, ONE).unwrap();
    let (discovery, supply) = following(&path).unwrap();
    fs::write(&path, TWO).unwrap();
    while_supplied(
        supply,
        endpoints_are(&discovery, 2, "written before the watch"),
    )
    .await;
}

#[test]
fn a_file_that_is_no_use_at_start_is_an_error_that_says_why() {
    let folder = Folder::new();
    let path = folder.0.join("services.yaml");
    let error = following(&path).unwrap_err();
    assert!(
        error.to_string().ends_with("services.yaml cannot be read"),
        "{error}"
    );
    assert!(error.source().unwrap().to_string().contains("No such file"));

    fs::write(&path, WRONG).unwrap();
    let error = following(&path).unwrap_err().to_string();
    assert!(
        error.contains("services.yaml is invalid: line 1: address \"nowhere\""),
        "{error}"
    );

    fs::write(&path, [b"services: []\n", b"\xff".as_slice()].concat()).unwrap();
    assert!(
        matches!(following(&path), Err(FileError::Unreadable { .. })),
        "no UTF-8"
    );

    File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
    let error = following(&path).unwrap_err();
    assert!(
        error.source().unwrap().to_string().contains("more than"),
        "{error:?}"
    );
}

#[test]
fn many_mistakes_are_told_of_in_part() {
    let folder = Folder::new();
    let path = folder.0.join("services.yaml");
    fs::write(
        &path,
        format!("services:\n{}", "- {name: a, port: 0}\n".repeat(500)),
    )
    .unwrap();
    let error = following(&path).unwrap_err().to_string();
    assert!(error.ends_with("; and 480 more"), "{error}");
}

fn following(path: &Path) -> Result<(Discovery, Supply), FileError> {
    Discovery::new(DiscoveryConfig {
        services_file: Some(path.into()),
        namespace: "default".into(),
        zone: None,
        dns: DnsSource::Servers(Vec::new()),
        ads: None,
    })
}

async fn while_supplied(supply: Supply, test: impl Future<Output = ()>) {
    tokio::select! {
        () = supply.run(CancellationToken::new()) => panic!("discovery ended"),
        () = test => {}
    }
}

/// Waits until the watch is in place: the first thing it does is to read the file once more.
async fn loaded(discovery: &Discovery, updates: u64) {
    eventually("the file is loaded", || {
        discovery.metrics().file_updates() >= updates
    })
    .await;
}

async fn endpoints_are(discovery: &Discovery, count: usize, why: &str) {
    eventually(why, || {
        discovery
            .known("orders", 80)
            .is_some_and(|service| service.endpoints().len() == count)
    })
    .await;
}

/// Waits for `reached`, for the second within which a change has to be live.
async fn eventually(what: &str, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "not within a second: {what}"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

/// A directory of the test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "weft-services-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}
