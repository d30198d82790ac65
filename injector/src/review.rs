//! One AdmissionReview (admission.k8s.io/v1): bytes in, bytes out. Pure; never fails: what cannot be read is told to who asked.
//!
//! Pods are patched. Of workloads, Services and Namespaces only the annotations are looked at, so that a typo is refused when it is
//! written and not when a controller makes pods.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_policy::layer::{Layer, LayerKind};

use crate::around::Around;
use crate::patch::{self, Operation};
use crate::pod::{self, Outcome};
use crate::problems::{Problem, Refusal};
use crate::settings::Settings;
use crate::workload::{self, Name};

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<T> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Request<T>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<T> {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    object: Option<T>,
    old_object: Option<T>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
}

/// A review that has been read as far as needed to know what it is about.
#[derive(Debug)]
pub struct Asked<'a> {
    body: &'a [u8],
    uid: String,
    kind: String,
    namespace: String,
    operation: String,
    concerned: bool,
}

/// Why there is no review to answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Something else, or broken.
    #[error("the body is no AdmissionReview: {0}")]
    Unreadable(serde_json::Error),
    /// Of another version.
    #[error(
        "the body is {kind:?} of {version:?}; AdmissionReview of \"admission.k8s.io/v1\" is taken"
    )]
    Other {
        /// Its kind.
        kind: String,
        /// Its version.
        version: String,
    },
    /// The answer must carry it.
    #[error("the AdmissionReview's request has no uid")]
    NoUid,
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    uid: String,
    /// Whether the object may be.
    pub allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    /// Told to whoever made the object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What became of it.
    #[serde(skip)]
    pub verdict: Verdict,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// A pod got a proxy.
    Injected,
    /// A pod had one, or was not meant to; or an object that is only looked at is right.
    #[default]
    Unchanged,
    /// Something is wrong with it.
    Refused,
}

impl<'a> Asked<'a> {
    /// Reads what `body` is about.
    ///
    /// # Errors
    /// Why it is nothing that can be answered.
    pub fn read(body: &'a [u8]) -> Result<Self, ReviewError> {
        let review: Review<IgnoredAny> =
            serde_json::from_slice(body).map_err(ReviewError::Unreadable)?;
        let Review {
            api_version,
            kind,
            request,
        } = review;
        if kind != "AdmissionReview" || api_version != VERSION {
            return Err(ReviewError::Other {
                kind,
                version: api_version,
            });
        }
        if request.uid.is_empty() {
            return Err(ReviewError::NoUid);
        }
        let known = ["", "apps", "batch"].contains(&request.kind.group.as_str());
        let written = ["CREATE", "UPDATE"].contains(&request.operation.as_str());
        Ok(Self {
            body,
            uid: request.uid,
            concerned: known
                && written
                && request.sub_resource.is_empty()
                && request.object.is_some(),
            kind: request.kind.kind,
            namespace: request.namespace,
            operation: request.operation,
        })
    }

    /// Where the object is.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Decides.
    #[must_use]
    pub fn answer(&self, around: &Around, settings: &Settings) -> Response {
        let template = workload::template(&self.kind);
        let answered = match (self.kind.as_str(), template) {
            _ if !self.concerned => Ok(allowed()),
            // What runs cannot get a proxy any more.
            ("Pod", _) if self.operation != "CREATE" => Ok(allowed()),
            ("Pod", _) => self.object(|pod, _| admit(&pod, around, settings)),
            (kind, Some(template)) => self.object(|object, old| {
                let judge =
                    |object: &Value| judge_workload(kind, object, template, around, settings);
                unless_before(judge(&object), old.as_ref().map(judge))
            }),
            ("Service" | "Namespace", None) => self.object(|object, old| {
                let judge = |object: &Value| judge_annotations(&self.kind, object, around);
                unless_before(judge(&object), old.as_ref().map(judge))
            }),
            _ => Ok(allowed()),
        };
        let mut response = answered.unwrap_or_else(|refusal| refused(&refusal));
        response.uid.clone_from(&self.uid);
        response.warnings.truncate(MAX_WARNINGS);
        response
    }

    fn object<T: DeserializeOwned>(
        &self,
        judge: impl FnOnce(T, Option<T>) -> Result<Response, String>,
    ) -> Result<Response, String> {
        let review: Review<T> = serde_json::from_slice(self.body)
            .map_err(|error| format!("the {} cannot be read: {error}", self.kind))?;
        let Request {
            object, old_object, ..
        } = review.request;
        let object = object.ok_or_else(|| format!("the review has no {}", self.kind))?;
        judge(object, old_object)
    }
}

/// As the API server wants it.
#[must_use]
pub fn write(response: &Response) -> Vec<u8> {
    let review = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
    review.to_string().into_bytes()
}

