//! `weft`: the command operators and newcomers type.

mod app;
mod args;
mod check;
mod client;
mod config;
mod dashboard;
mod demo;
mod explain;
mod hidden;
mod inject;
mod insight;
mod install;
mod kubectl;
mod lint;
mod objects;
mod rotate;
mod sbom;
mod tap;
mod token;
mod top;
mod versions;
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
        Command::Inject(args) => return inject(&args),
        Command::Token(args) => return explain_token(&args),
        Command::Install(args) => say(&install::install(&args)?),
        Command::Upgrade(args) => return upgrade(&args),
        Command::Uninstall(args) => uninstall(&args)?,
        Command::Check(args) => return check(&args),
        Command::Version(args) => say(&on_a_runtime(versions::run(&args))?),
        Command::Sbom => say(&sbom::cyclone_dx()?),
        Command::RotateRoot(args) => on_a_runtime(Box::pin(rotate::run(&args, say)))??,
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

/// Waits for what a command asks of a cluster.
fn on_a_runtime<T>(command: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    Ok(runtime.block_on(command))
}

fn upgrade(args: &install::UpgradeArgs) -> anyhow::Result<ExitCode> {
    let plan = on_a_runtime(Box::pin(install::upgrade::upgrade(args)))??;
    if args.diff {
        say(&plan.changes);
    } else {
        complain(plan.changes.trim_end());
        say(&plan.manifests);
    }
    Ok(ExitCode::SUCCESS)
}

fn uninstall(args: &install::UninstallArgs) -> anyhow::Result<()> {
    let removal = on_a_runtime(Box::pin(install::remove::uninstall(args)))??;
    complain(removal.warnings.trim_end());
    say(&removal.manifests);
    Ok(())
}

fn check(args: &check::CheckArgs) -> anyhow::Result<ExitCode> {
    let checked = on_a_runtime(Box::pin(check::run(args)))?;
    say(&checked.text);
    Ok(match checked.problems {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
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

fn inject(args: &inject::InjectArgs) -> anyhow::Result<ExitCode> {
    let done = inject::run(args)?;
    if !done.notes.is_empty() {
        complain(done.notes.trim_end());
    }
    say(&done.manifests);
    Ok(match done.refused {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    })
}

fn say(text: &str) {
    let _nobody_reads = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _nobody_reads = writeln!(std::io::stderr(), "{text}");
}
