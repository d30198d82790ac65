//! What can be chosen at an installation, and where it is filled in.

use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_injector::config::variables;
use weft_policy::problem::nearest;
use weft_policy::spiffe::TrustDomain;

use super::overlay::Overlay;

/// What was chosen; what was not is as `manifests` have it.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Choices {
    /// How large
    #[arg(long, value_name = "OVERLAY")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overlay: Option<Overlay>,
    /// Three replicas of each part, apart from each other: the same as --overlay ha
    #[arg(long, conflicts_with = "overlay")]
    #[serde(skip)]
    ha: bool,
    /// The image of all parts and of the proxies, where it is not taken from weft.dev
    #[arg(long, value_name = "NAME:TAG")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Part of every identity; not to be changed once the mesh is in use
    #[arg(long, value_name = "DOMAIN")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust_domain: Option<String>,
    /// Ends the names of Services, if it is not cluster.local
    #[arg(long, value_name = "DOMAIN")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_domain: Option<String>,
    /// A setting of a part, see below; may be given several times
    #[arg(long = "set", value_name = "PART.NAME=VALUE")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settings: Vec<Setting>,
}

/// `PART.NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Setting {
    part: Part,
    name: String,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    One(&'static str),
}

/// Why a setting means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingError {
    #[error("{0:?} is not PART.NAME=VALUE, as in injector.replicas=3")]
    Form(String),
    #[error("{0:?} is no part; there are all, ca, discovery, injector")]
    Part(String),
    #[error("{0:?} is no setting{hint}; there are replicas, cpu, memory, cpu-limit, memory-limit, and variables WEFT_... and OTEL_...", hint = hint(.0))]
    Name(String),
    #[error("{0:?} is no number of replicas")]
    Replicas(String),
    #[error("a value is missing after {0}=")]
    Value(String),
}

impl Choices {
    /// How large.
    pub(super) fn overlay(&self) -> Overlay {
        match self.ha {
            true => Overlay::Ha,
            false => self.overlay.unwrap_or_default(),
        }
    }

    /// The image, if one was chosen.
    pub(super) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Whether proxies of nodes get certificates, for which the authority must be allowed to look up where pods run.
    pub(super) fn trusts_nodes(&self) -> bool {
        let mut settings = self.settings.iter();
        settings.any(|one| one.of("ca") && one.name == "WEFT_CA_TRUSTED_NODE_ACCOUNTS")
    }

    /// What is asked for, as it would be typed.
    pub(super) fn words(&self) -> Vec<String> {
        let overlay = Some(self.overlay().name()).filter(|_| self.ha || self.overlay.is_some());
        let flags = [
            ("overlay", overlay),
            ("image", self.image()),
            ("trust-domain", self.trust_domain.as_deref()),
            ("cluster-domain", self.cluster_domain.as_deref()),
        ];
        let flags = flags.into_iter();
        let flags = flags.filter_map(|(flag, value)| Some(format!("--{flag} {}", quoted(value?))));
        let settings = self.settings.iter();
        let settings = settings.map(|one| format!("--set {}", quoted(&String::from(one.clone()))));
        flags.chain(settings).collect()
    }

    /// What of `before` these leave as it is.
    pub(super) fn kept_of(&self, before: &Self) -> Vec<String> {
        let all = self.clone().over(before.clone()).words();
        let now = self.words();
        all.into_iter().filter(|word| !now.contains(word)).collect()
    }

    /// These, and where they say nothing, those of before.
    pub(super) fn over(self, before: Self) -> Self {
        let overlay = match self.ha {
            true => Some(Overlay::Ha),
            false => self.overlay.or(before.overlay),
        };
        // Later settings win, so those of before come first.
        let same =
            |one: &Setting, other: &Setting| (one.part, &one.name) == (other.part, &other.name);
        let mut settings = before.settings;
        settings.retain(|old| !self.settings.iter().any(|new| same(old, new)));
        settings.extend(self.settings);
        Self {
            overlay,
            ha: false,
            image: self.image.or(before.image),
            trust_domain: self.trust_domain.or(before.trust_domain),
            cluster_domain: self.cluster_domain.or(before.cluster_domain),
            settings,
        }
    }

    /// Fills all of it in.
    ///
    /// # Errors
    /// A value that means nothing.
    pub(super) fn fill(&self, objects: &mut [Value]) -> anyhow::Result<()> {
        if let Some(domain) = &self.trust_domain {
            TrustDomain::parse(domain).context("read --trust-domain")?;
        }
        self.refuse_secrets()?;
        for object in objects.iter_mut().filter(|object| is(object, "Deployment")) {
            self.fill_one(object);
        }
        let chosen = Self {
            overlay: Some(self.overlay()).filter(|overlay| *overlay != Overlay::Base),
            ha: false,
            ..self.clone()
        };
        let record = objects.iter_mut().find(|object| named(object) == RECORD);
        let record = record.and_then(|record| record.pointer_mut("/data/choices"));
        let record = record.context("find where the choices are written down")?;
        *record = serde_json::to_string(&chosen)?.into();
        Ok(())
    }

    /// What is chosen is written down for everybody who may read ConfigMaps, Deployments and pods.
    fn refuse_secrets(&self) -> anyhow::Result<()> {
        for setting in &self.settings {
            if setting.name.ends_with("_HEADERS") {
                anyhow::bail!(
                    "--set {}: the control plane sends no spans. For the proxies: --set injector.WEFT_PROXY_ENV={}=secret:NAME/KEY, \
                     with a Secret in each of their namespaces",
                    setting.place(),
                    setting.name
                );
            }
            if setting.name == "WEFT_PROXY_ENV" {
                let read = variables(&setting.value).map_err(anyhow::Error::msg);
                read.with_context(|| format!("read --set {}", setting.place()))?;
            }
        }
        Ok(())
    }

