//! Annotations as one document: `weft.dev/retry.attempts: "3"` sets the node at `retry.attempts` (POLICY.md, "How it is written").
//!
//! The value of an annotation is YAML. One leaf that two annotations of an object set is an error, for nobody could say which holds.

use crate::node::{Kind, Node};
use crate::problem::{PREFIX, Problem, shown};
use crate::short;

/// Makes one document of those `annotations` that are ours; the others are nobody's business here.
///
/// # Errors
/// All that is no YAML, is no path, or is set twice. What the keys mean is not looked at.
pub(crate) fn document<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Node, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut trees: Vec<(&str, Node)> = Vec::new();
    for (path, value) in annotations.into_iter().filter_map(ours) {
        match tree(path, value) {
            Ok(tree) => trees.push((path, tree)),
            Err(problem) => problems.push(problem),
        }
    }
    let mut joined = joined(&trees);
    if joined.is_err() {
        // `retry: 3` and `retry.budget: 10%` say parts of one map. Written out only where it must be, for problems
        // name what was written.
        for (_, tree) in &mut trees {
            *tree = short::expanded(std::mem::replace(tree, Node::text("")));
        }
        joined = self::joined(&trees);
    }
    match joined {
        Ok(document) if problems.is_empty() => Ok(document),
        Ok(_) => Err(problems),
        Err(clashes) => {
            problems.extend(clashes);
            Err(problems)
        }
    }
}

/// All trees as one document.
fn joined(trees: &[(&str, Node)]) -> Result<Node, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut document = Node::map(Vec::new());
    for (index, (path, tree)) in trees.iter().enumerate() {
        let mut clashes = Vec::new();
        join(&mut document, tree, &mut Vec::new(), &mut clashes);
        let before = trees.get(..index).unwrap_or_default();
        problems.extend(clashes.iter().map(|clash| twice(path, clash, before)));
    }
    match problems.is_empty() {
        true => Ok(document),
        false => Err(problems),
    }
}

/// The path of a policy's annotation; what the injector notes beside it is none.
fn ours<'a>((name, value): (&'a str, &'a str)) -> Option<(&'a str, &'a str)> {
    let is_note = name == INJECTED || name == LOWER_LAYERS;
    (!is_note).then_some((name.strip_prefix(PREFIX)?, value))
}

/// One annotation as a document.
fn tree(path: &str, value: &str) -> Result<Node, Problem> {
    let problem = |reason: String| Problem {
        path: shown(path),
        value: None,
        reason,
        line: 0,
    };
    let node = read(value).map_err(|error| problem(format!("{} ({error})", shown_value(value))))?;
    if path == WHOLE {
        return match node.kind {
            Kind::Map(_) => Ok(node),
            _ => Err(problem(format!("is {}, not a map of keys", node.noun()))),
        };
    }
    let segments: Vec<&str> = path.split('.').collect();
    if segments.len() > MAX_SEGMENTS || segments.iter().any(|segment| segment.is_empty()) {
        let reason = "is not a path of keys with dots between them, like retry.attempts";
        return Err(problem(reason.to_owned()));
    }
    let nest = |node, segment: &str| Node::map(vec![(segment.to_owned(), node)]);
    Ok(segments.into_iter().rev().fold(node, nest))
}

fn read(value: &str) -> Result<Node, crate::node::NodeError> {
    let text = value.trim();
    // YAML's sign for an alias, which nothing here has, is the policy's word for anyone.
    if text.starts_with('*') && !text.contains('\n') {
        return Ok(Node::text(text));
    }
    match Node::parse_all(value)?.len() {
        // `weft.dev/timeout: ""` says nothing, which no key takes.
        0 => Ok(Node::text("")),
        _ => Node::parse(value),
    }
}

fn shown_value(value: &str) -> String {
    format!("{:?} is not YAML", shown(value))
}

/// Puts `tree` into `document`; where both say something, its path goes into `clashes`.
fn join(document: &mut Node, tree: &Node, path: &mut Vec<String>, clashes: &mut Vec<Vec<String>>) {
    match (&mut document.kind, &tree.kind) {
        (Kind::Map(into), Kind::Map(entries)) => {
            for (key, node) in entries {
                path.push(key.clone());
                match into.iter_mut().find(|(name, _)| name == key) {
                    Some((_, there)) => join(there, node, path, clashes),
                    None => into.push((key.clone(), node.clone())),
                }
                path.pop();
            }
        }
        _ => clashes.push(path.clone()),
    }
}

