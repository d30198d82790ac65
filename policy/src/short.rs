//! Short forms written out: `retry: 3` is `retry: {attempts: 3}`, so that two places can say parts of one map.
//!
//! Only what layers and annotations can join is written out, maps in maps; what stands in a list is replaced with the list.

use crate::node::{Kind, Node};

/// The same document without short forms of maps.
pub(crate) fn expanded(document: Node) -> Node {
    let mut document = document;
    for (key, node) in entries(&mut document) {
        match key.as_str() {
            "to" => entries(node).for_each(|(_, calls)| expand_calls(calls)),
            "ports" => entries(node).for_each(|(_, port)| expand(port, "protocol")),
            "trace" => expand(node, "sample"),
            "log" => expand(node, "access"),
            key => expand_call(key, node),
        }
    }
    document
}

fn expand_calls(calls: &mut Node) {
    entries(calls).for_each(|(key, node)| expand_call(key, node));
}

/// The keys of the callers' side.
fn expand_call(key: &str, node: &mut Node) {
    match key {
        "timeout" => expand(node, "request"),
        "breaker" => expand(node, "ratio"),
        "balance" => expand(node, "algorithm"),
        "fallback" => expand(node, "body"),
        "retry" => {
            expand(node, "attempts");
            for (key, node) in entries(node) {
                match key.as_str() {
                    "backoff" => expand(node, "base"),
                    "budget" => expand(node, "share"),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn expand(node: &mut Node, key: &str) {
    if let Kind::Text(text) = &node.kind {
        let value = Node {
            kind: Kind::Text(text.clone()),
            line: node.line,
        };
        node.kind = Kind::Map(vec![(key.to_owned(), value)]);
    }
}

fn entries(node: &mut Node) -> impl Iterator<Item = (&String, &mut Node)> {
    let entries = match &mut node.kind {
        Kind::Map(entries) => entries.as_mut_slice(),
        Kind::Null | Kind::Text(_) | Kind::List(_) => &mut [],
    };
    entries.iter_mut().map(|(key, node)| (&*key, node))
}
