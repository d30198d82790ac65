//! YAML as a small tree: nothing, text as it was written, lists, maps.
//!
//! Numbers and booleans stay text, for only the key knows what is wanted: `503`, `5xx` and `off` are all read by the same rule,
//! and a value is shown to its author as it was written. What can make a document expensive or hide what it says is refused:
//! anchors, aliases, tags, repeated keys, control and bidirectional characters, more than [`MAX_BYTES`].

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// One value of a document and the line it stands on.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Counted from 1; 0 where there is no text.
    pub line: u32,
}

/// What a [`Node`] is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `null` or `~`.
    Null,
    /// A scalar as it was written, without its quotes.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order it was written; no key twice.
    Map(Vec<(String, Node)>),
}

/// Equal are nodes that say the same, wherever they stand and in whichever order.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Null, Kind::Null) => true,
            (Kind::Text(left), Kind::Text(right)) => left == right,
            (Kind::List(left), Kind::List(right)) => left == right,
            (Kind::Map(left), Kind::Map(right)) => {
                left.len() == right.len()
                    && left.iter().all(|(key, node)| get(right, key) == Some(node))
            }
            _ => false,
        }
    }
}

fn get<'a>(entries: &'a [(String, Node)], key: &str) -> Option<&'a Node> {
    let found = entries.iter().find(|(name, _)| name == key);
    found.map(|(_, node)| node)
}

impl Node {
    /// Reads the one document in `text`; an empty one is an empty map.
    ///
    /// # Errors
    /// The first thing that is no YAML or that is refused, with its line.
    pub fn parse(text: &str) -> Result<Self, NodeError> {
        let mut documents = Self::parse_all(text)?;
        match documents.len() {
            0 | 1 => Ok(documents.pop().unwrap_or_else(|| Self::map(Vec::new()))),
            _ => Err(NodeError::new(0, "there is more than one document")),
        }
    }

    /// Reads all documents in `text`; those without content are left out.
    ///
    /// # Errors
    /// As [`Node::parse`].
    pub fn parse_all(text: &str) -> Result<Vec<Self>, NodeError> {
        if text.len() > MAX_BYTES {
            let reason = format!("it is longer than {MAX_BYTES} bytes");
            return Err(NodeError::new(0, reason));
        }
        let mut options = granit_parser::Options::default();
        options.disallow_directives = true;
        let events = Parser::with_options(StrInput::new(text), options);
        let mut builder = Builder::default();
        for event in events {
            let (event, span) = event.map_err(|error| {
                let hint = hint(&error.info());
                NodeError::new(
                    line(error.marker().line()),
                    format!("{}{hint}", error.info()),
                )
            })?;
            builder.take(event, span)?;
        }
        Ok(builder.documents)
    }

    /// Text that stands nowhere.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        let kind = Kind::Text(text.into());
        Self { kind, line: 0 }
    }

    /// A map that stands nowhere.
    #[must_use]
    pub fn map(entries: Vec<(String, Self)>) -> Self {
        let kind = Kind::Map(entries);
        Self { kind, line: 0 }
    }

    /// What a map has under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Map(entries) => get(entries, key),
            Kind::Null | Kind::Text(_) | Kind::List(_) => None,
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// As JSON on one line, all scalars as strings; parsing it gives the same node.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = String::new();
        write_json(&mut text, self);
        text
    }

    /// What it is, for a message.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "null",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }
}

/// As flow YAML on one line; parsing it gives the same node.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Null => f.write_str("null"),
            Kind::Text(text) => write_text(f, text),
            Kind::List(items) => {
                f.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{item}")?;
                }
                f.write_char(']')
            }
            Kind::Map(entries) => {
                f.write_char('{')?;
                for (index, (key, node)) in entries.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    write_text(f, key)?;
                    write!(f, ": {node}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn write_json(out: &mut String, node: &Node) {
    match &node.kind {
        Kind::Null => out.push_str("null"),
        Kind::Text(text) => write_json_text(out, text),
        Kind::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write_json(out, item);
            }
            out.push(']');
        }
        Kind::Map(entries) => {
            out.push('{');
            for (index, (key, node)) in entries.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write_json_text(out, key);
                // A reader of YAML wants the space.
                out.push_str(": ");
                write_json(out, node);
            }
            out.push('}');
        }
    }
}

/// RFC 8259 section 7; what a document may hold needs no other escapes.
fn write_json_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Plain where no reader can take it for something else, else in double quotes, as JSON has them.
fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_-./%$".contains(c);
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "/.$_".contains(c));
    let plain = first && text.chars().all(inner) && !is_null(text) && !text.starts_with("...");
    if plain {
        return f.write_str(text);
    }
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            c if refused(c) => write!(f, "\\U{:08x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// Builds trees from events; depth and size are bounded here, so that nothing that walks a tree need care.
#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    nodes: usize,
}

