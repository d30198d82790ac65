use super::*;

#[test]
fn scalars_stay_as_they_were_written() {
    let rows = [
        ("0x10", "0x10"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("1e3", "1e3"),
        ("off", "off"),
        ("\"a\\tb\"", "a\tb"),
        ("'null'", "null"),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("降级", "降级"),
    ];
    for (yaml, want) in rows {
        let node = Node::parse(&format!("a: {yaml}")).unwrap();
        assert_eq!(node.get("a").and_then(Node::as_text), Some(want), "{yaml}");
    }
}

#[test]
fn what_hides_or_multiplies_is_refused() {
    let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
    let wide = format!("a: [{}]", "1,".repeat(200_000));
    let long = "a".repeat(MAX_BYTES + 1);
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]";
    let rows = [
        (bomb, "anchors and aliases"),
        ("a: &x 1", "anchors and aliases"),
        ("a: *x", "in quotes"),
        ("a: *", "in quotes"),
        ("a: !!str x", "tags"),
        ("a: 1\na: 2", "twice"),
        ("{a: 1, 'a': 2}", "twice"),
        ("? [a]\n: b", "key must be text"),
        ("a: \"x\\u202ey\"", "U+202E"),
        ("a\u{200b}: 1", "U+200B"),
        ("a: \"\\0\"", "U+0000"),
        ("%YAML 1.1\n---\na: 1", "irective"),
        ("---\na: 1\n---\nb: 1", "more than one document"),
        ("a: [", ""),
        (&deep, "deeper"),
        (&wide, "more than"),
        (&long, "longer"),
    ];
    for (text, want) in rows {
        let reason = Node::parse(text).unwrap_err().to_string();
        assert!(reason.contains(want), "{:.40}: {reason}", text);
    }
}

#[test]
fn an_error_names_its_line() {
    assert_eq!(Node::parse("a: 1\nb: 2\na: 3").unwrap_err().line, 3);
    assert_eq!(
        Node::parse("a: 1\nb:\n  c: 3")
            .unwrap()
            .get("b")
            .unwrap()
            .get("c")
            .unwrap()
            .line,
        3
    );
}

#[test]
fn printing_a_node_and_parsing_it_are_inverse() {
    let rows = [
        "a: 1",
        "{a: [x, \"null\", null, \"- \", \"*\", \"a: b\", \"\"], b: {}, c: []}",
        "a: |\n  line\n  \"quoted\" \\ tab\t\n",
        "a: 用户 {name}",
    ];
    for text in rows {
        let node = Node::parse(text).unwrap();
        assert_eq!(Node::parse(&node.to_string()).as_ref(), Ok(&node), "{node}");
    }
}