fn admit(pod: &Pod, around: &Around, settings: &Settings) -> Result<Response, String> {
    let name = Name::of_pod(&pod.metadata);
    let outcome =
        pod::inject(pod, &name, around, settings).map_err(|refusal| refusal.to_string())?;
    let Outcome::Injected(after, warnings) = outcome else {
        return Ok(allowed());
    };
    let value = |pod: &Pod| serde_json::to_value(pod).map_err(|error| error.to_string());
    let operations = patch::difference(&value(pod)?, &value(&after)?);
    if operations.is_empty() {
        return Ok(Response {
            warnings,
            ..allowed()
        });
    }
    Ok(Response {
        patch_type: Some("JSONPatch"),
        patch: Some(encoded(&operations)?),
        warnings,
        verdict: Verdict::Injected,
        ..allowed()
    })
}

fn encoded(operations: &[Operation]) -> Result<String, String> {
    let text = serde_json::to_vec(operations).map_err(|error| error.to_string())?;
    Ok(STANDARD.encode(text))
}

/// What is wrong with an object, and what is to be told of it though nothing is.
type Judged = Result<Vec<String>, Refusal>;

/// The annotations of a workload itself, and its pods as they will be.
fn judge_workload(
    kind: &str,
    object: &Value,
    template: &str,
    around: &Around,
    settings: &Settings,
) -> Judged {
    let own = judge_annotations(kind, object, around);
    let pods = object.pointer(template).cloned().unwrap_or_default();
    let pods = serde_json::from_value(pods).map_err(|error| Refusal {
        subject: format!("{} {}", kind.to_lowercase(), name(object)),
        problems: vec![Problem::Pod(format!(
            "its template cannot be read: {error}"
        ))],
    });
    let pods = pods.and_then(|pod: Pod| {
        let name = Name::of_template(kind, name(object), &pod.metadata);
        pod::inject(&pod, &name, around, settings)
    });
    match (own, pods) {
        (Ok(_), Ok(Outcome::Injected(_, warnings))) => Ok(warnings),
        (Ok(_), Ok(Outcome::Left(_))) => Ok(Vec::new()),
        (Err(refusal), Ok(_)) => Err(refusal),
        (own, Err(Refusal { subject, problems })) => {
            let own = own.err().map(|refusal| refusal.problems);
            let problems = own.into_iter().flatten().chain(problems).collect();
            Err(Refusal { subject, problems })
        }
    }
}

fn judge_annotations(kind: &str, object: &Value, around: &Around) -> Judged {
    let subject = format!("{} {}", kind.to_lowercase(), name(object));
    let meta = object.get("metadata").cloned().unwrap_or_default();
    let meta: ObjectMeta = serde_json::from_value(meta).map_err(|error| Refusal {
        subject: subject.clone(),
        problems: vec![Problem::Pod(format!(
            "its metadata cannot be read: {error}"
        ))],
    })?;
    let layer = match kind {
        "Service" => LayerKind::Service,
        "Namespace" => LayerKind::Namespace,
        _ => LayerKind::Workload,
    };
    let annotations = meta.annotations.unwrap_or_default();
    let annotations = annotations
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let read = Layer::from_annotations(layer, &*subject, annotations, &around.scope);
    read.map(|_| Vec::new()).map_err(|problems| Refusal {
        subject,
        problems: problems.into_iter().map(Problem::from).collect(),
    })
}

/// An object that was wrong before may be changed: whoever changes something else must not be stopped by it.
fn unless_before(now: Judged, before: Option<Judged>) -> Result<Response, String> {
    match (now, before) {
        (Ok(warnings), _) => Ok(Response {
            warnings,
            ..allowed()
        }),
        (Err(now), Some(Err(before))) if now == before => {
            let warnings = now
                .problems
                .iter()
                .map(|problem| format!("as before: {problem}"));
            Ok(Response {
                warnings: warnings.collect(),
                ..allowed()
            })
        }
        (Err(now), _) => Err(now.to_string()),
    }
}

fn name(object: &Value) -> &str {
    let name = |key| object.get("metadata")?.get(key)?.as_str();
    name("name")
        .or_else(|| name("generateName"))
        .unwrap_or("without a name")
}

fn allowed() -> Response {
    Response {
        allowed: true,
        ..Response::default()
    }
}

/// "BadRequest" is what kubectl shows with the message and nothing around it.
fn refused(message: &str) -> Response {
    Response {
        status: Some(
            json!({"status": "Failure", "reason": "BadRequest", "code": 400, "message": message}),
        ),
        verdict: Verdict::Refused,
        ..Response::default()
    }
}

const VERSION: &str = "admission.k8s.io/v1";
/// More are cut by the API server anyway (4096 bytes in all).
const MAX_WARNINGS: usize = 16;

#[cfg(test)]
mod tests;
