//! Who takes part: finding each proxy's binary, and the commands that make two of them a chain.
//!
//! The chain is the same for all: plain in, mTLS 1.3 between the two with both sides verified, plain to the app; one worker
//! each, keep-alive everywhere, no access log, no tracing, no policy but what `--policy` asks of Weft. Each proxy keeps its
//! own defaults in everything else.

mod envoy;
mod haproxy;
mod nginx;
mod policy;
mod weft;
mod ztunnel;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::args::{Policy, Settings};
use crate::chain::{Launch, Wiring};
use crate::load::Entry;

/// An installed proxy.
pub(crate) struct Peer {
    pub name: String,
    pub version: String,
    kind: Kind,
    binary: PathBuf,
}

/// A proxy that cannot take part, and why.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Missing {
    pub name: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Weft,
    /// The same requests as with all of policy on, which nobody judges.
    WeftUnjudged,
    /// With all of policy on.
    WeftFull,
    /// With metrics, and so many of its requests traced.
    WeftTelling(&'static str),
    /// With neither.
    WeftSilent,
    Envoy,
    Haproxy,
    Nginx,
    Ztunnel,
}

/// Finds all wanted proxies, in the order in which they take their turns.
pub(crate) fn find(settings: &Settings) -> (Vec<Peer>, Vec<Missing>) {
    let mut peers = Vec::new();
    let mut missing = Vec::new();
    let mut join = |name: &str, kind: Kind, find: &dyn Fn(&Settings) -> Result<PathBuf, String>| {
        if settings.wants(name) {
            match find(settings).and_then(|binary| Peer::new(name, kind, binary)) {
                Ok(peer) => peers.push(peer),
                Err(reason) => missing.push(Missing {
                    name: name.to_owned(),
                    reason,
                }),
            }
        }
    };
    if settings.policy == Policy::Full {
        join("weft-full", Kind::WeftFull, &weft::find);
    }
    if let Some(sample) = settings.telemetry {
        let name = match sample {
            "always" => "weft-traced",
            _ => "weft-telling",
        };
        join(name, Kind::WeftTelling(sample), &weft::find);
        join("weft-silent", Kind::WeftSilent, &weft::find);
    }
    let plain = match settings.policy {
        Policy::Full => Kind::WeftUnjudged,
        Policy::None => Kind::Weft,
    };
    join("weft", plain, &weft::find);
    if settings.weft_old.is_some() {
        join("weft-old", Kind::Weft, &weft::find_old);
    }
    join("envoy", Kind::Envoy, &envoy::find);
    join("haproxy", Kind::Haproxy, &haproxy::find);
    join("nginx", Kind::Nginx, &nginx::find);
    join("ztunnel", Kind::Ztunnel, &ztunnel::find);
    if settings.wants("linkerd") {
        missing.push(Missing {
            name: "linkerd".to_owned(),
            reason: linkerd_is_missing(settings).to_owned(),
        });
    }
    (peers, missing)
}

/// linkerd2-proxy starts only with a control plane that answers for identity, destinations and policy.
fn linkerd_is_missing(settings: &Settings) -> &'static str {
    match settings.linkerd {
        Some(_) => {
            "needs Linkerd's control plane and redirection, which the bench does not set up yet"
        }
        None => "give its binary with --linkerd PATH",
    }
}

impl Peer {
    fn new(name: &str, kind: Kind, binary: PathBuf) -> Result<Self, String> {
        let version = match kind {
            Kind::Weft
            | Kind::WeftUnjudged
            | Kind::WeftFull
            | Kind::WeftTelling(_)
            | Kind::WeftSilent => env!("CARGO_PKG_VERSION").to_owned(),
            Kind::Ztunnel => "as given".to_owned(),
            Kind::Envoy => version(Command::new(&binary).arg("--version"))?,
            Kind::Haproxy | Kind::Nginx => version(Command::new(&binary).arg("-v"))?,
        };
        Ok(Self {
            name: name.to_owned(),
            version,
            kind,
            binary,
        })
    }

    /// Returns what starts this peer as a chain, after writing its configuration. `None` when it does not speak the
    /// protocol on all hops.
    pub(crate) fn launch(&self, wiring: &Wiring<'_>) -> anyhow::Result<Option<Launch>> {
        let binary = &self.binary;
        let commands = match self.kind {
            Kind::Weft => Some(weft::commands(binary, wiring)?),
            Kind::WeftFull => return policy::launch(binary, wiring).map(Some),
            Kind::WeftUnjudged => return policy::unjudged(binary, wiring).map(Some),
            Kind::WeftTelling(sample) => Some(weft::telling(binary, wiring, sample)?),
            Kind::WeftSilent => Some(weft::silent(binary, wiring)?),
            Kind::Envoy => Some(envoy::commands(binary, wiring)?),
            Kind::Haproxy => Some(haproxy::commands(binary, wiring)?),
            Kind::Nginx => nginx::commands(binary, wiring)?,
            Kind::Ztunnel => return ztunnel::launch(binary, wiring).map(Some),
        };
        Ok(commands.map(|commands| Launch {
            commands: commands.into(),
            entry: Entry::at(wiring.entry),
        }))
    }
}

/// Returns the path of a program in `PATH` or, as Debian installs servers, in `/usr/sbin`.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.push(PathBuf::from("/usr/sbin"));
    dirs.into_iter()
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a command that prints its version, on either output, and returns that.
fn version(command: &mut Command) -> Result<String, String> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let text = [output.stdout, output.stderr].concat();
    version_in(&String::from_utf8_lossy(&text))
        .ok_or_else(|| format!("{program} does not tell its version"))
}

/// Returns the first word that is a dotted number, perhaps with a suffix.
fn version_in(text: &str) -> Option<String> {
    let mut words = text.split(|end: char| end.is_whitespace() || end == '/');
    let dotted =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
    words.find(dotted).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let rows: &[(&str, Option<&str>)] = &[
            (
                "/opt/e2/envoy  version: 9e558093/1.40.0/Clean/RELEASE/BoringSSL",
                Some("1.40.0"),
            ),
            (
                "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/",
                Some("2.6.12-1+deb12u4"),
            ),
            ("nginx version: nginx/1.22.1", Some("1.22.1")),
            ("usage: thing", None),
        ];
        for (text, want) in rows {
            assert_eq!(version_in(text).as_deref(), *want, "{text}");
        }
    }
}
