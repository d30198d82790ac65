//! The image: what is listed is what is laid out, what Kubernetes starts is in it, and the Dockerfile makes it of the same list.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use weft_tests::scratch::Scratch;
use weft_tests::skip::skip;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// Where each file comes from, and where it is in the image.
fn listed() -> Vec<(String, String)> {
    let text = read("image/files");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [from, to] = words.as_slice() else {
                panic!("two words: {line}");
            };
            ((*from).to_owned(), (*to).to_owned())
        })
        .collect()
}

#[test]
fn every_program_that_is_started_is_in_the_image() {
    let in_image: BTreeSet<String> = listed().into_iter().map(|(_, to)| to).collect();
    for part in ["ca", "discovery", "injector"] {
        let manifest = read(&format!("manifests/base/{part}.yaml"));
        let command = manifest
            .lines()
            .find_map(|line| line.trim().strip_prefix("command: ["));
        let command = command.unwrap().trim_end_matches(']');
        assert!(in_image.contains(command), "{command}");
    }
    for path in [
        "/usr/local/bin/weft-proxy",
        "/usr/local/bin/weft",
        "/usr/sbin/nft",
    ] {
        assert!(in_image.contains(path), "{path}");
    }
}

#[test]
fn the_dockerfile_makes_the_image_of_the_same_list() {
    let dockerfile = read("Dockerfile");
    let built: BTreeSet<String> = listed()
        .into_iter()
        .filter_map(|(from, _)| Some(from.strip_prefix("build:")?.to_owned()))
        .collect();
    assert!(
        dockerfile.contains("image/proxy --locked"),
        "the proxy is linked in its own way"
    );
    let builds = [dockerfile.as_str(), &read("image/proxy")].join("\n");
    let words: Vec<&str> = builds.split_whitespace().collect();
    let asked: BTreeSet<String> = words
        .windows(2)
        .filter(|pair| pair.first() == Some(&"--bin"))
        .filter_map(|pair| Some((*pair.last()?).to_owned()))
        .collect();
    assert_eq!(asked, built, "what is built and what is in the image");
    let copies: Vec<&str> = dockerfile
        .lines()
        .filter(|line| line.starts_with("COPY --from") || line.starts_with("ADD"))
        .collect();
    assert_eq!(
        copies,
        ["COPY --from=build /image/ /"],
        "nothing gets in by another way"
    );
    for want in [
        "RUN image/rootfs target/release /image",
        "FROM scratch",
        "USER 65532:65532",
        "org.opencontainers.image.licenses=\"Apache-2.0\"",
        &format!("ARG VERSION={}", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(dockerfile.contains(want), "{want}");
    }
    let channel = read("rust-toolchain.toml");
    let channel = channel
        .lines()
        .find_map(|line| line.strip_prefix("channel = "));
    assert!(dockerfile.contains(&format!(
        "rust:{}-slim-bookworm",
        channel.unwrap().trim_matches('"')
    )));
}

#[test]
fn what_is_listed_is_laid_out_and_twice_the_same() {
    if !Path::new("/usr/sbin/nft").exists()
        || Command::new("dpkg-query")
            .arg("--version")
            .output()
            .is_err()
    {
        return skip("the image is made of files of Debian, nft among them");
    }
    let scratch = Scratch::new();
    let build = scratch.path().join("build");
    std::fs::create_dir(&build).unwrap();
    // Which program it is makes no difference here, and not all of them are built for this test.
    for (from, _) in listed() {
        if let Some(name) = from.strip_prefix("build:") {
            std::fs::copy("/usr/bin/true", build.join(name)).unwrap();
        }
    }
    let lay_out = |name: &str| {
        let folder = scratch.path().join(name);
        let made = Command::new(repository().join("image/rootfs"))
            .arg(&build)
            .arg(&folder)
            .env("SOURCE_DATE_EPOCH", "1000")
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        folder
    };
    let (one, other) = (lay_out("one"), lay_out("other"));
    let files = walk(&one);
    assert_eq!(files, walk(&other));
    let wanted: BTreeSet<String> = listed().into_iter().map(|(_, to)| to).collect();
    let found: BTreeSet<String> = files.iter().map(|(path, ..)| path.clone()).collect();
    assert_eq!(wanted.difference(&found).next(), None, "{found:?}");
    let rest = found.difference(&wanted);
    for path in rest {
        let library =
            path.contains(".so") && path.starts_with("/lib") || path.starts_with("/usr/lib");
        assert!(
            library || path.starts_with("/var/lib/dpkg/status.d/"),
            "{path} is in the image and in no list"
        );
    }
    assert!(
        found.iter().any(|path| path.contains("libnftables.so")),
        "{found:?}"
    );
    assert!(
        found.contains("/var/lib/dpkg/status.d/nftables"),
        "{found:?}"
    );
}

/// Files with mode, time and content, in order.
fn walk(root: &Path) -> Vec<(String, u32, i64, Vec<u8>)> {
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            if about.is_dir() {
                folders.push(path);
            } else {
                let name = format!("/{}", path.strip_prefix(root).unwrap().display());
                files.push((
                    name,
                    about.permissions().mode(),
                    about.mtime(),
                    std::fs::read(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}