    fn fill_one(&self, deployment: &mut Value) {
        if let Some(image) = &self.image
            && let Some(place) = deployment.pointer_mut(&format!("{CONTAINER}/image"))
        {
            *place = image.clone().into();
        }
        if let Some(domain) = &self.trust_domain {
            replace(deployment, "WEFT_TRUST_DOMAIN", domain);
        }
        if let Some(domain) = &self.cluster_domain {
            replace(deployment, "WEFT_CLUSTER_DOMAIN", domain);
        }
        for setting in &self.settings {
            let part = named(deployment).strip_prefix("weft-");
            if part.is_some_and(|part| setting.of(part)) {
                setting.fill(deployment);
            }
        }
    }

    /// What is written down in the cluster's own copy.
    ///
    /// # Errors
    /// Somebody else has written there.
    pub(super) fn written_down(record: &Value) -> anyhow::Result<Self> {
        let text = record.pointer("/data/choices").and_then(Value::as_str);
        serde_json::from_str(text.unwrap_or("{}")).context(
            "read what was chosen at the installation (ConfigMap weft-system/weft-install)",
        )
    }
}

impl Setting {
    /// `part.name`.
    fn place(&self) -> String {
        let part = match self.part {
            Part::All => "all",
            Part::One(part) => part,
        };
        format!("{part}.{}", self.name)
    }

    /// Whether it is meant for this part.
    fn of(&self, part: &str) -> bool {
        match self.part {
            Part::All => true,
            Part::One(one) => one == part,
        }
    }

    fn fill(&self, deployment: &mut Value) {
        let resources = format!("{CONTAINER}/resources");
        let (place, key) = match self.name.as_str() {
            "replicas" => {
                if let Some(place) = deployment.pointer_mut("/spec/replicas") {
                    *place = json!(self.value.parse::<u32>().unwrap_or(1));
                }
                return;
            }
            "cpu" => (format!("{resources}/requests"), "cpu"),
            "memory" => (format!("{resources}/requests"), "memory"),
            "cpu-limit" => (format!("{resources}/limits"), "cpu"),
            "memory-limit" => (format!("{resources}/limits"), "memory"),
            variable => return set(deployment, variable, &self.value),
        };
        if let Some(Value::Object(place)) = deployment.pointer_mut(&place) {
            place.insert(key.to_owned(), self.value.clone().into());
        }
    }
}

impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let form = || SettingError::Form(text.to_owned());
        let (path, value) = text.split_once('=').ok_or_else(form)?;
        let (part, name) = path.split_once('.').ok_or_else(form)?;
        let part = match PARTS.iter().find(|known| **known == part) {
            Some(part) => Part::One(part),
            None if part == "all" => Part::All,
            None => return Err(SettingError::Part(part.to_owned())),
        };
        let variable = name.starts_with("WEFT_") || name.starts_with("OTEL_");
        if !(variable || NAMES.contains(&name)) {
            return Err(SettingError::Name(name.to_owned()));
        }
        if value.is_empty() {
            return Err(SettingError::Value(path.to_owned()));
        }
        if name == "replicas" && value.parse::<u32>().is_err() {
            return Err(SettingError::Replicas(value.to_owned()));
        }
        Ok(Self {
            part,
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl TryFrom<String> for Setting {
    type Error = SettingError;

    fn try_from(text: String) -> Result<Self, SettingError> {
        text.parse()
    }
}

impl From<Setting> for String {
    fn from(setting: Setting) -> Self {
        format!("{}={}", setting.place(), setting.value)
    }
}

fn hint(name: &str) -> String {
    let near = nearest(name, NAMES);
    near.map_or_else(String::new, |near| format!("; did you mean {near}?"))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |one: char| one.is_ascii_alphanumeric() || "_./:=@,%+-".contains(one);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Sets a variable where there is one of that name.
fn replace(deployment: &mut Value, name: &str, value: &str) {
    if variable(deployment, name).is_some() {
        set(deployment, name, value);
    }
}

/// Sets a variable.
fn set(deployment: &mut Value, name: &str, value: &str) {
    let entry = json!({"name": name, "value": value});
    if let Some(place) = variable(deployment, name) {
        *place = entry;
    } else if let Some(Value::Array(all)) = deployment.pointer_mut(&format!("{CONTAINER}/env")) {
        all.push(entry);
    }
}

fn variable<'a>(deployment: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let all = deployment.pointer_mut(&format!("{CONTAINER}/env"))?;
    let mut all = all.as_array_mut()?.iter_mut();
    all.find(|one| one.get("name").is_some_and(|found| found == name))
}

fn is(object: &Value, kind: &str) -> bool {
    object.get("kind").is_some_and(|found| found == kind)
}

fn named(object: &Value) -> &str {
    let name = object.pointer("/metadata/name");
    name.and_then(Value::as_str).unwrap_or_default()
}

/// Every Deployment has one container; a test sees to it.
const CONTAINER: &str = "/spec/template/spec/containers/0";
/// The ConfigMap in which the choices are written down.
pub(super) const RECORD: &str = "weft-install";
const PARTS: [&str; 3] = ["ca", "discovery", "injector"];
const NAMES: [&str; 5] = ["replicas", "cpu", "memory", "cpu-limit", "memory-limit"];
