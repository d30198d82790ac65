//! Policy from files: a document, and annotations as a downward-API volume has them. Both are watched.
//!
//! A good change acts on the next request. A bad one changes nothing: the last good policy stays, every problem is logged
//! once, counted, and shown by `weft explain`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use tracing::info;
use weft_policy::Policy;
use weft_policy::problem::Problem;
use weft_policy::scope::Scope;

use crate::config::Config;
use crate::policy::Policies;
use crate::watch::Watch;

/// The files that this proxy's own policy is in.
#[derive(Clone, Debug)]
pub(crate) struct PolicyFiles {
    document: Option<PathBuf>,
    scope: Scope,
}

/// The texts, as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    document: Option<String>,
}

impl PolicyFiles {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            document: config.policy_file.clone(),
            scope: Scope {
                trust_domain: config.trust_domain.clone(),
                namespace: config.namespace.clone(),
            },
        }
    }

    /// Brings changes into `policies`, which hold what `seen` says, until `cancel`.
    pub(crate) async fn follow(
        self,
        mut seen: Texts,
        policies: Policies,
        cancel: CancellationToken,
    ) {
        let mut document = self.document.as_deref().map(Watch::new);
        loop {
            match self.texts() {
                Ok(texts) if texts == seen => {}
                Ok(texts) => {
                    self.take_in(&texts, &policies);
                    seen = texts;
                }
                Err(error) => policies.refuse(vec![error.to_string()]),
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = changed(&mut document) => {}
            }
        }
    }

    fn take_in(&self, texts: &Texts, policies: &Policies) {
        match self.parse(texts) {
            Ok(policy) => {
                policies.replace(policy);
                info!("policy loaded");
            }
            Err(error) => policies.refuse(error.problems()),
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn texts(&self) -> Result<Texts, FilesError> {
        Ok(Texts {
            document: self.document.as_deref().map(text).transpose()?,
        })
    }

    /// Makes a policy of what the files say.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn parse(&self, texts: &Texts) -> Result<Policy, FilesError> {
        let Some(document) = &texts.document else {
            return Ok(Policy::default());
        };
        Policy::parse(document, &self.scope).map_err(|problems| FilesError::Invalid { problems })
    }
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn text(path: &Path) -> Result<String, FilesError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    let whole = read.and_then(|bytes| match u64::try_from(bytes) {
        Ok(bytes) if bytes <= MAX_BYTES => Ok(text),
        _ => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_BYTES} bytes"),
        )),
    });
    whole.map_err(|source| FilesError::Unreadable {
        path: path.into(),
        source,
    })
}

/// Why policy files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} problems: {}", problems.len(), listed(problems))]
    Invalid { problems: Vec<Problem> },
}

impl FilesError {
    /// One line a problem.
    fn problems(&self) -> Vec<String> {
        match self {
            Self::Unreadable { .. } => vec![self.to_string()],
            Self::Invalid { problems } => problems.iter().map(Problem::to_string).collect(),
        }
    }
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("; ")
}

/// Largest file that is read: four times what the annotations of one object may have (256 KiB, Kubernetes
/// `TotalAnnotationSizeLimitB`).
const MAX_BYTES: u64 = 1024 * 1024;
