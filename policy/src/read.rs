//! How the readers of all keys walk a document: a node, where it stands, and a place for what is wrong with it.
//!
//! A reader never stops at the first mistake: it reports, goes on with a default, and the whole is refused in the end.

use std::cell::RefCell;
use std::fmt::Display;

use crate::keys::LATER;
use crate::node::{Kind, Node};
use crate::problem::{Problem, nearest, shown};
use crate::scope::Scope;

/// What all readers of one document share.
pub(crate) struct Cx<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) part: Part,
    problems: RefCell<Vec<Problem>>,
}

/// How much of a document is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All layers: what is needed must be there.
    Whole,
    /// One layer: what is needed may stand in another one.
    Layer,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(scope: &'a Scope, part: Part) -> Self {
        Self {
            scope,
            part,
            problems: RefCell::default(),
        }
    }

    pub(crate) fn report(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        // The same node may be read twice, for a route has its service's values under its own.
        if problems.len() < MAX_PROBLEMS && !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A node and where it stands.
#[derive(Clone)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
    pub(crate) cx: &'a Cx<'a>,
}

impl<'a> At<'a> {
    pub(crate) fn scope(&self) -> &'a Scope {
        self.cx.scope
    }

    fn child(&self, path: String, node: &'a Node) -> Self {
        let cx = self.cx;
        Self { node, path, cx }
    }

    /// Says what is wrong with the value here.
    pub(crate) fn refuse(&self, reason: impl Display) {
        let value = match &self.node.kind {
            Kind::Text(text) => shown(text),
            Kind::Null | Kind::List(_) | Kind::Map(_) => return self.complain(reason),
        };
        self.report(Some(value), reason);
    }

    /// The same without showing the value: it is a secret, or long.
    pub(crate) fn complain(&self, reason: impl Display) {
        self.report(None, reason);
    }

    fn report(&self, value: Option<String>, reason: impl Display) {
        self.cx.report(Problem {
            path: self.path.clone(),
            value,
            reason: reason.to_string(),
            line: self.node.line,
        });
    }

    /// The text here; reports if it is something else.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) if text.is_empty() => {
                self.complain("has no value; write null to return to the default");
                None
            }
            Kind::Text(text) => Some(text),
            Kind::Null | Kind::List(_) | Kind::Map(_) => {
                self.complain(format!("is {}, not text", self.node.noun()));
                None
            }
        }
    }

    /// The value that `parse` makes of the text here; reports what it says against it.
    pub(crate) fn parse<T, E: Display>(
        &self,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.refuse(reason);
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        self.parse(|text| {
            let found = words.iter().find(|(word, _)| *word == text);
            let known = words.iter().map(|(word, _)| *word);
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| not_one_of(text, known))
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        self.word(&[("true", true), ("false", false)])
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn number<T: TryFrom<u64>>(&self, min: u64, max: u64) -> Option<T> {
        self.parse(|text| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse::<u64>().ok().filter(|_| digits);
            let number = number.filter(|number| (min..=max).contains(number));
            let number = number.and_then(|number| T::try_from(number).ok());
            number.ok_or_else(|| format!("is not a whole number from {min} to {max}"))
        })
    }

    /// The items of a list, or of a text with commas between them; a map is the only item.
    pub(crate) fn items(&self, max: usize) -> Vec<Item<'a>> {
        let items: Vec<Item<'a>> = match &self.node.kind {
            Kind::List(nodes) => {
                let nodes = nodes.iter().enumerate();
                let item = |(index, node)| self.child(format!("{}[{index}]", self.path), node);
                nodes.map(item).map(Item::Node).collect()
            }
            Kind::Map(_) => vec![Item::Node(self.clone())],
            Kind::Text(_) | Kind::Null => {
                let words = self.text().unwrap_or_default().split(',');
                let item = |word: &'a str| Item::Word(word.trim(), self.clone());
                words.map(item).collect()
            }
        };
        if items.len() > max {
            self.complain(format!("has {} items, more than {max}", items.len()));
        }
        items.into_iter().take(max).collect()
    }

    /// What `parse` makes of each item of a list of texts, or of a text with commas between them.
    pub(crate) fn list<T, E: Display>(
        &self,
        max: usize,
        parse: impl Fn(&'a str) -> Result<T, E>,
    ) -> Vec<T> {
        let items = self.items(max).into_iter();
        items.filter_map(|item| item.parse(&parse)).collect()
    }

    /// The items of a list; anything else is the only item.
    pub(crate) fn nodes(&self, max: usize) -> Vec<Self> {
        match &self.node.kind {
            Kind::Text(_) | Kind::Null => vec![self.clone()],
            Kind::List(_) | Kind::Map(_) => {
                let items = self.items(max).into_iter();
                items.map(Item::into_at).collect()
            }
        }
    }

    /// What `parse` makes of each item of a list of texts, or of a text as a whole; none may not be.
    pub(crate) fn texts<T, E: Display>(
        &self,
        max: usize,
        parse: impl Fn(&'a str) -> Result<T, E>,
    ) -> Vec<T> {
        self.refuse_empty();
        let items = self.nodes(max).into_iter();
        items.filter_map(|item| item.parse(&parse)).collect()
    }

    /// The value, unless there is something against it.
    pub(crate) fn checked<T>(&self, value: Result<T, impl Display>) -> Option<T> {
        value.map_err(|reason| self.complain(reason)).ok()
    }

    fn refuse_empty(&self) {
        if matches!(&self.node.kind, Kind::List(items) if items.is_empty()) {
            self.complain("is an empty list; leave the key out, or write what it must be");
        }
    }

    /// The same as [`Self::list`] where an empty list would read like one that was forgotten.
    pub(crate) fn some<T, E: Display>(
        &self,
        max: usize,
        parse: impl Fn(&'a str) -> Result<T, E>,
    ) -> Vec<T> {
        self.refuse_empty();
        self.list(max, parse)
    }

    /// The values of a map that has no other keys than `known`.
    pub(crate) fn fields(&self, known: &'static [&'static str]) -> Fields<'a> {
        match &self.node.kind {
            Kind::Map(entries) => self.known(entries, known),
            Kind::Null | Kind::Text(_) | Kind::List(_) => {
                let wanted = known.join(", ");
                self.refuse(format!("is {}, not a map of {wanted}", self.node.noun()));
                self.no_fields(known)
            }
        }
    }

    /// The same, where a text alone stands for the value of `short`.
    pub(crate) fn fields_or(
        &self,
        short: &'static str,
        known: &'static [&'static str],
    ) -> Fields<'a> {
        match &self.node.kind {
            Kind::Text(_) => Fields {
                short: Some(short),
                ..self.no_fields(known)
            },
            Kind::Null | Kind::List(_) | Kind::Map(_) => self.fields(known),
        }
    }

    fn known(&self, entries: &'a [(String, Node)], known: &'static [&'static str]) -> Fields<'a> {
        for (key, node) in entries {
            let path = self.path_of(key);
            if LATER.contains(&path.as_str()) {
                self.child(path, node)
                    .complain("is not there yet: nothing would act on it");
            } else if !known.contains(&key.as_str()) {
                let prefix = if self.path.is_empty() {
                    String::new()
                } else {
                    format!("{}.", self.path)
                };
                let near =
                    nearest(key, known.iter().copied()).map(|near| format!("{prefix}{near}"));
                self.child(path, node)
                    .complain(unknown_key(key, near.as_deref()));
            }
        }
        Fields {
            entries,
            ..self.no_fields(known)
        }
    }

    fn no_fields(&self, known: &'static [&'static str]) -> Fields<'a> {
        #[cfg(test)]
        watched::note(self, known);
        Fields {
            at: self.clone(),
            entries: &[],
            known,
            short: None,
        }
    }

    fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => shown(key),
            path => format!("{path}.{}", shown(key)),
        }
    }

    /// The entries of a map whose keys are free.
    pub(crate) fn entries(&self, max: usize) -> Vec<(&'a str, Self)> {
        let Kind::Map(entries) = &self.node.kind else {
            self.refuse(format!("is {}, not a map", self.node.noun()));
            return Vec::new();
        };
        if entries.len() > max {
            self.complain(format!("has {} keys, more than {max}", entries.len()));
        }
        let entries = entries.iter().take(max);
        let entries = entries.filter(|(_, node)| !matches!(node.kind, Kind::Null));
        let entry =
            |(key, node): &'a (String, Node)| (key.as_str(), self.child(self.path_of(key), node));
        entries.map(entry).collect()
    }
}

