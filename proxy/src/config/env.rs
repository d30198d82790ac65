//! Typed reads of the environment that collect all mistakes.
//!
//! The reader remembers every name it was asked for, with its default: that is how an unknown variable gets the nearest
//! known name, and how the documentation is compared with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::kind::Kind;

/// The environment of this process. A value that is no UTF-8 keeps U+FFFD in place of what is wrong.
pub(super) fn variables() -> BTreeMap<String, String> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect()
}

/// Reads variables by name; an empty value counts as not set, as OpenTelemetry and the downward API have it.
#[derive(Debug)]
pub(crate) struct EnvReader<L> {
    lookup: L,
    knobs: Vec<Knob>,
    mistakes: Vec<Mistake>,
}

/// A variable that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Knob {
    pub(crate) name: &'static str,
    /// As an operator would write it, or in words where it is computed; empty when there is none.
    pub(crate) default: &'static str,
}

impl<L: Fn(&str) -> Option<String>> EnvReader<L> {
    pub(crate) fn new(lookup: L) -> Self {
        Self {
            lookup,
            knobs: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// Reads `name`, by default `default`, which must be valid: a test reads an empty environment.
    pub(crate) fn or<T>(&mut self, name: &'static str, default: &'static str, kind: Kind<T>) -> T {
        self.read(name, default, kind).unwrap_or_else(|| {
            let parsed = (kind.parse)(default);
            parsed.unwrap_or_else(|reason| unreachable!("default of {name} {reason}"))
        })
    }

    /// Reads `name`, by default what `compute` says; `default` describes that in words.
    pub(crate) fn or_else<T>(
        &mut self,
        name: &'static str,
        default: &'static str,
        kind: Kind<T>,
        compute: impl FnOnce() -> T,
    ) -> T {
        self.read(name, default, kind).unwrap_or_else(compute)
    }

    /// Reads `name`, which has no default.
    pub(crate) fn optional<T>(&mut self, name: &'static str, kind: Kind<T>) -> Option<T> {
        self.read(name, "", kind)
    }

    /// Reads one of a few words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        default: &'static str,
        choices: &[(&str, T)],
    ) -> T {
        self.knobs.push(Knob { name, default });
        let value = self.value(name);
        let find = |word: &str| choices.iter().find(|(known, _)| *known == word);
        let chosen = find(value.as_deref().unwrap_or(default)).or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let fix = format!("write one of {}", words.join(", "));
            self.mistake(name, "is none of the known words", fix);
            find(default)
        });
        chosen
            .unwrap_or_else(|| unreachable!("default of {name} is a choice"))
            .1
    }

    fn read<T>(&mut self, name: &'static str, default: &'static str, kind: Kind<T>) -> Option<T> {
        self.knobs.push(Knob { name, default });
        let value = self.value(name)?;
        match (kind.parse)(&value) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                self.mistake(name, reason, kind.fix);
                None
            }
        }
    }

    /// The value as it is set, without surrounding space.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// Notes a mistake in `name`.
    pub(crate) fn mistake(
        &mut self,
        name: &str,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let value = self.value(name).unwrap_or_default();
        self.mistakes.push(Mistake {
            name: name.to_owned(),
            value: if is_secret(name) {
                HIDDEN.to_owned()
            } else {
                value
            },
            reason: reason.into(),
            fix: fix.into(),
        });
    }

    /// Notes a mistake when both are set.
    pub(crate) fn refuse_both(
        &mut self,
        one: &'static str,
        other: &'static str,
        fix: &'static str,
    ) {
        if self.value(one).is_some() && self.value(other).is_some() {
            self.mistake(one, format!("is set together with {other}"), fix);
        }
    }

    /// Notes every name with our prefix that nobody asked for.
    pub(crate) fn refuse_unknown<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        let known: BTreeSet<&'static str> = self.knobs.iter().map(|knob| knob.name).collect();
        for name in names {
            let ours = name.starts_with(PREFIX) && !known.contains(name.as_str());
            if ours && !is_service_link(name) {
                self.mistake(
                    name,
                    "is no variable of this program",
                    nearest(name, &known),
                );
            }
        }
    }

    /// Hands out `config` if there was no mistake.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        match self.mistakes.is_empty() {
            true => Ok(config),
            false => Err(ConfigErrors {
                mistakes: self.mistakes,
            }),
        }
    }

    #[cfg(test)]
    pub(super) fn knobs(&self) -> &[Knob] {
        &self.knobs
    }
}

/// One wrong variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) reason: String,
    pub(crate) fix: String,
}

/// All that is wrong with the environment; `Display` has one line for each variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub(crate) mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong in the environment", self.mistakes.len())?;
        for Mistake {
            name,
            value,
            reason,
            fix,
        } in &self.mistakes
        {
            write!(f, "\n  {name}={value:?}: {reason}; {fix}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Kubernetes describes every Service of the namespace by such variables, so a Service `weft-ca` sets `WEFT_CA_PORT`.
fn is_service_link(name: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let of_port = |text: &str| {
        let (port, rest) = text.split_once('_').unwrap_or((text, ""));
        let transport = ["TCP", "UDP", "SCTP"]
            .iter()
            .any(|known| rest.starts_with(known));
        !port.is_empty() && digits(port) && transport
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name
            .rsplit_once("_PORT_")
            .is_some_and(|(_, rest)| of_port(rest))
        || name
            .split_once("_PORT_")
            .is_some_and(|(_, rest)| of_port(rest))
}

fn nearest(name: &str, known: &BTreeSet<&'static str>) -> String {
    let distance = |other: &&&'static str| edits(name, other);
    match known
        .iter()
        .filter(|known| known.starts_with(PREFIX))
        .min_by_key(distance)
    {
        Some(known) => format!("the nearest known name is {known}"),
        None => "remove it".to_owned(),
    }
}

/// Levenshtein distance in bytes.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, one) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, other) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(one != other);
            diagonal = *cell;
            before = replaced.min(before + 1).min(diagonal + 1);
            *cell = before;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Headers for the collector are how its access tokens are given.
fn is_secret(name: &str) -> bool {
    name.ends_with("_HEADERS")
}

const PREFIX: &str = "WEFT_";
const HIDDEN: &str = "(not shown)";
