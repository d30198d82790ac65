//! Documents laid over one another, each value with the layer it came from.

use super::{Layer, Value};
use crate::node::{Kind, Node};
use crate::problem::{PREFIX, Problem};
use crate::secrets;

/// A document of which every leaf knows its layer.
#[derive(Debug, Default)]
pub(super) struct Merged {
    entries: Vec<(String, Entry)>,
    /// `deny` adds up.
    denied: Vec<(Node, usize)>,
}

#[derive(Debug)]
enum Entry {
    Leaf(Node, usize),
    Map(Vec<(String, Self)>),
}

impl Merged {
    /// Lays a document over what is there; the `layer` is its number.
    pub(super) fn lay(&mut self, document: &Node, layer: usize, problems: &mut Vec<Problem>) {
        let Kind::Map(entries) = &document.kind else {
            return;
        };
        let mut entries = entries.clone();
        if let Some(at) = entries.iter().position(|(key, _)| key == DENY) {
            let (_, denied) = entries.swap_remove(at);
            let items = items(denied).into_iter();
            self.denied.extend(items.map(|item| (item, layer)));
        }
        self.keep_strict(&mut entries, problems);
        lay(&mut self.entries, &entries, layer);
    }

    /// Takes out what would weaken `mtls: strict`.
    fn keep_strict(&self, entries: &mut Vec<(String, Node)>, problems: &mut Vec<Problem>) {
        let strict = is_strict(find(&self.entries, MTLS));
        let mut refuse = |path: String| {
            let reason = format!(
                "is strict by a layer below; no layer above takes that back. Write {PREFIX}{path}: permissive there, or nothing here"
            );
            problems.push(Problem {
                path,
                value: None,
                reason,
                line: 0,
            });
        };
        entries.retain(|(key, node)| {
            let weakens = key == MTLS && strict && node.as_text() != Some(STRICT);
            if weakens {
                refuse(MTLS.to_owned());
            }
            !weakens
        });
        let known = match find(&self.entries, PORTS) {
            Some(Entry::Map(ports)) => ports.as_slice(),
            _ => &[],
        };
        let secured = |port: &str| match find(known, port) {
            Some(Entry::Map(keys)) => find(keys, MTLS).map_or(strict, |mtls| is_strict(Some(mtls))),
            _ => strict,
        };
        for (_, node) in entries.iter_mut().filter(|(key, _)| key == PORTS) {
            // `null` takes back what is known of every port.
            if matches!(node.kind, Kind::Null) {
                let null = || Node {
                    kind: Kind::Null,
                    line: node.line,
                };
                let taken_back = known.iter().map(|(port, _)| (port.clone(), null()));
                node.kind = Kind::Map(taken_back.collect());
            }
            let Kind::Map(ports) = &mut node.kind else {
                continue;
            };
            for (port, node) in ports {
                let said = find(known, port).is_some_and(says_strict);
                if keeps_port_strict(node, said || secured(port), said) {
                    refuse(format!("{PORTS}.{port}.{MTLS}"));
                }
            }
        }
    }

    /// As one document.
    pub(super) fn node(&self) -> Node {
        let mut entries = nodes(&self.entries);
        if !self.denied.is_empty() {
            let items = self.denied.iter().map(|(node, _)| node.clone()).collect();
            let list = Node {
                kind: Kind::List(items),
                line: 0,
            };
            entries.push((DENY.to_owned(), list));
        }
        Node::map(entries)
    }

    /// The layer that the value under `key` is from; of a map, nothing.
    pub(super) fn layer_of(&self, key: &str) -> Option<usize> {
        match find(&self.entries, key)? {
            Entry::Leaf(_, layer) => Some(*layer),
            Entry::Map(_) => None,
        }
    }

    /// Every leaf, by path.
    pub(super) fn values(&self, layers: &[Layer]) -> Vec<Value> {
        let mut values = Vec::new();
        let mut tell = |path: String, node: &Node, layer: usize| {
            if let Some(layer) = layers.get(layer) {
                values.push(Value {
                    path,
                    value: node.to_string(),
                    layer: layer.kind,
                    object: layer.object.clone(),
                });
            }
        };
        walk(&self.entries, "", &mut tell);
        for (index, (node, layer)) in self.denied.iter().enumerate() {
            tell(
                format!("{DENY}[{index}]"),
                &without_secrets(node, false),
                *layer,
            );
        }
        values.sort_by(|left, right| left.path.cmp(&right.path));
        values
    }
}

