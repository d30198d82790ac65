//! What the authority is made of, by its settings.

use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use kube::Client;
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::config::{Config, IssuerPlace, Tokens};
use crate::issuer::Issuer;
use crate::keep::Keeper;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::secret::SecretStore;
use crate::server::Authority;
use crate::server::serving::Serving;
use crate::token::jwks::Keys;
use crate::token::review::Reviewer;
use crate::token::{Authenticator, JwtAuthenticator};

/// What is served, and what it was made from.
pub(super) struct Parts {
    pub(super) authority: Arc<Authority>,
    pub(super) serving: Arc<Serving>,
    pub(super) keeper: Keeper,
    pub(super) bundle: Option<Bundle>,
}

impl Parts {
    pub(super) async fn load(config: &Config, client: Option<Client>) -> anyhow::Result<Self> {
        let domain = config.trust_domain.clone();
        let (keeper, issuer, secret) = issuer(config, client.as_ref()).await?;
        let serving = Serving::new(config.names.clone(), &issuer)
            .context("make the authority's own certificate")?;
        let metrics = Metrics::new()?;
        metrics.issuer(&issuer);
        let authority = Arc::new(Authority {
            issuer: ArcSwap::from_pointee(issuer),
            authenticator: authenticator(config, client.clone(), &metrics)?,
            nodes: Nodes::new(config.node_accounts.clone(), client.clone()),
            serving_names: config.serving_names.clone(),
            lifetimes: config.lifetimes,
            metrics,
            changed: watch::Sender::new(0),
        });
        let bundle = match &config.bundle_config_map {
            None => None,
            Some(name) => Some(Bundle {
                client: client.context(NO_CLIENT)?,
                name: name.clone(),
                namespace: config.namespace.clone(),
                domain,
                secret,
                authority: Arc::clone(&authority),
            }),
        };
        Ok(Self {
            authority,
            serving,
            keeper,
            bundle,
        })
    }

    pub(super) fn keys(&self) -> Option<&Keys> {
        match &self.authority.authenticator {
            Authenticator::Jwt(jwt) => Some(&jwt.keys),
            Authenticator::Review(_) => None,
        }
    }
}

async fn issuer(
    config: &Config,
    client: Option<&Client>,
) -> anyhow::Result<(Keeper, Issuer, Option<SecretStore>)> {
    let domain = config.trust_domain.clone();
    match &config.issuer {
        IssuerPlace::Files(store) => {
            let (keeper, issuer) = Keeper::of_files(store.clone(), domain, config.publish.clone())?;
            Ok((keeper, issuer, None))
        }
        IssuerPlace::Secret(name) => {
            let client = client.context(NO_CLIENT)?.clone();
            let store = SecretStore::new(
                client,
                &config.namespace,
                name,
                config.bundle_config_map.as_deref(),
            );
            let read = Keeper::of_secret(store.clone(), domain).await;
            let place = || format!("read the Secret {}/{name}", config.namespace);
            let (keeper, issuer) = read.with_context(place)?;
            Ok((keeper, issuer, Some(store)))
        }
    }
}

fn authenticator(
    config: &Config,
    client: Option<Client>,
    metrics: &Metrics,
) -> anyhow::Result<Authenticator> {
    let audiences = config.audiences.iter().cloned();
    let trust_domain = config.trust_domain.clone();
    Ok(match &config.tokens {
        Tokens::Keys { source, issuer } => {
            let keys = Keys::new(source.clone());
            keys.read_file().context("read WEFT_CA_JWKS")?;
            Authenticator::Jwt(JwtAuthenticator {
                trust_domain,
                issuer: issuer.clone(),
                audiences: audiences.collect(),
                keys,
            })
        }
        Tokens::Kubernetes => {
            let client = client.context(NO_CLIENT)?;
            let metrics = metrics.clone();
            let reviewer = Reviewer::new(client, trust_domain, audiences, metrics);
            Authenticator::Review(reviewer)
        }
    })
}

/// Whoever needs one has it: see [`Config::needs_cluster`].
const NO_CLIENT: &str = "no client of the API server";
