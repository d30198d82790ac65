//! What was typed: the words after `weft`, one line a command. What a command takes stands in its own file.
//!
//! Words that begin with two underscores are not for people: the demo starts itself again with them.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::app::AppConfig;
use crate::check::CheckArgs;
use crate::dashboard::DashboardArgs;
use crate::explain::ExplainArgs;
use crate::inject::InjectArgs;
use crate::install::{InstallArgs, UninstallArgs, UpgradeArgs};
use crate::lint::LintArgs;
use crate::rotate::RotateArgs;
use crate::tap::TapArgs;
use crate::token::TokenArgs;
use crate::top::{EdgesArgs, TopArgs};
use crate::versions::VersionArgs;
use crate::waterfall::TraceArgs;

/// Weft, a sidecar service mesh.
#[derive(Debug, Parser)]
#[command(name = "weft", version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// One thing `weft` can do.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Start a small shop behind the mesh on this machine, until Ctrl-C.
    Demo(DemoArgs),
    /// Print what Kubernetes needs to run the mesh, for kubectl apply -f -.
    Install(InstallArgs),
    /// Print the same for what is installed, and tell what changes.
    Upgrade(UpgradeArgs),
    /// Print what is to be deleted, and tell who is still in the mesh.
    Uninstall(UninstallArgs),
    /// Find what is wrong with a cluster's mesh, and what to do; fails if there is a problem.
    Check(CheckArgs),
    /// Show the versions of this program, the control plane and the proxies.
    Version(VersionArgs),
    /// Print what this program was built from, as CycloneDX.
    Sbom,
    /// Give the mesh another root, step by step, without a lost request.
    RotateRoot(RotateArgs),
    /// Check policy files and the annotations of Kubernetes manifests; fails if anything is wrong.
    Lint(LintArgs),
    /// Put the proxy into the pods of Kubernetes manifests, as the admission webhook does; fails if a pod is refused.
    Inject(InjectArgs),
    /// Explain a JSON Web Token; fails if a proxy would refuse it.
    Token(TokenArgs),
    /// Show the policy that a proxy runs with, and where each value comes from.
    Explain(ExplainArgs),
    /// Show services with rate, success and times, live.
    Top(TopArgs),
    /// Show requests as they pass, secrets masked.
    Tap(TapArgs),
    /// Show who calls whom, with identities, and whether it is encrypted.
    Edges(EdgesArgs),
    /// Draw a trace as a waterfall, from the proxies or a Jaeger.
    Trace(TraceArgs),
    /// Serve a page with the live graph, requests with reasons, and waterfalls.
    Dashboard(DashboardArgs),
    #[command(name = "__app", hide = true)]
    App(AppConfig),
    #[command(name = "__ca", hide = true)]
    Ca,
    #[command(name = "__proxy", hide = true)]
    Proxy {
        #[arg(long)]
        uid: Option<u32>,
    },
    #[command(name = "__redirect", hide = true)]
    Redirect,
}

/// How the demo was asked to run.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[command(
    after_help = "With OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 the spans go there as well."
)]
pub(crate) struct DemoArgs {
    /// Play the script, check every step, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Put each app into a network namespace of its own with real redirection; needs root
    #[arg(long)]
    pub(crate) netns: bool,
}

/// Parses a command line, whose first word is the program's name.
///
/// # Errors
/// What is wrong with it, or what was asked for where that was help or the version: print it, end with its code.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let mut words: Vec<_> = words.into_iter().collect();
    // `cargo demo -- --once` gets here with the dashes that people are used to give to cargo.
    if words.get(1).is_some_and(|word| word == "demo") {
        words.retain(|word| word != "--");
    }
    Line::try_parse_from(words).map(|line| line.command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::AppName;
    use crate::explain::Output;
    use crate::token::Input;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("weft").chain(line.split_whitespace());
        parse(words.map(OsString::from))
    }

    #[test]
    fn words_become_a_command() {
        let demo = |once, netns| Command::Demo(DemoArgs { once, netns });
        let rows: &[(&str, Command)] = &[
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
            (
                "explain --output json",
                Command::Explain(ExplainArgs {
                    proxy: "127.0.0.1:15000".parse().unwrap(),
                    output: Output::Json,
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
            assert_eq!(parsed(line).as_ref().ok(), Some(want), "{line}");
        }
    }

    #[test]
    fn words_without_a_meaning_are_named() {
        let rows: &[(&str, &str)] = &[
            ("dmeo", "'dmeo'"),
            ("demo --onec", "'--onec'"),
            ("token", "<FILE|->"),
            ("token a b", "'b'"),
            (
                "__app shop --listen 127.0.0.1:1",
                "[possible values: web, orders, users]",
            ),
            ("__app web --listen here", "'here'"),
        ];
        for (line, want) in rows {
            let mistake = parsed(line).unwrap_err();
            assert_eq!(mistake.exit_code(), 2, "{line}");
            assert!(mistake.to_string().contains(want), "{line}: {mistake}");
        }
    }
}
