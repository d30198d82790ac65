use super::*;

#[test]
fn a_pattern_takes_whole_segments() {
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("/a", &["/a"], &["/a/", "/ab", "/", "", "/A"]),
        ("/a/", &["/a/"], &["/a", "/a/b"]),
        ("/", &["/"], &["", "//", "/a"]),
        (
            "/a/*",
            &["/a", "/a/", "/a/b", "/a/b/c", "/a//b"],
            &["/ab", "/", "/A/b", "a/b"],
        ),
        ("/*", &["/", "/a", "/a/b", "//"], &["", "*"]),
        (
            "/users/{id}",
            &["/users/7", "/users/%2F"],
            &["/users/", "/users", "/users/7/", "/users/7/a"],
        ),
        (
            "/users/{id}/*",
            &["/users/7", "/users/7/", "/users/7/a/b"],
            &["/users/", "/users", "/users//a"],
        ),
        (
            "/api/*/x",
            &["/api/v1/x"],
            &["/api//x", "/api/x", "/api/v1/v2/x", "/api/v1/x/"],
        ),
        ("/*/*", &["/a", "/a/b"], &["/", "//"]),
        ("/%7Euser/a%2fb", &["/~user/a%2Fb"], &["/%7Euser/a%2fb"]),
        ("/用户", &["/%E7%94%A8%E6%88%B7"], &["/用户"]),
        (
            "regex:/a|/b",
            &["/a", "/b"],
            &["/a/b", "x/b", "/ab", "/a\n"],
        ),
        (r"regex:/v\d+/.*", &["/v1/", "/v12/x"], &["/v/x", "/v١/x"]),
        ("regex:(?i)/admin", &["/ADMIN"], &["/admins"]),
    ];
    for (text, fit, others) in rows {
        let pattern = PathPattern::parse(text).unwrap();
        for path in *fit {
            assert!(pattern.matches(path), "{text} takes {path}");
            assert!(pattern.captures(path).is_some(), "{text} takes {path}");
        }
        for path in *others {
            assert!(!pattern.matches(path), "{text} leaves {path}");
            assert!(pattern.captures(path).is_none(), "{text} leaves {path}");
        }
    }
}

#[test]
fn wildcards_give_back_what_they_took() {
    type Parts = &'static [(Option<&'static str>, &'static str)];
    let rows: &[(&str, &str, Parts)] = &[
        ("/a", "/a", &[]),
        ("/api/user/*", "/api/user/7/x", &[(None, "7/x")]),
        ("/api/user/*", "/api/user", &[(None, "")]),
        (
            "/{a}/*/{b}",
            "/1/2/3",
            &[(Some("a"), "1"), (None, "2"), (Some("b"), "3")],
        ),
        (
            r"regex:/(\w+)/(?<id>\d+)(x)?",
            "/u/7",
            &[(None, "u"), (Some("id"), "7"), (None, "")],
        ),
    ];
    for (text, path, want) in rows {
        let pattern = PathPattern::parse(text).unwrap();
        assert_eq!(
            pattern.captures(path).unwrap().parts,
            *want,
            "{text} {path}"
        );
    }
}

#[test]
fn what_can_never_match_is_refused() {
    let rows = [
        ("", "does not begin with a slash"),
        ("*", "all paths are"),
        ("a", "does not begin with a slash"),
        ("/a?b=1", "without its query"),
        ("/a/../b", "dot segment"),
        ("/a b", "space"),
        ("/a\\b", "backslash"),
        ("/a*", "whole segment"),
        ("/a/x{id}", "whole segment"),
        ("/{}", "whole segment"),
        ("/{a}/{a}", "twice"),
        ("regex:(", "no regular expression"),
        ("regex:/a)|(/b", "no regular expression"),
        (r"regex:(a)\1", "no regular expression"),
        ("regex:((a{100}){100}){100}", "too large"),
    ];
    for (text, want) in rows {
        let reason = PathPattern::parse(text).unwrap_err().to_string();
        assert!(reason.contains(want), "{text}: {reason}");
    }
}

#[test]
fn placeholders_are_found_in_what_is_sent() {
    let rows: &[(&str, &[&str])] = &[
        ("/a", &[]),
        ("/$1", &["$1"]),
        ("/$1/{id}-$12", &["$1", "{id}", "$12"]),
        ("/a$/{", &[]),
    ];
    for (text, want) in rows {
        assert_eq!(placeholders(text).collect::<Vec<_>>(), *want, "{text}");
    }
}
