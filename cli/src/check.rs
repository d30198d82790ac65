//! `weft check`: what is wrong with a cluster's mesh, or would be in the way of one; each finding with what to do.
//!
//! It only looks. The one thing that it sends is a dry run of a pod, to see the webhook at work.

mod before;
mod clocks;
mod control;
mod finding;
mod pods;
mod policies;
mod proxies;
mod rights;
mod roots;
mod samples;
mod seen;
mod webhook;

use std::time::SystemTime;

use clap::Args;

use self::finding::Findings;
use self::seen::{Installed, Seen};
use crate::explain::Output;
use crate::kubectl::{ClusterArgs, Kubectl};

/// What is looked at, and how it is printed.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = "It ends with 1 if there is a problem; warnings alone are no failure.")]
pub(crate) struct CheckArgs {
    /// Whether the mesh can be installed, even if one is
    #[arg(long)]
    pub(crate) before: bool,
    /// Only the pods and services of this namespace; all without it
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// For people, or for programs
    #[arg(long, short, default_value = "text")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) text: String,
    pub(crate) problems: usize,
}

/// Looks at everything.
pub(crate) async fn run(args: &CheckArgs) -> Checked {
    let kubectl = Kubectl::new(&args.cluster);
    let mut findings = Findings::default();
    if before::reach(&kubectl, &mut findings).await {
        let seen = Seen::look(&kubectl, args.namespace.as_deref(), &mut findings);
        let seen = Box::pin(seen).await;
        if args.before || seen.installed() != Installed::Yes {
            before::look(&kubectl, &seen, &mut findings).await;
        } else {
            after(&kubectl, &seen, &mut findings).await;
        }
    }
    Checked {
        text: match args.output {
            Output::Text => findings.text(),
            Output::Json => findings.json(),
        },
        problems: findings.problems(),
    }
}

async fn after(kubectl: &Kubectl, seen: &Seen, findings: &mut Findings) {
    let now = SystemTime::now();
    control::look(seen, findings);
    roots::look(seen, now, findings);
    webhook::look(seen, findings);
    webhook::ask(kubectl, seen, now, findings).await;
    clocks::look(seen, findings);
    pods::look(seen, findings);
    policies::look(seen, findings);
    proxies::look(kubectl, seen, now, findings).await;
}