/// One item of a list.
pub(crate) enum Item<'a> {
    /// It has a node of its own.
    Node(At<'a>),
    /// It is a part of a text with commas.
    Word(&'a str, At<'a>),
}

impl<'a> Item<'a> {
    /// Where it stands.
    pub(crate) fn at(&self) -> &At<'a> {
        match self {
            Self::Node(at) | Self::Word(_, at) => at,
        }
    }

    fn into_at(self) -> At<'a> {
        match self {
            Self::Node(at) | Self::Word(_, at) => at,
        }
    }

    pub(crate) fn parse<T, E: Display>(
        &self,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Option<T> {
        match self {
            Self::Node(at) => at.parse(parse),
            Self::Word(word, at) => match parse(word) {
                Ok(value) => Some(value),
                Err(reason) => {
                    at.report(Some(shown(word)), reason);
                    None
                }
            },
        }
    }
}

/// The values of a map whose keys are known.
pub(crate) struct Fields<'a> {
    at: At<'a>,
    entries: &'a [(String, Node)],
    known: &'static [&'static str],
    short: Option<&'static str>,
}

impl<'a> Fields<'a> {
    /// What stands under `key`, unless it is nothing.
    pub(crate) fn get(&self, key: &'static str) -> Option<At<'a>> {
        debug_assert!(self.known.contains(&key), "{key} is not among the known");
        if self.short == Some(key) {
            return Some(self.at.clone());
        }
        let (_, node) = self.entries.iter().find(|(name, _)| name == key)?;
        let is_null = matches!(node.kind, Kind::Null);
        (!is_null).then(|| self.at.child(self.at.path_of(key), node))
    }

    /// Whether anything stands under `key`.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// What stands under `key`; reports that it is missing, unless it may stand in another layer.
    pub(crate) fn need(&self, key: &'static str) -> Option<At<'a>> {
        let found = self.get(key);
        if found.is_none() && self.at.cx.part == Part::Whole {
            self.missing(key);
        }
        found
    }

    /// The same inside of a list, which no other layer can add to.
    pub(crate) fn must(&self, key: &'static str) -> Option<At<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.missing(key);
        }
        found
    }

    fn missing(&self, key: &str) {
        self.at.complain(format!("needs the key {key}"));
    }
}

/// What is said of a key that is none.
pub(crate) fn unknown_key(key: &str, near: Option<&str>) -> String {
    let foreign = key.chars().find(|c| !c.is_ascii());
    let foreign = foreign.map(|c| format!(" with the letter U+{:04X} ({c})", u32::from(c)));
    let meant = near.map(|near| format!("; did you mean {}{near}?", crate::problem::PREFIX));
    format!(
        "unknown key{}{}",
        foreign.unwrap_or_default(),
        meant.unwrap_or_default()
    )
}

/// What is said of a word that is none of a few.
pub(crate) fn not_one_of<'k>(text: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    if let Some(near) = nearest(text, known.clone()) {
        return format!("is not known; did you mean {near:?}?");
    }
    let known: Vec<&str> = known.collect();
    format!("is not one of {}", known.join(", "))
}

/// More are of no use to anyone.
const MAX_PROBLEMS: usize = 100;

/// Which keys the readers know, for the test that compares them with the table.
#[cfg(test)]
pub(crate) mod watched {
    use std::cell::RefCell;

    use super::At;

    thread_local! {
        static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(at: &At<'_>, known: &'static [&'static str]) {
        let paths = known.iter().map(|key| at.path_of(key));
        SEEN.with_borrow_mut(|seen| seen.extend(paths));
    }

    /// Runs `read` and says which keys it would have taken.
    pub(crate) fn watch<T>(read: impl FnOnce() -> T) -> (T, Vec<String>) {
        SEEN.with_borrow_mut(Vec::clear);
        let read = read();
        (read, SEEN.with_borrow_mut(std::mem::take))
    }
}
