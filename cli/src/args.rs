//! What was typed: the words after `weft`, parsed into a [`Command`].
//!
//! Words that begin with two underscores are not for people: the demo starts itself again with them.

use std::net::SocketAddr;

use crate::app::{AppConfig, AppName};
use crate::token::{Input, TokenArgs};

/// One thing `weft` can do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Version,
    Demo(DemoArgs),
    Token(TokenArgs),
    App(AppConfig),
    Ca,
    Proxy { uid: Option<u32> },
    Redirect,
}

/// How the demo was asked to run.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(crate) struct DemoArgs {
    /// Play the script, check it and end.
    pub(crate) once: bool,
    /// A network namespace for each app, with redirection. Needs root.
    pub(crate) netns: bool,
}

/// A command line that means nothing to us.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ArgsError {
    #[error("no command given")]
    Missing,
    #[error("unknown command {0:?}")]
    Command(String),
    #[error("unknown option {option:?} of {command}")]
    Option {
        command: &'static str,
        option: String,
    },
    #[error("{option} {value:?} is not {wanted}")]
    Value {
        option: &'static str,
        value: String,
        wanted: &'static str,
    },
    #[error("{command} needs {option}")]
    Needed {
        command: &'static str,
        option: &'static str,
    },
}

/// Printed by `weft --help` and under a command line that means nothing.
pub(crate) const USAGE: &str = "\
usage: weft <command>

commands:
  demo            start a small shop behind the mesh on this machine, until Ctrl-C
    --once        play the script, check every step, and end
    --netns       put each app into its own network namespace with real redirection (root)
                  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 sends the spans there as well
  token FILE|-    explain a JSON Web Token: key, issuer, audience, expiry; fails if a proxy would refuse it
    --jwks KEYS   the issuer's key set, a file or a URL, to check the signature with

  --help          show this
  --version       show the version
";

/// Parses the words after the program's name.
///
/// # Errors
/// The first word that has no meaning, or the first one missing.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Command, ArgsError> {
    let mut words = words.into_iter();
    let command = words.next().ok_or(ArgsError::Missing)?;
    match command.as_str() {
        "-h" | "--help" | "help" => Ok(Command::Help),
        "-V" | "--version" | "version" => Ok(Command::Version),
        "demo" => demo(words),
        "token" => token(words),
        "__app" => app(words),
        "__ca" => none("__ca", words).map(|()| Command::Ca),
        "__proxy" => proxy(words),
        "__redirect" => none("__redirect", words).map(|()| Command::Redirect),
        _ => Err(ArgsError::Command(command)),
    }
}

fn demo(words: impl Iterator<Item = String>) -> Result<Command, ArgsError> {
    let mut args = DemoArgs::default();
    for word in words {
        match word.as_str() {
            "--once" => args.once = true,
            // `cargo demo -- --once` gets here with the dashes that people are used to give to cargo.
            "--" => {}
            "--netns" => args.netns = true,
            "-h" | "--help" => return Ok(Command::Help),
            _ => return Err(unknown("demo", word)),
        }
    }
    Ok(Command::Demo(args))
}

fn token(mut words: impl Iterator<Item = String>) -> Result<Command, ArgsError> {
    let (mut token, mut jwks) = (None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Ok(Command::Help),
            "--jwks" => jwks = Some(words.next().ok_or(needed("--jwks", "a file or a URL"))?),
            "-" if token.is_none() => token = Some(Input::Stdin),
            file if token.is_none() && !file.starts_with('-') => {
                token = Some(Input::File(file.into()));
            }
            _ => return Err(unknown("token", word)),
        }
    }
    let token = token.ok_or(needed("token", "a file, or - for standard input"))?;
    Ok(Command::Token(TokenArgs { token, jwks }))
}

