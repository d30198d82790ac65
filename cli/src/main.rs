//! `weft`: the command operators and newcomers type.

mod app;
mod args;
mod client;
mod config;
mod dashboard;
mod demo;
mod explain;
mod hidden;
mod insight;
mod lint;
mod tap;
mod token;
mod top;
mod waterfall;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;

use self::args::{Command, DemoArgs};
use self::config::{DemoConfig, Terminal};
use self::demo::Outcome;
use self::token::TokenArgs;

fn main() -> ExitCode {
    let command = args::parse(std::env::args_os()).unwrap_or_else(|mistake| mistake.exit());
    run(command).unwrap_or_else(|error| {
        complain(&format!("weft: {error:#}"));
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => return play(args),
        Command::Lint(args) => return lint(&args),
        Command::Token(args) => return explain_token(&args),
        Command::Explain(args) => say(&explain::run(&args)?),
        Command::Top(args) => until_interrupted(top::top(&args))?,
        Command::Tap(args) => until_interrupted(tap::run(&args))?,
        Command::Edges(args) => until_interrupted(top::edges(&args))?,
        Command::Trace(args) => until_interrupted(waterfall::run(&args))?,
        Command::Dashboard(args) => until_interrupted(dashboard::run(&args, say))?,
        Command::App(config) => return hidden::app(&config),
        Command::Ca => return hidden::ca(),
        Command::Proxy { uid } => return hidden::proxy(uid),
        Command::Redirect => return hidden::redirect(),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs to the end, or to Ctrl-C, which is how one ends what goes on for ever. So does a reader that has seen enough.
fn until_interrupted(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = Box::pin(command) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    ended.or_else(|error| match error.downcast_ref::<std::io::Error>() {
        Some(gone) if gone.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

fn play(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let terminal = if std::io::stdout().is_terminal() {
        Terminal::Yes
    } else {
        Terminal::No
    };
    let config = DemoConfig::read(args, terminal, config::environment)?;
    let outcome = demo::run(&config)?;
    Ok(match outcome {
        Outcome::Good => ExitCode::SUCCESS,
        Outcome::Different => ExitCode::FAILURE,
    })
}

fn explain_token(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let explained = token::run(args)?;
    say(&explained.text);
    Ok(match explained.refused {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

fn lint(args: &lint::LintArgs) -> anyhow::Result<ExitCode> {
    let found = lint::run(args)?;
    say(&found.text);
    Ok(match found.problems {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn say(text: &str) {
    let _nobody_reads = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _nobody_reads = writeln!(std::io::stderr(), "{text}");
}
