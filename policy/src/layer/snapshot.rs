//! Layers as one text: what the injector leaves with a pod of what lay under the pod's own policy, for a proxy that starts while the
//! control plane is away.

use super::{Layer, LayerKind};
use crate::node::{Kind, Node};
use crate::problem::Problem;
use crate::scope::Scope;

/// Writes `layers`, the weakest first.
#[must_use]
pub fn write(layers: &[Layer]) -> String {
    let said = layers.iter().filter(|layer| !layer.is_empty());
    let item = |layer: &Layer| {
        Node::map(vec![
            ("kind".to_owned(), Node::text(layer.kind.as_str())),
            ("object".to_owned(), Node::text(layer.object.as_str())),
            ("document".to_owned(), layer.document.clone()),
        ])
    };
    let kind = Kind::List(said.map(item).collect());
    Node { kind, line: 0 }.json()
}

/// Reads what [`write()`] wrote. A kind that is not known is of a newer injector, and left out.
///
/// # Errors
/// All that is wrong with it.
pub fn read(text: &str, scope: &Scope) -> Result<Vec<Layer>, Vec<Problem>> {
    let node = Node::parse(text).map_err(|error| vec![Problem::of_text(&error)])?;
    let Kind::List(items) = node.kind else {
        return Err(vec![unreadable()]);
    };
    let layer = |item: &Node| {
        let text = |key| item.get(key).and_then(Node::as_text);
        let (Some(kind), Some(object)) = (text("kind"), text("object")) else {
            return Some(Err(vec![unreadable()]));
        };
        let kind = LayerKind::parse(kind)?;
        let document = item.get("document").cloned();
        let document = document.unwrap_or_else(|| Node::map(Vec::new()));
        Some(Layer::new(kind, object.to_owned(), document, scope))
    };
    items.iter().filter_map(layer).collect()
}

fn unreadable() -> Problem {
    Problem {
        path: "lower-layers".to_owned(),
        value: None,
        reason: "is not what the injector writes".to_owned(),
        line: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scope;

    #[test]
    fn layers_come_back_as_they_were() {
        let layer =
            |kind, object: &str, text| Layer::from_document(kind, object, text, &scope()).unwrap();
        let layers = [
            layer(
                LayerKind::Mesh,
                "weft-system/weft-defaults",
                "retry: 3\nfallback: \"a \\\"b\\\"\\n\"",
            ),
            layer(
                LayerKind::Namespace,
                "shop",
                "mtls: strict\ndeny: [{paths: [/a/*]}]",
            ),
        ];
        let text = write(&layers);
        assert_eq!(read(&text, &scope()).unwrap(), layers, "{text}");
        assert_eq!(write(&[layer(LayerKind::Mesh, "a", "{}")]), "[]");
    }

    #[test]
    fn what_is_none_is_refused_and_what_is_newer_left_out() {
        let newer = r#"[{"kind": "planet", "object": "a", "document": {}}]"#;
        assert_eq!(read(newer, &scope()), Ok(Vec::new()));
        for text in [
            "{}",
            "[1]",
            "[{kind: mesh}]",
            "[",
            "[{kind: mesh, object: a, document: {mtls: loose}}]",
        ] {
            assert!(read(text, &scope()).is_err(), "{text}");
        }
    }
}