fn app(mut words: impl Iterator<Item = String>) -> Result<Command, ArgsError> {
    let name = words.next().ok_or(needed("__app", "a name"))?;
    let name = AppName::parse(&name).ok_or(ArgsError::Value {
        option: "__app",
        value: name,
        wanted: "web, orders or users",
    })?;
    let (mut listen, mut via) = (None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--listen" => listen = Some(address("--listen", words.next())?),
            "--via" => via = Some(address("--via", words.next())?),
            _ => return Err(unknown("__app", word)),
        }
    }
    let listen = listen.ok_or(needed("__app", "--listen"))?;
    Ok(Command::App(AppConfig { name, listen, via }))
}

fn proxy(mut words: impl Iterator<Item = String>) -> Result<Command, ArgsError> {
    let mut uid = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--uid" => uid = Some(number("--uid", words.next())?),
            _ => return Err(unknown("__proxy", word)),
        }
    }
    Ok(Command::Proxy { uid })
}

fn none(command: &'static str, mut words: impl Iterator<Item = String>) -> Result<(), ArgsError> {
    match words.next() {
        None => Ok(()),
        Some(word) => Err(unknown(command, word)),
    }
}

fn address(option: &'static str, value: Option<String>) -> Result<SocketAddr, ArgsError> {
    let value = value.ok_or(needed(option, "an address"))?;
    let parsed = value.parse().ok();
    parsed.ok_or(ArgsError::Value {
        option,
        value,
        wanted: "an address with a port",
    })
}

fn number(option: &'static str, value: Option<String>) -> Result<u32, ArgsError> {
    let value = value.ok_or(needed(option, "a number"))?;
    let parsed = value.parse().ok();
    parsed.ok_or(ArgsError::Value {
        option,
        value,
        wanted: "a number",
    })
}

fn unknown(command: &'static str, option: String) -> ArgsError {
    ArgsError::Option { command, option }
}

fn needed(command: &'static str, option: &'static str) -> ArgsError {
    ArgsError::Needed { command, option }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, ArgsError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_become_a_command() {
        let demo = |once, netns| Command::Demo(DemoArgs { once, netns });
        let rows: &[(&str, Command)] = &[
            ("--help", Command::Help),
            ("demo --help", Command::Help),
            ("--version", Command::Version),
            ("demo", demo(false, false)),
            ("demo --once", demo(true, false)),
            ("demo -- --once", demo(true, false)),
            ("demo --netns --once", demo(true, true)),
            (
                "token -",
                Command::Token(TokenArgs {
                    token: Input::Stdin,
                    jwks: None,
                }),
            ),
            (
                "token a.jwt --jwks https://issuer.test/keys",
                Command::Token(TokenArgs {
                    token: Input::File("a.jwt".into()),
                    jwks: Some("https://issuer.test/keys".to_owned()),
                }),
            ),
            ("__ca", Command::Ca),
            ("__proxy", Command::Proxy { uid: None }),
            ("__proxy --uid 1337", Command::Proxy { uid: Some(1337) }),
            (
                "__app users --listen 127.0.0.1:1",
                Command::App(AppConfig {
                    name: AppName::Users,
                    listen: "127.0.0.1:1".parse().unwrap(),
                    via: None,
                }),
            ),
        ];
        for (line, want) in rows {
            assert_eq!(parsed(line).as_ref(), Ok(want), "{line}");
        }
    }

    #[test]
    fn words_without_a_meaning_are_named() {
        let rows: &[(&str, &str)] = &[
            ("", "no command given"),
            ("dmeo", "unknown command \"dmeo\""),
            ("demo --onec", "unknown option \"--onec\" of demo"),
            ("token", "token needs a file, or - for standard input"),
            ("token a --jwks", "--jwks needs a file or a URL"),
            ("token a b", "unknown option \"b\" of token"),
            ("__app", "__app needs a name"),
            ("__app shop", "__app \"shop\" is not web, orders or users"),
            ("__app web", "__app needs --listen"),
            (
                "__app web --listen here",
                "--listen \"here\" is not an address with a port",
            ),
        ];
        for (line, want) in rows {
            assert_eq!(parsed(line).unwrap_err().to_string(), *want, "{line}");
        }
    }
}
