//! Policy from files: a document, and annotations as a downward-API volume has them. Both are watched.
//!
//! A good change acts on the next request. A bad one changes nothing: the last good policy stays, every problem is logged
//! once, counted, and shown by `weft explain`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use tracing::warn;
use weft_policy::annotations::LOWER_LAYERS;
use weft_policy::downward::{self, DownwardError};
use weft_policy::layer::{Layer, LayerKind, snapshot};
use weft_policy::problem::Problem;
use weft_policy::scope::Scope;

use crate::config::Config;
use crate::policy::{Policies, Source};
use crate::watch::Watch;

/// The files that this proxy's own policy is in.
#[derive(Clone, Debug)]
pub(crate) struct PolicyFiles {
    document: Option<PathBuf>,
    annotations: Option<PathBuf>,
    /// Whose annotations they are.
    pod: String,
    pub(crate) scope: Scope,
}

/// The texts, as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    document: Option<String>,
    annotations: Option<String>,
}

impl PolicyFiles {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            document: config.policy_file.clone(),
            annotations: config.annotations_file.clone(),
            pod: format!(
                "{}/{}",
                config.namespace,
                config.pod_name.as_deref().unwrap_or("this pod")
            ),
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
        let mut annotations = self.annotations.as_deref().map(Watch::new);
        loop {
            match self.texts() {
                Ok(texts) if texts == seen => {}
                Ok(texts) => {
                    match self.layers(&texts) {
                        Ok(layers) => policies.take(Source::Files, layers),
                        Err(error) => policies.refuse(error.problems()),
                    }
                    seen = texts;
                }
                Err(error) => policies.refuse(vec![error.to_string()]),
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = changed(&mut document) => {}
                () = changed(&mut annotations) => {}
            }
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn texts(&self) -> Result<Texts, FilesError> {
        Ok(Texts {
            document: self.document.as_deref().map(text).transpose()?,
            annotations: self.annotations.as_deref().map(text).transpose()?,
        })
    }

    /// Makes layers of what the files say, the weaker first.
    ///
    /// # Errors
    /// Everything that is wrong with one of them.
    pub(crate) fn layers(&self, texts: &Texts) -> Result<Layers, FilesError> {
        let (mut layers, mut lower) = (Vec::new(), Vec::new());
        if let (Some(path), Some(text)) = (&self.document, &texts.document) {
            let file = path.display().to_string();
            let layer = Layer::from_document(LayerKind::File, file, text, &self.scope);
            layers.push(layer.map_err(|problems| FilesError::invalid(path, problems))?);
        }
        if let (Some(path), Some(text)) = (&self.annotations, &texts.annotations) {
            let read = downward::parse(text).map_err(|source| FilesError::Unread {
                path: path.clone(),
                source,
            })?;
            lower = self.lower(&read);
            let read = read
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()));
            let layer = Layer::from_annotations(LayerKind::Pod, &self.pod, read, &self.scope);
            layers.push(layer.map_err(|problems| FilesError::invalid(path, problems))?);
        }
        Ok(Layers { own: layers, lower })
    }

    /// What the injector saw under the pod's own policy. What cannot be used is of another version; discovery tells the rest.
    fn lower(&self, annotations: &[(String, String)]) -> Vec<Layer> {
        let mut noted = annotations.iter().filter(|(key, _)| key == LOWER_LAYERS);
        let Some((_, text)) = noted.next() else {
            return Vec::new();
        };
        snapshot::read(text, &self.scope).unwrap_or_else(|problems| {
            warn!(
                ?problems,
                "the layers that were left with the pod are not used"
            );
            Vec::new()
        })
    }
}

/// What the files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layers {
    /// The weaker first.
    pub(crate) own: Vec<Layer>,
    /// Under them, until the control plane says what is.
    pub(crate) lower: Vec<Layer>,
}

impl From<Vec<Layer>> for Layers {
    fn from(own: Vec<Layer>) -> Self {
        Self {
            own,
            lower: Vec::new(),
        }
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
    #[error("{}: {source}", path.display())]
    Unread {
        path: PathBuf,
        source: DownwardError,
    },
    #[error("{} problems in {}: {}", problems.len(), path.display(), listed(problems))]
    Invalid {
        path: PathBuf,
        problems: Vec<Problem>,
    },
    #[error("{} problems in the policy as a whole: {}", problems.len(), listed(problems))]
    Whole { problems: Vec<Problem> },
}

impl FilesError {
    fn invalid(path: &Path, problems: Vec<Problem>) -> Self {
        let path = path.into();
        Self::Invalid { path, problems }
    }

    /// One line a problem.
    fn problems(&self) -> Vec<String> {
        match self {
            Self::Unreadable { .. } | Self::Unread { .. } => vec![self.to_string()],
            Self::Invalid { problems, .. } | Self::Whole { problems } => {
                problems.iter().map(Problem::to_string).collect()
            }
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