fn lay(into: &mut Vec<(String, Entry)>, entries: &[(String, Node)], layer: usize) {
    for (key, node) in entries {
        let there = into.iter().position(|(name, _)| name == key);
        match (&node.kind, there.and_then(|at| into.get_mut(at))) {
            (Kind::Null, None) => {}
            (Kind::Null, Some(_)) => {
                if let Some(at) = there {
                    drop(into.swap_remove(at));
                }
            }
            (Kind::Map(entries), Some((_, Entry::Map(below)))) => lay(below, entries, layer),
            (_, Some((_, below))) => *below = Entry::of(node, layer),
            (_, None) => into.push((key.clone(), Entry::of(node, layer))),
        }
    }
}

impl Entry {
    fn of(node: &Node, layer: usize) -> Self {
        match &node.kind {
            Kind::Map(entries) => {
                let mut below = Vec::new();
                lay(&mut below, entries, layer);
                Self::Map(below)
            }
            Kind::Null | Kind::Text(_) | Kind::List(_) => Self::Leaf(node.clone(), layer),
        }
    }
}

fn find<'a>(entries: &'a [(String, Entry)], key: &str) -> Option<&'a Entry> {
    let found = entries.iter().find(|(name, _)| name == key);
    found.map(|(_, entry)| entry)
}

/// Takes out of one port's `node` what would weaken it; tells whether there was anything. Where a layer below has `said` by itself
/// that it is strict, `null` for the port leaves that.
fn keeps_port_strict(node: &mut Node, secured: bool, said: bool) -> bool {
    match &mut node.kind {
        Kind::Map(keys) => {
            let before = keys.len();
            keys.retain(|(key, node)| key != MTLS || node.as_text() == Some(STRICT) || !secured);
            keys.len() < before
        }
        Kind::Null if said => {
            *node = Node::map(vec![(MTLS.to_owned(), Node::text(STRICT))]);
            true
        }
        Kind::Null | Kind::Text(_) | Kind::List(_) => false,
    }
}

fn says_strict(port: &Entry) -> bool {
    matches!(port, Entry::Map(keys) if is_strict(find(keys, MTLS)))
}

fn is_strict(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(Entry::Leaf(node, _)) if node.as_text() == Some(STRICT))
}

fn nodes(entries: &[(String, Entry)]) -> Vec<(String, Node)> {
    let node = |entry: &Entry| match entry {
        Entry::Leaf(node, _) => node.clone(),
        Entry::Map(entries) => Node::map(nodes(entries)),
    };
    let entries = entries.iter();
    entries
        .map(|(key, entry)| (key.clone(), node(entry)))
        .collect()
}

fn walk(entries: &[(String, Entry)], path: &str, tell: &mut impl FnMut(String, &Node, usize)) {
    for (key, entry) in entries {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        match entry {
            Entry::Leaf(_, layer) if is_secret(key, of_headers(&path)) => {
                tell(path, &masked(), *layer);
            }
            Entry::Leaf(node, layer) => {
                let node = without_secrets(node, of_headers(&path));
                tell(path, &node, *layer);
            }
            Entry::Map(entries) => walk(entries, &path, tell),
        }
    }
}

/// The rules of a `deny`, however it is written.
fn items(node: Node) -> Vec<Node> {
    match node.kind {
        Kind::Null => Vec::new(),
        Kind::List(items) => items,
        Kind::Map(_) => vec![node],
        Kind::Text(text) => {
            let words = text.split(',');
            words.map(|word| Node::text(word.trim())).collect()
        }
    }
}

/// The same, with nothing in it that opens anything. `headers`: its keys may be names of headers.
fn without_secrets(node: &Node, headers: bool) -> Node {
    let kind = match &node.kind {
        Kind::List(items) => Kind::List(
            items
                .iter()
                .map(|item| without_secrets(item, headers))
                .collect(),
        ),
        Kind::Map(entries) => {
            let told = |(key, node): &(String, Node)| match is_secret(key, headers) {
                true => (key.clone(), masked()),
                false => (
                    key.clone(),
                    without_secrets(node, headers || key == HEADERS),
                ),
            };
            Kind::Map(entries.iter().map(told).collect())
        }
        Kind::Null | Kind::Text(_) => node.kind.clone(),
    };
    Node {
        kind,
        line: node.line,
    }
}

/// Whether what stands at `path` is said of headers.
fn of_headers(path: &str) -> bool {
    path.split('.').any(|key| key == HEADERS)
}

/// Whether a key of the policy stands before a secret; `header`: it may be the name of a header that is set or looked for.
fn is_secret(key: &str, header: bool) -> bool {
    key.eq_ignore_ascii_case("secret") || (header && secrets::sounds_like_one(key))
}

fn masked() -> Node {
    Node::text("***")
}

const DENY: &str = "deny";
const MTLS: &str = "mtls";
const PORTS: &str = "ports";
const STRICT: &str = "strict";
const HEADERS: &str = "headers";