/// A list or map whose end has not been seen.
enum Open {
    List(Vec<Node>, u32),
    Map(Vec<(String, Node)>, Option<String>, u32),
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), NodeError> {
        let at = line(span.start.line());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                plain_node(at, anchor, tag.is_some())?;
                // What is left out is `~` for the parser, at a place without length.
                let left_out = span.start.index() == span.end.index();
                let text = if left_out { Cow::Borrowed("") } else { text };
                self.scalar(text, style, at)
            }
            Event::SequenceStart(_, anchor, tag) => {
                plain_node(at, anchor, tag.is_some())?;
                self.open(Open::List(Vec::new(), at), at)
            }
            Event::MappingStart(_, anchor, tag) => {
                plain_node(at, anchor, tag.is_some())?;
                self.open(Open::Map(Vec::new(), None, at), at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(_) | Event::UnresolvedAlias(_) | Event::Anchor(..) => Err(alias(at)),
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open, line: u32) -> Result<(), NodeError> {
        if self.open.len() >= MAX_DEPTH {
            let reason = format!("it is nested deeper than {MAX_DEPTH} levels");
            return Err(NodeError::new(line, reason));
        }
        if let Some(Open::Map(_, None, _)) = self.open.last() {
            return Err(NodeError::new(line, "a key must be text"));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self) -> Result<(), NodeError> {
        let (kind, line) = match self.open.pop() {
            Some(Open::List(items, line)) => (Kind::List(items), line),
            Some(Open::Map(entries, _, line)) => (Kind::Map(entries), line),
            None => return Ok(()),
        };
        self.value(Node { kind, line })
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        line: u32,
    ) -> Result<(), NodeError> {
        check_characters(&text, line)?;
        if let Some(Open::Map(entries, key @ None, _)) = self.open.last_mut() {
            if entries.len() >= MAX_KEYS {
                let reason = format!("a map has more than {MAX_KEYS} keys");
                return Err(NodeError::new(line, reason));
            }
            if get(entries, &text).is_some() {
                let reason = format!("the key {text:?} is there twice");
                return Err(NodeError::new(line, reason));
            }
            *key = Some(text.into_owned());
            return Ok(());
        }
        let kind = match style {
            ScalarStyle::Plain if is_null(&text) => Kind::Null,
            _ => Kind::Text(text.into_owned()),
        };
        self.value(Node { kind, line })
    }

    fn value(&mut self, node: Node) -> Result<(), NodeError> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            let reason = format!("it has more than {MAX_NODES} values");
            return Err(NodeError::new(node.line, reason));
        }
        match self.open.last_mut() {
            Some(Open::List(items, _)) => items.push(node),
            Some(Open::Map(entries, key, _)) => {
                entries.push((key.take().unwrap_or_default(), node));
            }
            None => self.documents.push(node),
        }
        Ok(())
    }
}

/// Why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NodeError {
    /// Counted from 1; 0 if it is about the whole.
    pub line: u32,
    /// What is wrong.
    pub reason: String,
}

impl NodeError {
    fn new(line: u32, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { line, reason }
    }
}

/// Refuses characters that do not show, or that change in which order others show.
fn check_characters(text: &str, line: u32) -> Result<(), NodeError> {
    let Some(found) = text.chars().find(|&c| refused(c)) else {
        return Ok(());
    };
    let reason = format!(
        "U+{:04X} is a character that cannot be seen; it is not taken",
        u32::from(found)
    );
    Err(NodeError::new(line, reason))
}

fn refused(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}')
        // Marks, embeddings, overrides and isolates (UAX 9), line ends that editors do not show, fillers and joiners.
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{ad}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

fn plain_node(line: u32, anchor: usize, tagged: bool) -> Result<(), NodeError> {
    match (anchor, tagged) {
        (0, false) => Ok(()),
        (0, true) => Err(NodeError::new(
            line,
            "tags (`!name`) are not taken; put text that begins with `!` in quotes",
        )),
        _ => Err(alias(line)),
    }
}

fn alias(line: u32) -> NodeError {
    let reason =
        "anchors and aliases are not taken; put text that begins with `*` or `&` in quotes";
    NodeError::new(line, reason)
}

/// The parser's words for a plain `*` or `@` do not help whoever meant it as text.
fn hint(reason: &str) -> &'static str {
    let reason = reason.to_ascii_lowercase();
    let about = |word| reason.contains(word);
    if about("alias") || about("anchor") {
        return "; put text that begins with `*` or `&` in quotes";
    }
    ""
}

fn is_null(text: &str) -> bool {
    matches!(text, "~" | "null" | "Null" | "NULL")
}

fn line(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The most a document may have: what an object's annotations may have in all (Kubernetes, 256 KiB), with room for a file.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest that lists and maps may be in one another.
const MAX_DEPTH: usize = 24;
/// The most keys in one map: each is compared with those before it.
const MAX_KEYS: usize = 2000;
/// The most values in all documents of a text.
const MAX_NODES: usize = 100_000;

#[cfg(test)]
mod tests;
