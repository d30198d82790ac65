//! What `top`, `edges`, `tap`, `trace` and `dashboard` know of the mesh: what the proxies' admin listeners answer, put together.
//!
//! A proxy's counts go up for ever; what happens *now* is the difference of two looks.

pub(crate) mod edges;
pub(crate) mod kube;
pub(crate) mod request;
pub(crate) mod table;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use self::edges::Counted;
use self::kube::Forwards;
use self::request::Passed;
use crate::client;
use crate::demo::trace::Span;
use crate::explain::Output;

/// Whom to ask, and how to print.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxiesArgs {
    /// Admin listeners of proxies, several separated by commas
    #[arg(
        long,
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:15000"
    )]
    pub(crate) proxy: Vec<SocketAddr>,
    /// Ask the proxies of all pods in this Kubernetes namespace instead, through kubectl
    #[arg(long, short, value_name = "NAMESPACE", conflicts_with = "proxy")]
    pub(crate) namespace: Option<String>,
    /// For people, or for programs
    #[arg(long, short, default_value = "text")]
    pub(crate) output: Output,
}

/// The proxies that are asked.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    addresses: Arc<Vec<SocketAddr>>,
    /// Ends with the last clone.
    _forwards: Option<Arc<Forwards>>,
}

/// Who has answered, and what.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer<T> {
    pub(crate) workload: String,
    pub(crate) namespace: String,
    #[serde(flatten)]
    pub(crate) rest: T,
}

/// What `/edges` answers.
#[derive(Debug, Deserialize)]
pub(crate) struct EdgesAnswer {
    pub(crate) bounds_ms: Vec<f64>,
    pub(crate) edges: Vec<Counted>,
}

/// What `/requests` answers.
#[derive(Debug, Deserialize)]
pub(crate) struct RequestsAnswer {
    pub(crate) next: u64,
    pub(crate) requests: Vec<Passed>,
}

#[derive(Debug, Deserialize)]
struct TraceAnswer {
    spans: Vec<SpanAnswer>,
}

#[derive(Debug, Deserialize)]
struct SpanAnswer {
    span_id: String,
    parent_id: Option<String>,
    kind: String,
    name: String,
    start: u64,
    end: u64,
    attributes: std::collections::BTreeMap<String, String>,
}

impl Proxies {
    /// Those that `args` name.
    ///
    /// # Errors
    /// kubectl does not find or reach them.
    pub(crate) async fn of(args: &ProxiesArgs) -> anyhow::Result<Self> {
        let Some(namespace) = &args.namespace else {
            return Ok(Self::at(args.proxy.clone()));
        };
        let forwards = Forwards::open(namespace).await?;
        Ok(Self {
            addresses: Arc::new(forwards.addresses()),
            _forwards: Some(Arc::new(forwards)),
        })
    }

    /// Those with admin listeners at `addresses`.
    pub(crate) fn at(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses: Arc::new(addresses),
            _forwards: None,
        }
    }

    /// What each counted of its edges so far.
    ///
    /// # Errors
    /// None has answered; why the first has not.
    pub(crate) async fn edges(&self) -> anyhow::Result<Vec<(SocketAddr, Answer<EdgesAnswer>)>> {
        self.ask(|_| "/edges".to_owned()).await
    }

    /// What has ended since `since`, which is brought up to date; oldest first.
    ///
    /// # Errors
    /// As [`Self::edges`].
    pub(crate) async fn requests(
        &self,
        since: &mut HashMap<SocketAddr, u64>,
    ) -> anyhow::Result<Vec<Passed>> {
        let path = |proxy| {
            let number = since.get(&proxy).copied().unwrap_or(0);
            format!("/requests?since={number}")
        };
        let answers: Vec<(SocketAddr, Answer<RequestsAnswer>)> = self.ask(path).await?;
        let mut all = Vec::new();
        for (proxy, answer) in answers {
            since.insert(proxy, answer.rest.next);
            let (workload, namespace) = (answer.workload, answer.namespace);
            all.extend(
                answer
                    .rest
                    .requests
                    .into_iter()
                    .map(|passed| passed.told_by(workload.clone(), namespace.clone())),
            );
        }
        all.sort_by(|one, other| one.time().cmp(other.time()));
        Ok(all)
    }

    /// The spans of a trace that the proxies still have.
    ///
    /// # Errors
    /// As [`Self::edges`].
    pub(crate) async fn trace(&self, id: &str) -> anyhow::Result<Vec<Span>> {
        let path = format!("/trace/{id}");
        let answers: Vec<(SocketAddr, Answer<TraceAnswer>)> = self.ask(|_| path.clone()).await?;
        let spans = answers.into_iter().flat_map(|(_, answer)| {
            let service = answer.workload;
            let spans = answer.rest.spans.into_iter();
            spans.map(move |span| span.into_span(service.clone()))
        });
        Ok(spans.collect())
    }

    /// Asks all at once. One that does not answer is left out, as pods come and go.
    async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        path: impl Fn(SocketAddr) -> String,
    ) -> anyhow::Result<Vec<(SocketAddr, T)>> {
        let mut asked = JoinSet::new();
        for proxy in self.addresses.iter().copied() {
            let path = path(proxy);
            asked.spawn(async move { (proxy, one(proxy, &path).await) });
        }
        let (mut answers, mut failure) = (Vec::new(), None);
        while let Some(Ok((proxy, answered))) = asked.join_next().await {
            match answered {
                Ok(answer) => answers.push((proxy, answer)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        answers.sort_by_key(|(proxy, _)| *proxy);
        match failure {
            Some(error) if answers.is_empty() => Err(error),
            _ => Ok(answers),
        }
    }
}

async fn one<T: DeserializeOwned>(proxy: SocketAddr, path: &str) -> anyhow::Result<T> {
    let answer = client::get(proxy, &proxy.to_string(), path, &HeaderMap::new()).await;
    let answer = answer.with_context(|| {
        format!("ask the proxy at {proxy}; its admin listener is WEFT_ADMIN_LISTEN, 127.0.0.1:15000 unless set")
    })?;
    if answer.status != StatusCode::OK {
        bail!(
            "{proxy} answered {} to {path}: this is not a proxy's admin listener",
            answer.status
        );
    }
    serde_json::from_slice(&answer.body)
        .with_context(|| format!("read what {proxy} answered to {path}"))
}

impl SpanAnswer {
    fn into_span(self, service: String) -> Span {
        Span {
            service,
            side: match self.kind.as_str() {
                "server" => crate::demo::trace::Side::Inbound,
                "client" => crate::demo::trace::Side::Outbound,
                _ => crate::demo::trace::Side::Whole,
            },
            id: self.span_id,
            parent: self.parent_id,
            name: self.name,
            start: std::time::Duration::from_nanos(self.start),
            end: std::time::Duration::from_nanos(self.end),
            attributes: self.attributes,
        }
    }
}
