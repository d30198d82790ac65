//! The command line of `weft-proxy redirect`.

use std::str::FromStr;

use super::RedirectConfig;

/// What to do, and with which settings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) action: Action,
    pub(super) config: RedirectConfig,
}

/// The one thing that a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Apply,
    Print,
    Check,
    Remove,
    Help,
}

/// An argument that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ArgumentError {
    #[error("unknown argument {0:?}; `weft-proxy redirect --help` lists them")]
    Unknown(String),
    #[error("{0} needs a value; `weft-proxy redirect --help` shows one")]
    NoValue(String),
    #[error("{flag} {value:?}: {reason}")]
    Value {
        flag: String,
        value: String,
        reason: String,
    },
}

impl Arguments {
    /// Reads `--flag value` and `--flag=value`.
    pub(super) fn parse(
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Self, ArgumentError> {
        let mut arguments = arguments.into_iter();
        let mut parsed = Self {
            action: Action::Apply,
            config: RedirectConfig::default(),
        };
        while let Some(argument) = arguments.next() {
            if let Some((_, action, _)) = ACTIONS.iter().find(|(flag, ..)| *flag == argument) {
                parsed.action = *action;
                continue;
            }
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let Some(setting) = SETTINGS.iter().find(|setting| setting.flag == flag) else {
                return Err(ArgumentError::Unknown(flag));
            };
            let value = value
                .or_else(|| arguments.next())
                .ok_or_else(|| ArgumentError::NoValue(flag.clone()))?;
            (setting.set)(&mut parsed.config, &value).map_err(|reason| ArgumentError::Value {
                flag,
                value,
                reason,
            })?;
        }
        Ok(parsed)
    }
}

/// Returns what `--help` prints.
pub(super) fn help() -> String {
    let actions = ACTIONS
        .iter()
        .map(|(flag, _, about)| format!("  {flag}\n      {about}\n"));
    let settings = SETTINGS.iter().map(
        |Setting {
             flag,
             example,
             about,
             ..
         }| format!("  {flag} {example}\n      {about}\n"),
    );
    format!(
        "weft-proxy redirect: redirects this network namespace's TCP connections to the proxy (nftables table inet weft)\n\n\
         Without one of these it writes the table, in place of an earlier one:\n{}\nSettings:\n{}",
        actions.collect::<String>(),
        settings.collect::<String>(),
    )
}

/// One argument with a value: what it sets, and how the help shows it.
struct Setting {
    flag: &'static str,
    set: fn(&mut RedirectConfig, &str) -> Result<(), String>,
    example: &'static str,
    about: &'static str,
}

const ACTIONS: [(&str, Action, &str); 4] = [
    (
        "--print",
        Action::Print,
        "print the table and change nothing",
    ),
    (
        "--check",
        Action::Check,
        "check that connections really are redirected; run it as the proxy's user",
    ),
    ("--remove", Action::Remove, "remove the table"),
    ("--help", Action::Help, "print this"),
];

const SETTINGS: [Setting; 7] = [
    Setting {
        flag: "--inbound-port",
        set: |config, value| one(&mut config.inbound_port, value),
        example: "15006",
        about: "where the proxy takes the pod's callers",
    },
    Setting {
        flag: "--outbound-port",
        set: |config, value| one(&mut config.outbound_port, value),
        example: "15001",
        about: "where the proxy takes the app's calls",
    },
    Setting {
        flag: "--uid",
        set: |config, value| one(&mut config.uid, value),
        example: "1337",
        about: "the proxy's user: its own connections are left alone",
    },
    Setting {
        flag: "--gid",
        set: |config, value| one(&mut config.gid, value),
        example: "1337",
        about: "the proxy's group, likewise",
    },
    Setting {
        flag: "--skip-inbound-ports",
        set: |config, value| list(&mut config.skip_inbound_ports, value),
        example: "15020,15021",
        about: "ports whose callers reach the app directly",
    },
    Setting {
        flag: "--skip-outbound-ports",
        set: |config, value| list(&mut config.skip_outbound_ports, value),
        example: "3306,9000-9100",
        about: "ports that the app calls directly",
    },
    Setting {
        flag: "--skip-outbound-cidrs",
        set: |config, value| list(&mut config.skip_outbound_cidrs, value),
        example: "10.0.0.0/8,fd00::/8",
        about: "addresses that the app calls directly",
    },
];

fn one<T: FromStr<Err: ToString>>(field: &mut T, value: &str) -> Result<(), String> {
    *field = value.parse().map_err(|error: T::Err| error.to_string())?;
    Ok(())
}

/// Reads a comma list; an empty value is an empty list.
fn list<T: FromStr<Err: ToString>>(field: &mut Vec<T>, value: &str) -> Result<(), String> {
    let parts = value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    *field = parts
        .map(str::parse)
        .collect::<Result<_, T::Err>>()
        .map_err(|error| error.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Action, ArgumentError, Arguments, help};
    use crate::redirect::RedirectConfig;

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn no_argument_applies_the_defaults() {
        assert_eq!(
            parse(""),
            Ok(Arguments {
                action: Action::Apply,
                config: RedirectConfig::default()
            })
        );
    }

    #[test]
    fn every_setting_is_read_in_both_forms() {
        let spaced = parse(
            "--print --inbound-port 1 --outbound-port 2 --uid 3 --gid 4 --skip-inbound-ports 5,6-7 \
             --skip-outbound-ports 8 --skip-outbound-cidrs 10.0.0.0/8,::1",
        );
        let joined = parse(
            "--inbound-port=1 --outbound-port=2 --uid=3 --gid=4 --skip-inbound-ports=5,6-7 \
             --skip-outbound-ports=8 --skip-outbound-cidrs=10.0.0.0/8,::1 --print",
        );
        let config = RedirectConfig {
            inbound_port: 1,
            outbound_port: 2,
            uid: 3,
            gid: 4,
            skip_inbound_ports: vec!["5".parse().unwrap(), "6-7".parse().unwrap()],
            skip_outbound_ports: vec!["8".parse().unwrap()],
            skip_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
        };
        assert_eq!(
            spaced,
            Ok(Arguments {
                action: Action::Print,
                config
            })
        );
        assert_eq!(joined, spaced);
    }

    #[test]
    fn empty_list_skips_nothing() {
        assert_eq!(
            parse("--skip-inbound-ports=")
                .unwrap()
                .config
                .skip_inbound_ports,
            Vec::new()
        );
    }

    #[test]
    fn mistakes_name_the_argument_and_the_value() {
        let rows = [
            ("--inbound", "unknown argument \"--inbound\""),
            ("--uid", "--uid needs a value"),
            ("--inbound-port 70000", "--inbound-port \"70000\""),
            ("--skip-outbound-cidrs 10.0.0.0/99", "10.0.0.0/99"),
        ];
        for (line, want) in rows {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
    }

    #[test]
    fn help_names_every_argument() {
        let text = help();
        for flag in [
            "--print",
            "--check",
            "--remove",
            "--inbound-port",
            "--skip-outbound-cidrs",
        ] {
            assert!(text.contains(flag), "{flag} in {text}");
        }
    }
}
