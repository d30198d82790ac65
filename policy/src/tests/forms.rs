//! The same thing written in every way that POLICY.md lets it be written, from random parts of the table of keys.

use proptest::prelude::*;

use super::scope;
use crate::Policy;
use crate::keys::KEYS;
use crate::layer::{Effective, Layer, LayerKind};
use crate::node::{Kind, Node};
use crate::{annotations, short};

/// Some examples of the table as one document; of two that cannot stand together, the first.
fn documents() -> impl Strategy<Value = Node> {
    let examples: Vec<&str> = KEYS.iter().map(|key| key.example).collect();
    let some = proptest::sample::subsequence(examples, 0..=12).prop_shuffle();
    some.prop_map(|examples| {
        let nodes = examples.iter().map(|text| Node::parse(text).unwrap());
        nodes.fold(Node::map(Vec::new()), |document, example| {
            let joined = joined(&document, &example);
            let good = |node: &Node| Policy::parse(&node.json(), &scope()).is_ok();
            joined.filter(good).unwrap_or(document)
        })
    })
}

/// Both maps as one, if no leaf is in both.
fn joined(one: &Node, other: &Node) -> Option<Node> {
    let (Kind::Map(one), Kind::Map(other)) = (&one.kind, &other.kind) else {
        return None;
    };
    let mut all = one.clone();
    for (key, node) in other {
        match all.iter_mut().find(|(name, _)| name == key) {
            Some((_, there)) => *there = joined(there, node)?,
            None => all.push((key.clone(), node.clone())),
        }
    }
    Some(Node::map(all))
}

/// Annotations that say `document`: at each map, `whole` decides whether it is one value or one for each of its keys.
fn written(document: &Node, whole: &mut impl FnMut() -> bool) -> Vec<(String, String)> {
    let mut annotations = Vec::new();
    let Kind::Map(entries) = &document.kind else {
        return annotations;
    };
    let mut open: Vec<(String, &Node)> = entries
        .iter()
        .map(|(key, node)| (format!("weft.dev/{key}"), node))
        .collect();
    while let Some((path, node)) = open.pop() {
        match &node.kind {
            Kind::Map(entries) if can_be_cut(entries) && !whole() => {
                let inner = entries.iter();
                open.extend(inner.map(|(key, node)| (format!("{path}.{key}"), node)));
            }
            Kind::Text(text) if plain(text) && !whole() => annotations.push((path, text.clone())),
            _ => annotations.push((path, node.json())),
        }
    }
    annotations
}

/// Whether the keys can be segments of a path. An empty map has none to say that it is there.
fn can_be_cut(entries: &[(String, Node)]) -> bool {
    !entries.is_empty() && entries.iter().all(|(key, _)| !key.contains(['.', '/']))
}

/// Whether YAML reads it as the same text without quotes.
fn plain(text: &str) -> bool {
    matches!(Node::parse_all(text).as_deref(), Ok([node]) if node.as_text() == Some(text))
}

fn annotated(annotations: &[(String, String)]) -> Policy {
    let pairs = annotations
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let layer = Layer::from_annotations(LayerKind::Pod, "shop/orders", pairs, &scope());
    effective(&[layer.unwrap_or_else(|problems| panic!("{}\n{annotations:?}", problems[0]))])
}

fn effective(layers: &[Layer]) -> Policy {
    let merged = Effective::merge(layers, &scope());
    merged
        .unwrap_or_else(|problems| panic!("{}", problems[0]))
        .policy
}

proptest! {
    #[test]
    fn every_way_to_write_it_gives_the_same_value(document in documents(), bits: u128, part: u32) {
        let scope = scope();
        let want = Policy::parse(&document.to_string(), &scope).unwrap();
        let of = |text: &str| Policy::parse(text, &scope).unwrap();
        prop_assert_eq!(&of(&document.json()), &want, "as JSON");
        let long = short::expanded(document.clone());
        prop_assert_eq!(&of(&long.to_string()), &want, "without short forms");

        let policy = vec![("weft.dev/policy".to_owned(), document.to_string())];
        prop_assert_eq!(&annotated(&policy), &want, "as one annotation");
        for document in [&document, &long] {
            prop_assert_eq!(&annotated(&written(document, &mut || true)), &want, "a key an annotation");
            prop_assert_eq!(&annotated(&written(document, &mut || false)), &want, "a leaf an annotation");
            let mut bit = 0;
            let mixed = written(document, &mut || {
                bit += 1;
                bits.checked_shr(bit).is_some_and(|bits| bits & 1 == 1)
            });
            prop_assert_eq!(&annotated(&mixed), &want, "{:?}", mixed);

            // The same leaves said by two objects.
            let (mut upper, mut lower) = (Vec::new(), Vec::new());
            for (index, annotation) in mixed.into_iter().enumerate() {
                let side = part.rotate_right(u32::try_from(index).unwrap()) & 1;
                [&mut upper, &mut lower][usize::from(side == 1)].push(annotation);
            }
            let layers: Vec<Layer> = [(LayerKind::Namespace, upper), (LayerKind::Pod, lower)]
                .into_iter()
                .map(|(kind, said)| {
                    let said = said.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                    Layer::from_annotations(kind, "shop", said, &scope)
                })
                .collect::<Result<_, _>>()
                .unwrap_or_else(|problems| panic!("{}", problems[0]));
            prop_assert_eq!(&effective(&layers), &want, "from two objects");
        }
        prop_assert_eq!(annotations::document([("weft.dev/policy", &*document.json())]), Ok(document));
    }
}
