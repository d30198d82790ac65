//! Runs Weft, Envoy, HAProxy and nginx as the same two-hop mTLS chain and prints what a request costs each.
//!
//! The path of a run: `args` -> `peer` (which are installed) -> `chain` (app, two proxies) -> `measure` (interleaved rounds of
//! `load`) -> `report`. The app and the load generator are this program again, under hidden subcommands, so that the CPU time
//! of each process is its own.

#![expect(
    clippy::print_stdout,
    reason = "the bench is a program that prints its results"
)]
#![expect(
    clippy::print_stderr,
    reason = "progress goes to standard error, so that the table can be piped"
)]

mod args;

mod chain;
mod peer;
mod pki;
mod process;

mod app;
mod discovery;
mod load;

mod measure;
mod report;

use anyhow::Context;

use crate::args::{Command, Settings};

fn main() -> anyhow::Result<()> {
    match Command::parse(std::env::args().skip(1))? {
        Command::Help => println!("{}", args::HELP),
        Command::App => app::run()?,
        Command::Load(plan) => load::run(&plan)?,
        Command::Discovery(sizes) => println!("{}", discovery::run(&sizes)?),
        Command::DiscoveryServer(sizes, dir) => discovery::server::run(&sizes, &dir)?,
        Command::Bench(settings) => bench(&settings)?,
    }
    Ok(())
}

fn bench(settings: &Settings) -> anyhow::Result<()> {
    let (peers, missing) = peer::find(settings);
    for absent in &missing {
        eprintln!("skipped {}: {}", absent.name, absent.reason);
    }
    let machine = report::Machine::before_the_run();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut sections = Vec::new();
    for protocol in &settings.protocols {
        sections.push(runtime.block_on(measure::run(*protocol, &peers, settings))?);
    }
    let report = report::Report::new(settings, machine, &peers, missing, sections);
    println!("{report}");
    if let Some(path) = &settings.json {
        std::fs::write(path, report.json()?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    let failed: Vec<&str> = report.failed().map(|chain| chain.name.as_str()).collect();
    anyhow::ensure!(
        failed.is_empty(),
        "could not be measured: {}",
        failed.join(", ")
    );
    Ok(())
}
