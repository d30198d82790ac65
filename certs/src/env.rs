//! Reads variables and collects all mistakes; what a value can be is a function.
//!
//! Used by all programs of the control plane. The proxy has its own reader, which also knows every name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use weft_policy::units::parse_duration;

/// The variables that are wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Mistake>);

#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    name: &'static str,
    value: Option<String>,
    reason: String,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong settings", self.0.len())?;
        for Mistake {
            name,
            value,
            reason,
        } in &self.0
        {
            match value {
                Some(value) => write!(f, "\n  {name}={value}: {reason}")?,
                None => write!(f, "\n  {name}: {reason}")?,
            }
        }
        Ok(())
    }
}

/// Reads variables and remembers mistakes; an empty value counts as not set.
pub struct Env<L> {
    lookup: L,
    errors: Vec<Mistake>,
    asked: Vec<(&'static str, String)>,
}

impl<L: Fn(&str) -> Option<String>> Env<L> {
    /// Reads by `lookup`.
    pub fn new(lookup: L) -> Self {
        Self {
            lookup,
            errors: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// Each variable that was asked for, with its default, as the documentation has them.
    pub fn asked(&self) -> &[(&'static str, String)] {
        &self.asked
    }

    fn value(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// Reads a variable that has no default.
    pub fn optional(&mut self, name: &'static str) -> Option<String> {
        self.asked.push((name, String::new()));
        self.value(name)
    }

    /// Reads a variable, by default `default`, which must be valid.
    pub fn or<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.asked.push((name, default.to_owned()));
        let value = self.value(name).map(|value| parse(&value));
        let default = || parse(default).unwrap_or_else(|error| unreachable!("{name}: {error}"));
        match value {
            None => default(),
            Some(Ok(value)) => value,
            Some(Err(reason)) => {
                self.mistake(name, reason);
                default()
            }
        }
    }

    /// As [`Env::or`], where `placeholder` only stands in until the mistake is reported.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        placeholder: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        if self.value(name).is_none() {
            self.mistake(name, "must be set".to_owned());
        }
        let value = self.or(name, placeholder, parse);
        if let Some((_, default)) = self.asked.last_mut() {
            default.clear();
        }
        value
    }

    /// Notes a mistake. Headers for a collector are how its access tokens are given, and stay out of what is told.
    pub fn mistake(&mut self, name: &'static str, reason: String) {
        let value = self
            .value(name)
            .map(|value| match value.contains("_HEADERS=") {
                true => "(not shown)".to_owned(),
                false => value,
            });
        self.errors.push(Mistake {
            name,
            value,
            reason,
        });
    }

    /// Hands out `config` if there was no mistake.
    ///
    /// # Errors
    /// All mistakes.
    pub fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        match self.errors.is_empty() {
            true => Ok(config),
            false => Err(ConfigErrors(self.errors)),
        }
    }
}

/// Reads what has a `FromStr`.
///
/// # Errors
/// What the type says.
pub fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads a duration that is not zero.
///
/// # Errors
/// If it is none.
pub fn positive(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than nothing".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

/// Reads words between commas.
///
/// # Errors
/// Never; it has the form of a parser.
pub fn list<T: FromIterator<String>>(text: &str) -> Result<T, String> {
    Ok(text
        .split(',')
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect())
}
