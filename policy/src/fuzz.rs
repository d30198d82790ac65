//! Doors for `fuzz/`: what an operator's bytes may never do, and the laws that hold for any of them.
//!
//! Built for tests and fuzzing only.

use crate::Policy;
use crate::downward;
use crate::layer::{Effective, Layer, LayerKind};
use crate::node::Node;
use crate::problem::Problem;
use crate::scope::Scope;
use crate::spiffe::TrustDomain;

/// Documents: what is read can be written and read again, and says the same.
///
/// # Panics
/// If a law is broken.
pub fn policy(bytes: &[u8]) {
    let (Ok(text), Some(scope)) = (std::str::from_utf8(bytes), scope()) else {
        return;
    };
    let policy = Policy::parse(text, &scope);
    if let Err(problems) = &policy {
        told(problems);
    }
    let Ok(node) = Node::parse(text) else {
        assert!(policy.is_err(), "what is no YAML is no policy");
        return;
    };
    for written in [node.json(), node.to_string()] {
        assert_eq!(Node::parse(&written).as_ref(), Ok(&node), "{written}");
        assert_eq!(
            Policy::parse(&written, &scope).ok(),
            policy.as_ref().ok().cloned(),
            "{written}"
        );
    }
    for kind in [LayerKind::Pod, LayerKind::Service] {
        layer(
            Layer::from_document(kind, "shop/orders", text, &scope),
            &scope,
        );
    }
}

/// A downward-API volume: its annotations are a layer, or what is wrong with them is told.
///
/// # Panics
/// If a law is broken.
pub fn annotations(bytes: &[u8]) {
    let (Ok(text), Some(scope)) = (std::str::from_utf8(bytes), scope()) else {
        return;
    };
    let Ok(annotations) = downward::parse(text) else {
        return;
    };
    let pairs = || {
        annotations
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    };
    let object = "shop/orders";
    layer(
        Layer::from_annotations(LayerKind::Pod, object, pairs(), &scope),
        &scope,
    );
    // In which order an object's annotations are read says nothing.
    let (one, other) = (
        Layer::from_annotations(LayerKind::Pod, object, pairs(), &scope),
        Layer::from_annotations(LayerKind::Pod, object, pairs().rev(), &scope),
    );
    assert_eq!(one.ok(), other.ok());
}

/// A layer can be sent to another proxy, and means there what it means here.
fn layer(layer: Result<Layer, Vec<Problem>>, scope: &Scope) {
    let layer = match layer {
        Ok(layer) => layer,
        Err(problems) => return told(&problems),
    };
    let sent = Layer::from_document(layer.kind, layer.object.as_str(), &layer.json(), scope);
    assert_eq!(sent.as_ref(), Ok(&layer));
    match Effective::merge(std::slice::from_ref(&layer), scope) {
        Err(problems) => told(&problems),
        Ok(merged) => {
            // Twice the same is the same, but that `deny` adds up.
            let again = Effective::merge(&[layer.clone(), layer], scope);
            let calls = again.map(|again| again.policy.calls);
            assert_eq!(calls, Ok(merged.policy.calls));
        }
    }
}

/// A problem is one line that fits into a log.
fn told(problems: &[Problem]) {
    assert!(!problems.is_empty(), "refused without a reason");
    for problem in problems {
        let line = problem.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(
            line.len() <= LONGEST,
            "a problem of {} bytes: {line}",
            line.len()
        );
    }
}

fn scope() -> Option<Scope> {
    Some(Scope {
        trust_domain: TrustDomain::parse("cluster.local").ok()?,
        namespace: "shop".to_owned(),
    })
}

/// Bytes that a problem may have: a path, a value and a reason, each shown in part if it is long.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    /// What a fuzzer has found is put among the seeds, and so stays found.
    #[test]
    fn every_seed_keeps_the_laws() {
        let targets: [(_, Target); 2] = [("annotations", annotations), ("policy", policy)];
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
        for (name, target) in targets {
            let mut found = 0;
            for seed in std::fs::read_dir(seeds.join(name)).unwrap() {
                let path = seed.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                let kept = catch_unwind(|| {
                    (0..=bytes.len()).for_each(|end| target(&bytes[..end]));
                });
                assert!(kept.is_ok(), "{}", path.display());
                found += 1;
            }
            assert!(found > 0, "{name} has no seed");
        }
    }
}
