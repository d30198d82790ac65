//! The Secret of the authority: what its keys say of the rotation, and how the next step changes them.

use std::fmt;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use weft_certs::bundle::{Bundle, fingerprint};

use super::Fingerprints;
use super::holders::Want;

/// The Secret as it was read.
pub(super) struct RootSecret(Value);

/// How far a rotation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// None is under way.
    Idle { signs: String },
    /// A next root is there to be trusted; the old one signs.
    Added { signs: String, next: String },
    /// The new root signs; the old ones are still trusted.
    Switched { signs: String, old: Fingerprints },
    /// The old roots are gone from the Secret, and not yet from everywhere.
    Dropped { signs: String, old: Fingerprints },
}

impl Stage {
    /// What everybody must have before the next step.
    pub(super) fn want(&self) -> Option<Want> {
        match self {
            Self::Idle { .. } => None,
            Self::Added { next, .. } => Some(Want::Root(next.clone())),
            Self::Switched { signs, .. } => Some(Want::Leaf(signs.clone())),
            Self::Dropped { old, .. } => Some(Want::Without(old.clone())),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle { signs } => {
                write!(f, "root {} signs, no rotation is under way", short(signs))
            }
            Self::Added { signs, next } => write!(
                f,
                "1/3 root {} is added; {} signs until everybody trusts the new one",
                short(next),
                short(signs)
            ),
            Self::Switched { signs, old } => write!(
                f,
                "2/3 root {} signs; {} is trusted until everybody has a leaf of the new one",
                short(signs),
                list(old)
            ),
            Self::Dropped { signs, old } => write!(
                f,
                "3/3 root {} signs; {} is dropped, until nobody trusts it any more",
                short(signs),
                list(old)
            ),
        }
    }
}

impl RootSecret {
    /// Takes the Secret, if a rotation of it is ours to make.
    pub(super) fn of(mut secret: Value) -> anyhow::Result<Self> {
        let by = crate::objects::label(&secret, "app.kubernetes.io/managed-by");
        if by != Some("weft-ca") {
            bail!(
                "the Secret was not made by weft-ca: exchange the root where it comes from, by the steps in docs/ca.md"
            );
        }
        if let Some(metadata) = secret.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        Ok(Self(secret))
    }

    pub(super) fn stage(&self) -> anyhow::Result<Stage> {
        let signs = self.roots("ca.crt")?;
        let signs = signs.into_iter().next().context("ca.crt has no root")?;
        if self.has("next.crt") {
            let next = self.roots("next.crt")?.into_iter().next();
            let next = next.context("next.crt has no root")?;
            return Ok(Stage::Added { signs, next });
        }
        if self.has("previous.crt") {
            let old = self.roots("previous.crt")?.into_iter().collect();
            return Ok(Stage::Switched { signs, old });
        }
        let dropped = self.0.pointer("/metadata/annotations");
        match dropped.and_then(|all| all.get(DROPPED)?.as_str()) {
            Some(old) => {
                let old = old.split(',').map(str::to_owned).collect();
                Ok(Stage::Dropped { signs, old })
            }
            None => Ok(Stage::Idle { signs }),
        }
    }

    /// As the next step has it; none if there is none.
    pub(super) fn next_step(&self) -> anyhow::Result<Option<Value>> {
        Ok(match self.stage()? {
            Stage::Idle { .. } => None,
            Stage::Added { .. } => Some(self.switched()),
            Stage::Switched { old, .. } => Some(self.dropped(&old)),
            Stage::Dropped { .. } => Some(self.ended()),
        })
    }

    /// With a next root, which is trusted and does not sign.
    pub(super) fn added(&self, root: &str, key: &str) -> Value {
        self.changed(|data, _| {
            data.insert("next.crt".to_owned(), encoded(root));
            data.insert("next.key".to_owned(), encoded(key));
        })
    }

    /// With the next root as the one that signs, and the old one still trusted.
    fn switched(&self) -> Value {
        self.changed(|data, _| {
            let (next, key) = (data.remove("next.crt"), data.remove("next.key"));
            if let (Some(next), Some(key)) = (next, key) {
                let old = data.insert("ca.crt".to_owned(), next.clone());
                data.insert("previous.crt".to_owned(), old.unwrap_or_default());
                data.insert("tls.crt".to_owned(), next);
                data.insert("tls.key".to_owned(), key);
            }
        })
    }

    /// With the old roots no longer trusted; which they were is kept, so that it can be seen to that everybody has heard of it.
    fn dropped(&self, old: &Fingerprints) -> Value {
        let old: Vec<&str> = old.iter().map(String::as_str).collect();
        self.changed(|data, annotations| {
            data.remove("previous.crt");
            annotations.insert(DROPPED.to_owned(), old.join(",").into());
        })
    }

    /// With nothing of the old roots.
    fn ended(&self) -> Value {
        self.changed(|_, annotations| {
            annotations.remove(DROPPED);
        })
    }

