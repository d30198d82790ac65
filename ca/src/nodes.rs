//! Who may ask for a leaf of somebody else: the proxy of a node (ztunnel), for the pods that run there.
//!
//! Only accounts that the operator named are trusted so far, and only from a pod that is there, and only for an identity of which a pod is
//! on the same node. So a node that is taken over yields the identities of its own pods, which it has anyway.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::timeout;
use weft_policy::spiffe::SpiffeId;

use crate::account::Account;
use crate::token::{Caller, PodRef};

/// Decides who may be whom.
pub(crate) struct Nodes {
    trusted: BTreeSet<Account>,
    client: Option<Client>,
}

impl Nodes {
    /// Trusts `accounts`; without a client nobody can be looked up, and nobody is trusted.
    pub(crate) fn new(accounts: BTreeSet<Account>, client: Option<Client>) -> Self {
        Self {
            trusted: accounts,
            client,
        }
    }

    /// Checks that `caller` may have a leaf of `asked`.
    ///
    /// # Errors
    /// Says which condition does not hold, or that the API server could not be asked.
    pub(crate) async fn check(&self, caller: &Caller, asked: &SpiffeId) -> Result<(), NodeError> {
        if *asked == caller.id {
            return Ok(());
        }
        let (client, pod) = self.trusted(caller).ok_or(NodeError::NotTrusted)?;
        let account = Account::of(asked).ok_or(NodeError::NoWorkload)?;
        if asked.trust_domain() != caller.id.trust_domain() {
            return Err(NodeError::NoWorkload);
        }
        let looked = timeout(TIME_LIMIT, async {
            let node = node_of(client, &caller.id, pod).await?;
            runs_there(client, &node, &account).await
        });
        looked.await.unwrap_or(Err(NodeError::Slow))
    }

    fn trusted<'a>(&'a self, caller: &'a Caller) -> Option<(&'a Client, &'a PodRef)> {
        let known = self.trusted.contains(&Account::of(&caller.id)?);
        let client = self.client.as_ref().filter(|_| known)?;
        Some((client, caller.pod.as_ref()?))
    }
}

/// Where the caller runs. The pod is read even where the token names the node: it must still be there, and still be its own.
async fn node_of(client: &Client, id: &SpiffeId, pod: &PodRef) -> Result<String, NodeError> {
    let account = Account::of(id).ok_or(NodeError::CallerGone)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &account.namespace);
    let found = pods.get_opt(&pod.name).await?;
    let found = found.ok_or(NodeError::CallerGone)?;
    let spec = found.spec.unwrap_or_default();
    let is_same = found.metadata.uid.as_deref() == Some(&pod.uid)
        && spec.service_account_name.as_deref() == Some(&account.name);
    let node = spec.node_name.filter(|node| !node.is_empty());
    match node {
        Some(node) if is_same && pod.node.as_ref().is_none_or(|said| *said == node) => Ok(node),
        _ => Err(NodeError::CallerGone),
    }
}

/// Whether a pod of that account runs, or is about to run, on `node`.
async fn runs_there(client: &Client, node: &str, account: &Account) -> Result<(), NodeError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &account.namespace);
    let fields = format!(
        "spec.nodeName={node},spec.serviceAccountName={},status.phase!=Failed,status.phase!=Succeeded",
        account.name
    );
    let found = pods
        .list(&ListParams::default().fields(&fields).limit(1))
        .await?;
    match found.items.is_empty() {
        false => Ok(()),
        true => Err(NodeError::NotThere {
            node: node.to_owned(),
        }),
    }
}

/// Why a caller gets no leaf of another identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("not an account that is trusted with other identities")]
    NotTrusted,
    #[error("not an identity of a workload of this trust domain")]
    NoWorkload,
    #[error("the caller's pod is not there, or is another one")]
    CallerGone,
    #[error("no pod of it on the node {node}")]
    NotThere { node: String },
    #[error("no answer of the API server within {TIME_LIMIT:?}")]
    Slow,
    #[error("the API server could not be asked")]
    Call(#[source] Box<kube::Error>),
}

impl From<kube::Error> for NodeError {
    fn from(error: kube::Error) -> Self {
        Self::Call(Box::new(error))
    }
}

impl NodeError {
    /// Whether nothing is known, rather than something wrong.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Slow | Self::Call(_))
    }
}

const TIME_LIMIT: Duration = Duration::from_secs(5);