fn twice(path: &str, clash: &[String], trees: &[(&str, Node)]) -> Problem {
    let says = |node: &Node| {
        let mut node = Some(node);
        for key in clash {
            match node.map(|node| &node.kind) {
                Some(Kind::Map(_)) => node = node.and_then(|node| node.get(key)),
                // Something shorter than the clash says it all.
                Some(_) => return true,
                None => return false,
            }
        }
        node.is_some()
    };
    let other = trees.iter().find(|(_, tree)| says(tree));
    let other = other.map_or(path, |(path, _)| path);
    let reason = match other == path {
        true => "is there twice".to_owned(),
        false => format!(
            "is set twice, by {PREFIX}{} and by {PREFIX}{}; keep one",
            shown(other),
            shown(path)
        ),
    };
    Problem {
        path: clash.join("."),
        value: None,
        reason,
        line: 0,
    }
}

/// On an injected pod: the version that did it.
pub const INJECTED: &str = "weft.dev/injected";
/// On an injected pod: what lay under its own policy then, as [`crate::layer::snapshot`] writes it.
pub const LOWER_LAYERS: &str = "weft.dev/lower-layers";
/// The annotation that has the whole document.
const WHOLE: &str = "policy";
/// As deep as a document may be nested.
const MAX_SEGMENTS: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(annotations: &[(&str, &str)]) -> Result<String, Vec<String>> {
        let read = document(annotations.iter().copied());
        read.map(|node| node.to_string())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn annotations_become_one_document() {
        let rows: &[(&[(&str, &str)], &str)] = &[
            (&[], "{}"),
            (&[("app.kubernetes.io/name", "orders")], "{}"),
            (&[(INJECTED, "0.1.0"), (LOWER_LAYERS, "[]")], "{}"),
            (
                &[("weft.dev/retry.attempts", "3")],
                "{retry: {attempts: 3}}",
            ),
            (
                &[("weft.dev/retry", "{attempts: 3}")],
                "{retry: {attempts: 3}}",
            ),
            (&[("weft.dev/retry", "3")], "{retry: 3}"),
            (&[("weft.dev/policy", "retry: 3\n")], "{retry: 3}"),
            (
                &[("weft.dev/retry", "3"), ("weft.dev/retry.budget", "10%")],
                "{retry: {attempts: 3, budget: {share: 10%}}}",
            ),
            (
                &[("weft.dev/to.orders.timeout", "1s")],
                "{to: {orders: {timeout: 1s}}}",
            ),
            (
                &[("weft.dev/headers.request.set.x-a", "b c")],
                "{headers: {request: {set: {x-a: \"b c\"}}}}",
            ),
            (&[("weft.dev/allow", "*")], "{allow: \"*\"}"),
            (
                &[("weft.dev/allow", "web, shop/x")],
                "{allow: \"web, shop/x\"}",
            ),
            (&[("weft.dev/timeout", "null")], "{timeout: null}"),
        ];
        for (annotations, want) in rows {
            assert_eq!(told(annotations).as_deref(), Ok(*want), "{annotations:?}");
        }
    }

    #[test]
    fn what_is_no_document_is_named() {
        let rows: &[(&[(&str, &str)], &str)] = &[
            (
                &[("weft.dev/retry", "3"), ("weft.dev/retry.attempts", "2")],
                "weft.dev/retry.attempts: is set twice, by weft.dev/retry and by weft.dev/retry.attempts; keep one",
            ),
            (
                &[
                    ("weft.dev/mtls", "strict"),
                    ("weft.dev/policy", "mtls: permissive"),
                ],
                "weft.dev/mtls: is set twice, by weft.dev/mtls and by weft.dev/policy; keep one",
            ),
            (
                &[("weft.dev/allow", "web"), ("weft.dev/allow.from", "web")],
                "weft.dev/allow: is set twice, by weft.dev/allow and by weft.dev/allow.from; keep one",
            ),
            (
                &[("weft.dev/retry..attempts", "3")],
                "weft.dev/retry..attempts: is not a path of keys with dots between them, like retry.attempts",
            ),
            (
                &[("weft.dev/policy", "strict")],
                "weft.dev/policy: is text, not a map of keys",
            ),
        ];
        for (annotations, want) in rows {
            assert_eq!(told(annotations), Err(vec![(*want).to_owned()]));
        }
        let problems = told(&[("weft.dev/retry", "{a: [}")]).unwrap_err();
        assert!(
            problems[0].starts_with("weft.dev/retry: \"{a: [}\" is not YAML ("),
            "{problems:?}"
        );
    }
}
