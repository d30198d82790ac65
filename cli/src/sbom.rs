//! `weft sbom`: what the programs of this version were built from, as a CycloneDX document (version 1.6, ECMA-424).
//!
//! It is made of the lock file, which is built in. The same lock file gives the same document to the byte: there is neither a time nor a
//! random number in it. A lock file does not tell what only tests need, so those packages are in it too.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// One package of the lock file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    /// Nothing for our own.
    source: Option<&'a str>,
    checksum: Option<&'a str>,
    /// A name, or name and version where there are several.
    dependencies: Vec<&'a str>,
}

/// The document.
///
/// # Errors
/// None that a test has not found.
pub(crate) fn cyclone_dx() -> anyhow::Result<String> {
    let packages = packages(include_str!("../../Cargo.lock"))?;
    let by_name = by_name(&packages);
    let components: Vec<Value> = packages.iter().map(component).collect();
    let dependencies: Result<Vec<Value>, _> = packages
        .iter()
        .map(|one| dependency(one, &by_name))
        .collect();
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "bom-ref": "weft", "name": "weft", "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{"license": {"id": "Apache-2.0"}}],
        }},
        "components": components,
        "dependencies": dependencies?,
    });
    Ok(format!("{document:#}\n"))
}

fn component(package: &Package<'_>) -> Value {
    let mut component = json!({
        "type": "library", "bom-ref": reference(package), "name": package.name, "version": package.version, "purl": reference(package),
    });
    if let (Value::Object(map), Some(checksum)) = (&mut component, package.checksum) {
        map.insert(
            "hashes".to_owned(),
            json!([{"alg": "SHA-256", "content": checksum}]),
        );
    }
    component
}

/// A package URL, which also names it within the document.
fn reference(package: &Package<'_>) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

type ByName<'a> = BTreeMap<&'a str, Vec<&'a Package<'a>>>;

fn by_name<'a>(packages: &'a [Package<'a>]) -> ByName<'a> {
    let mut all = ByName::new();
    for package in packages {
        all.entry(package.name).or_default().push(package);
    }
    all
}

fn dependency(package: &Package<'_>, by_name: &ByName<'_>) -> anyhow::Result<Value> {
    let mut on = Vec::new();
    for wanted in &package.dependencies {
        let mut words = wanted.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let mut found = by_name.get(name).into_iter().flatten();
        let found = found.find(|one| version.is_none_or(|version| one.version == version));
        on.push(reference(found.with_context(|| {
            format!("find {wanted}, which {} needs", package.name)
        })?));
    }
    Ok(json!({"ref": reference(package), "dependsOn": on}))
}

/// Reads a lock file as Cargo writes it, which is less than TOML: tables `[[package]]` of texts and one list.
fn packages(text: &str) -> anyhow::Result<Vec<Package<'_>>> {
    let tables = text.split("[[package]]").skip(1);
    let packages: Vec<Package<'_>> = tables.map(package).collect();
    for package in &packages {
        ensure!(
            !package.name.is_empty() && !package.version.is_empty(),
            "a package without a name or a version"
        );
    }
    Ok(packages)
}

fn package(table: &str) -> Package<'_> {
    let mut package = Package::default();
    for line in table.lines() {
        match line.split_once(" = ") {
            Some(("name", value)) => package.name = unquoted(value),
            Some(("version", value)) => package.version = unquoted(value),
            Some(("source", value)) => package.source = Some(unquoted(value)),
            Some(("checksum", value)) => package.checksum = Some(unquoted(value)),
            None if line.starts_with(" \"") => package
                .dependencies
                .push(unquoted(line.trim().trim_end_matches(','))),
            _ => {}
        }
    }
    package
}

fn unquoted(value: &str) -> &str {
    value.trim().trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\nchecksum = \"00ff\"\n\
        dependencies = [\n \"b\",\n \"c 2.0.0\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";

    #[test]
    fn a_lock_file_is_read_as_cargo_writes_it() {
        let a = Package {
            name: "a",
            version: "1.0.0",
            source: Some("registry+x"),
            checksum: Some("00ff"),
            dependencies: vec!["b", "c 2.0.0"],
        };
        let b = Package {
            name: "b",
            version: "0.1.0",
            ..Package::default()
        };
        assert_eq!(packages(LOCK).unwrap(), [a, b]);
    }

    #[test]
    fn every_package_is_in_it_once_and_what_it_needs_too() {
        let document: Value = serde_json::from_str(&cyclone_dx().unwrap()).unwrap();
        let components = document["components"].as_array().unwrap();
        let mut references: Vec<&str> = components
            .iter()
            .map(|one| one["bom-ref"].as_str().unwrap())
            .collect();
        let lines = include_str!("../../Cargo.lock")
            .lines()
            .filter(|line| *line == "[[package]]");
        assert_eq!(references.len(), lines.count());
        references.sort_unstable();
        references.dedup();
        assert_eq!(references.len(), components.len());
        for name in [
            "pkg:cargo/weft-proxy@",
            "pkg:cargo/rustls@",
            "pkg:cargo/tokio@",
        ] {
            assert!(references.iter().any(|one| one.starts_with(name)), "{name}");
        }
        for dependency in document["dependencies"].as_array().unwrap() {
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(
                    references.binary_search(&on.as_str().unwrap()).is_ok(),
                    "{on}"
                );
            }
        }
        // From a registry means with a checksum.
        let hashed = components
            .iter()
            .filter(|one| one.get("hashes").is_some())
            .count();
        let ours = components
            .iter()
            .filter(|one| one["name"].as_str().unwrap().starts_with("weft-"))
            .count();
        assert_eq!(hashed + ours, components.len());
    }

    #[test]
    fn it_is_the_same_each_time() {
        assert_eq!(cyclone_dx().unwrap(), cyclone_dx().unwrap());
    }
}