    /// Changes data and annotations. Each change counts: who reads the bundle knows which is newer.
    fn changed(
        &self,
        change: impl FnOnce(&mut Map<String, Value>, &mut Map<String, Value>),
    ) -> Value {
        let mut secret = self.0.clone();
        let part = |pointer: &str| {
            let part = self.0.pointer(pointer).and_then(Value::as_object);
            part.cloned().unwrap_or_default()
        };
        let (mut data, mut annotations) = (part("/data"), part("/metadata/annotations"));
        change(&mut data, &mut annotations);
        let sequence = annotations.get(SEQUENCE).and_then(Value::as_str);
        let sequence: u64 = sequence.and_then(|text| text.parse().ok()).unwrap_or(0);
        annotations.insert(SEQUENCE.to_owned(), (sequence + 1).to_string().into());
        if let Some(secret) = secret.as_object_mut() {
            secret.insert("data".to_owned(), data.into());
        }
        if let Some(metadata) = secret.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("annotations".to_owned(), annotations.into());
        }
        secret
    }

    fn has(&self, key: &str) -> bool {
        !crate::objects::text(&self.0, &format!("/data/{key}")).is_empty()
    }

    /// The fingerprints of a key's certificates, in their order.
    fn roots(&self, key: &str) -> anyhow::Result<Vec<String>> {
        let text = crate::objects::text(&self.0, &format!("/data/{key}"));
        let bytes = STANDARD
            .decode(text)
            .with_context(|| format!("read {key}"))?;
        let bundle = Bundle::from_pem(&String::from_utf8_lossy(&bytes));
        let bundle = bundle.with_context(|| format!("read {key}"))?;
        Ok(bundle.roots().iter().map(fingerprint).collect())
    }
}

fn encoded(text: &str) -> Value {
    STANDARD.encode(text).into()
}

/// Enough of a fingerprint to tell two roots from each other.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

fn list(fingerprints: &Fingerprints) -> String {
    let all: Vec<&str> = fingerprints.iter().map(|one| short(one)).collect();
    all.join(", ")
}

const SEQUENCE: &str = "weft.dev/bundle-sequence";
/// The roots that were dropped last, until nobody trusts them.
const DROPPED: &str = "weft.dev/dropped-roots";

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_ca::issuer::Issuer;

    use super::*;

    fn root() -> (String, String) {
        let issuer = Issuer::generate(&"cluster.local".parse().unwrap()).unwrap();
        let key = issuer.signer().key().serialize_pem();
        (issuer.bundle().to_pem(), key)
    }

    fn first((root, key): &(String, String)) -> Value {
        json!({
            "metadata": {"name": "weft-ca", "resourceVersion": "7", "managedFields": [],
                "labels": {"app.kubernetes.io/managed-by": "weft-ca"},
                "annotations": {SEQUENCE: "1"}},
            "data": {"tls.crt": encoded(root), "tls.key": encoded(key), "ca.crt": encoded(root)},
        })
    }

    fn step(secret: &RootSecret) -> RootSecret {
        RootSecret::of(secret.next_step().unwrap().unwrap()).unwrap()
    }

    #[test]
    fn a_rotation_takes_three_steps() {
        let (old, new) = (root(), root());
        let fingerprint_of =
            |root: &(String, String)| fingerprint(&Bundle::from_pem(&root.0).unwrap().roots()[0]);
        let (signs, next) = (fingerprint_of(&old), fingerprint_of(&new));
        let idle = RootSecret::of(first(&old)).unwrap();
        let stage = Stage::Idle {
            signs: signs.clone(),
        };
        assert_eq!(idle.stage().unwrap(), stage);

        let added = RootSecret::of(idle.added(&new.0, &new.1)).unwrap();
        assert_eq!(
            added.stage().unwrap().want(),
            Some(Want::Root(next.clone()))
        );
        assert_eq!(
            added.0["data"]["tls.crt"],
            encoded(&old.0),
            "it does not sign"
        );

        let switched = step(&added);
        let stage = Stage::Switched {
            signs: next.clone(),
            old: [signs.clone()].into(),
        };
        assert_eq!(switched.stage().unwrap(), stage);
        assert_eq!(switched.0["data"]["tls.key"], encoded(&new.1));
        assert_eq!(
            switched.stage().unwrap().want(),
            Some(Want::Leaf(next.clone()))
        );

        let dropped = step(&switched);
        let want = Want::Without([signs].into());
        assert_eq!(dropped.stage().unwrap().want(), Some(want));
        let keys: Vec<&String> = dropped.0["data"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["ca.crt", "tls.crt", "tls.key"]);

        let ended = step(&dropped);
        assert_eq!(ended.stage().unwrap(), Stage::Idle { signs: next });
        assert!(ended.next_step().unwrap().is_none());
        let metadata = &ended.0["metadata"];
        assert_eq!(metadata["annotations"], json!({SEQUENCE: "5"}));
        assert_eq!(
            metadata["resourceVersion"], "7",
            "so that a change in between is found"
        );
    }

    #[test]
    fn a_secret_of_somebody_else_is_left_alone() {
        let mut secret = first(&root());
        secret["metadata"]["labels"] = json!({});
        assert!(RootSecret::of(secret).is_err());
    }
}
