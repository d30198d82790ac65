//! `weft top`: services with rate, success and times, live. `weft edges`: who calls whom, and whether that is encrypted.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, interval};

use crate::explain::Output;
use crate::insight::edges::{Edge, Service, Traffic, Window, services};
use crate::insight::table::{number, percent, table};
use crate::insight::{Proxies, ProxiesArgs};

/// What `weft top` shows.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) proxies: ProxiesArgs,
    /// Look this many times, a second apart, and end; for ever by default where people look
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) looks: Option<u32>,
}

/// What `weft edges` shows.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct EdgesArgs {
    #[command(flatten)]
    pub(crate) proxies: ProxiesArgs,
}

/// Shows services until it is interrupted, or as often as `args` say.
///
/// # Errors
/// No proxy answers.
pub(crate) async fn top(args: &TopArgs) -> anyhow::Result<()> {
    let proxies = Proxies::of(&args.proxies).await?;
    let live = std::io::stdout().is_terminal() && args.proxies.output == Output::Text;
    // Two looks are the least that tells a rate.
    let looks = args.looks.or((!live).then_some(2));
    let (mut window, mut ticks) = (Window::default(), interval(EVERY));
    let mut look = 0;
    loop {
        ticks.tick().await;
        look += 1;
        let edges = window.edges(Instant::now(), &proxies.edges().await?);
        let last = looks.is_some_and(|looks| look >= looks);
        if live || last || (args.looks.is_some() && args.proxies.output == Output::Json) {
            let clear = if live && look > 1 { CLEAR } else { "" };
            let shown = shown(&services(&edges), args.proxies.output)?;
            write!(std::io::stdout(), "{clear}{shown}")?;
        }
        if last {
            return Ok(());
        }
    }
}

/// Shows every edge once.
///
/// # Errors
/// No proxy answers.
pub(crate) async fn edges(args: &EdgesArgs) -> anyhow::Result<()> {
    let proxies = Proxies::of(&args.proxies).await?;
    let edges = Window::default().edges(Instant::now(), &proxies.edges().await?);
    let text = match args.proxies.output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&edges)?),
        Output::Text => edge_table(&edges),
    };
    Ok(write!(std::io::stdout(), "{text}")?)
}

fn shown(services: &[Service], output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Json => format!("{}\n", serde_json::to_string(services)?),
        Output::Text => service_table(services),
    })
}

fn service_table(services: &[Service]) -> String {
    let head = [
        "SERVICE",
        "RPS",
        "SUCCESS",
        "P50 ms",
        "P95 ms",
        "P99 ms",
        "REQUESTS",
        "OPEN",
        "ENCRYPTED",
    ];
    let row = |one: &Service| {
        let Traffic {
            rate,
            success,
            p50_ms,
            p95_ms,
            p99_ms,
            requests,
            open,
            ..
        } = one.traffic;
        vec![
            format!("{}/{}", one.namespace, one.service),
            number(Some(rate)),
            percent(success),
            number(p50_ms),
            number(p95_ms),
            number(p99_ms),
            requests.to_string(),
            open.to_string(),
            percent(Some(one.mutual_tls)),
        ]
    };
    table(&head, &services.iter().map(row).collect::<Vec<_>>())
}

fn edge_table(edges: &[Edge]) -> String {
    let head = [
        "CALLER",
        "SERVICE",
        "PROTOCOL",
        "ENCRYPTED",
        "REQUESTS",
        "SUCCESS",
        "P99 ms",
        "IDENTITY",
    ];
    let row = |one: &Edge| {
        let identity = one.source_identity.clone().map(|id| format!("caller {id}"));
        let other = one
            .destination_identity
            .clone()
            .map(|id| format!("service {id}"));
        let passed = if one.protocol == "tcp" {
            one.traffic.connections
        } else {
            one.traffic.requests
        };
        vec![
            one.source.clone(),
            format!("{}/{}", one.namespace, one.destination),
            one.protocol.clone(),
            if one.mutual_tls { "yes" } else { "NO" }.to_owned(),
            passed.to_string(),
            percent(one.traffic.success),
            number(one.traffic.p99_ms),
            identity.or(other).unwrap_or_else(|| "none".to_owned()),
        ]
    };
    table(&head, &edges.iter().map(row).collect::<Vec<_>>())
}

const EVERY: Duration = Duration::from_secs(1);
/// Home, and clear what is below.
const CLEAR: &str = "\x1b[H\x1b[2J";
