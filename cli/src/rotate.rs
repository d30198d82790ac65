//! `weft rotate-root`: another root for the mesh, without a lost request.
//!
//! The new root is added beside the old one, and when everybody trusts it, it signs; when everybody has a leaf of it, the old one is dropped.
//! Where this stands is in the Secret of `weft-ca`, so a run that was interrupted is gone on with by the next. What each proxy has, its metrics
//! say. Nothing goes on while a ready proxy, or a part of the control plane, is not there yet.

mod holders;
mod secret;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use weft_ca::issuer::Issuer;
use weft_policy::spiffe::TrustDomain;

use self::holders::{Holder, Want};
use self::secret::{RootSecret, Stage};
use crate::kubectl::{ClusterArgs, Kubectl};

/// How the root is exchanged.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(
    after_help = "It takes some minutes, as kubelets hand files on once a minute. Interrupt it when you like: the next run goes on where this one was."
)]
pub(crate) struct RotateArgs {
    /// Only tell how far it is, and who is not there yet
    #[arg(long)]
    pub(crate) status: bool,
    /// How long one step may take before this command gives up waiting, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub(crate) patience: u64,
    /// The trust domain of the new root; that of weft-ca if it is not given
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<TrustDomain>,
    /// The namespace of the control plane
    #[arg(long, value_name = "NAME", default_value = "weft-system")]
    pub(crate) system: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Exchanges the root, or tells how far that is; `say` is told what happens.
///
/// # Errors
/// If the cluster does not answer, the Secret is not ours to change, or somebody is not there in time.
pub(crate) async fn run(args: &RotateArgs, say: fn(&str)) -> anyhow::Result<()> {
    let rotation = Rotation {
        kubectl: Kubectl::new(&args.cluster),
        args,
        say,
    };
    match args.status {
        true => rotation.status().await,
        false => rotation.whole().await,
    }
}

struct Rotation<'a> {
    kubectl: Kubectl,
    args: &'a RotateArgs,
    say: fn(&str),
}

impl Rotation<'_> {
    async fn status(&self) -> anyhow::Result<()> {
        let secret = self.secret().await?;
        let stage = secret.stage()?;
        self.tell(&format!("{stage}\n"));
        if let Some(want) = stage.want() {
            let (all, missing) = self.missing(&want).await?;
            self.tell(&progress(all, &missing));
        }
        Ok(())
    }

    async fn whole(&self) -> anyhow::Result<()> {
        let mut secret = self.secret().await?;
        if let Stage::Idle { .. } = secret.stage()? {
            let domain = self.trust_domain().await?;
            let next = Issuer::generate(&domain).context("make a root")?;
            let key = next.signer().key().serialize_pem();
            self.write(secret.added(&next.bundle().to_pem(), &key))
                .await?;
            secret = self.secret().await?;
        }
        while let Some(want) = secret.stage()?.want() {
            self.tell(&format!("{}\n", secret.stage()?));
            self.until(&want).await?;
            if let Some(next) = secret.next_step()? {
                self.write(next).await?;
            }
            secret = self.secret().await?;
        }
        self.tell(&format!("{}\n", secret.stage()?));
        Ok(())
    }

    async fn secret(&self) -> anyhow::Result<RootSecret> {
        let system = format!("--namespace={}", self.args.system);
        let found = self.kubectl.get(&["secret", SECRET, &system]).await?;
        let found = found.into_iter().next();
        let found = found.with_context(|| {
            format!(
                "there is no Secret {}/{SECRET}: weft-ca makes it when it starts",
                self.args.system
            )
        })?;
        RootSecret::of(found)
    }

    /// Replaces the Secret as it was read: if somebody changed it meanwhile, nothing happens.
    async fn write(&self, secret: Value) -> anyhow::Result<()> {
        let text = secret.to_string();
        let words = ["replace", "--filename=-"];
        let written = self.kubectl.told(&words, &text).await;
        written.context("write the Secret; run it again to go on")?;
        Ok(())
    }

    async fn trust_domain(&self) -> anyhow::Result<TrustDomain> {
        if let Some(domain) = &self.args.trust_domain {
            return Ok(domain.clone());
        }
        let system = format!("--namespace={}", self.args.system);
        let deployment = self
            .kubectl
            .get(&["deployment", "weft-ca", &system])
            .await?;
        let domain = deployment.first();
        let domain = domain.and_then(|one| crate::objects::variable(one, "WEFT_TRUST_DOMAIN"));
        let domain = domain.context("weft-ca does not say its trust domain: use --trust-domain")?;
        domain
            .parse()
            .with_context(|| format!("{domain} is no trust domain"))
    }

    /// Waits until nobody is missing.
    async fn until(&self, want: &Want) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let (all, missing) = self.missing(want).await?;
            let now = progress(all, &missing);
            if now != told {
                self.tell(&now);
                told = now;
            }
            if missing.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(self.args.patience) {
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                bail!(
                    "not there after {} s, and nothing was changed: {}. Run it again to go on",
                    self.args.patience,
                    names.join(", ")
                );
            }
            sleep(PAUSE).await;
        }
    }

    /// How many there are, and who has not what is wanted.
    async fn missing(&self, want: &Want) -> anyhow::Result<(usize, Vec<Holder>)> {
        let pods = self.kubectl.get(&["pods", "--all-namespaces"]).await?;
        let asked = holders::asked(&pods, &self.args.system);
        if !asked.iter().any(|(_, port)| *port == holders::CONTROL) {
            bail!("no pod of weft-ca is ready in {}", self.args.system);
        }
        let answers = holders::ask(&self.kubectl, &asked).await;
        Ok((asked.len(), holders::missing(answers, want)))
    }

    fn tell(&self, text: &str) {
        (self.say)(text);
    }
}

fn progress(all: usize, missing: &[Holder]) -> String {
    let there = all - missing.len();
    let mut text = format!("  {there} of {all}");
    for (place, holder) in missing.iter().enumerate() {
        if place == NAMED {
            text += &format!(", and {} more", missing.len() - NAMED);
            break;
        }
        text += if place == 0 { "; not yet: " } else { ", " };
        text += &holder.to_string();
    }
    text + "\n"
}

/// Roots by their SHA-256.
type Fingerprints = BTreeSet<String>;

const SECRET: &str = "weft-ca";
const PAUSE: Duration = Duration::from_secs(2);
/// So many are named in a line.
const NAMED: usize = 5;
