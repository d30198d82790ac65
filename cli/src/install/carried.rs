//! What an upgrade begins with, told: the image, and which choices are those of the installation.

use std::fmt::Write as _;

use serde_json::Value;
use weft_injector::settings::{DEFAULT_IMAGE, VERSION};

use super::values::Choices;
use crate::objects::{array, name, tag, text};

/// Whose choices an upgrade is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried<'a> {
    /// What was said now.
    pub(super) given: &'a Choices,
    /// What is written down of the installation.
    pub(super) before: &'a Choices,
    /// What is there, of which the Deployments are looked at.
    pub(super) there: &'a [Value],
}

impl Carried<'_> {
    /// A line each, for people.
    pub(super) fn told(self) -> String {
        let mut text = self.image();
        for (title, words) in [
            (
                "kept from the installation",
                self.given.kept_of(self.before),
            ),
            ("said now", self.given.words()),
        ] {
            if !words.is_empty() {
                let _infallible = writeln!(text, "{title}: {}", words.join(" "));
            }
        }
        text
    }

    /// Whoever gave an image at the installation has a registry of their own, which need not have one of this version: it stays, and that is said.
    fn image(self) -> String {
        match (self.given.image(), self.before.image()) {
            (Some(image), _) => format!("image {image}, as said now\n"),
            (None, Some(image)) if tag(image) == Some(VERSION) => {
                format!("image {image} stays, as it was said at the installation\n")
            }
            (None, Some(image)) => format!(
                "warning: image {image} stays, as it was said at the installation, and has another tag than this version, {VERSION}.\n  \
                 Where your registry has this version: weft upgrade --image {}\n",
                retagged(image)
            ),
            (None, None) => {
                format!(
                    "image {DEFAULT_IMAGE}, which is this version's\n{}",
                    self.unrecorded()
                )
            }
        }
    }

    /// An image that Kustomize or a patch put there is written down nowhere, so it goes.
    fn unrecorded(self) -> String {
        let images = self.there.iter().filter_map(image_of);
        let mut strange = images.filter(|image| repository(image) != repository(DEFAULT_IMAGE));
        strange.next().map_or_else(String::new, |image| {
            format!(
                "warning: image {image} runs now and was not chosen with weft, so it is replaced.\n  \
                 To stay with your registry: weft upgrade --image {}\n",
                retagged(image)
            )
        })
    }
}

/// Of one of our Deployments.
fn image_of(object: &Value) -> Option<&str> {
    let ours = text(object, "/kind") == "Deployment" && name(object).starts_with("weft-");
    let containers = array(object, "/spec/template/spec/containers");
    Some(text(containers.first().filter(|_| ours)?, "/image"))
}

/// The same image with the tag of this version.
fn retagged(image: &str) -> String {
    format!("{}:{VERSION}", repository(image))
}

/// Without tag and digest: `registry:5000/name`.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    match tag(image) {
        Some(tag) => image
            .strip_suffix(tag)
            .map_or(image, |rest| rest.trim_end_matches(':')),
        None => image,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::install::tests::choices;

    fn told(given: &[&str], before: &[&str], image: &str) -> String {
        let there = json!({"kind": "Deployment", "metadata": {"name": "weft-ca"},
            "spec": {"template": {"spec": {"containers": [{"image": image}]}}}});
        Carried {
            given: &choices(given),
            before: &choices(before),
            there: &[
                json!({"kind": "Namespace", "metadata": {"name": "weft-system"}}),
                there,
            ],
        }
        .told()
    }

    #[test]
    fn the_image_is_this_version_s_unless_one_was_given() {
        let own = told(&[], &["--overlay", "ha"], "weft.dev/weft:0.0.1");
        assert_eq!(
            own,
            format!(
                "image {DEFAULT_IMAGE}, which is this version's\nkept from the installation: --overlay ha\n"
            )
        );
        let old = "registry.test:5000/weft:0.0.1@sha256:ab";
        let kept = told(&[], &["--image", old], old);
        assert!(
            kept.starts_with(&format!("warning: image {old} stays")),
            "{kept}"
        );
        assert!(
            kept.contains(&format!(
                "weft upgrade --image registry.test:5000/weft:{VERSION}\n"
            )),
            "{kept}"
        );
        let same = format!("registry.test/weft:{VERSION}");
        let kept = told(&[], &["--image", &same], &same);
        assert!(kept.starts_with(&format!("image {same} stays")), "{kept}");
        let now = told(&["--image", &same], &["--image", old], old);
        assert_eq!(
            now,
            format!("image {same}, as said now\nsaid now: --image {same}\n")
        );
    }

    #[test]
    fn an_image_that_is_written_down_nowhere_is_told_of() {
        let kustomized = told(&[], &[], "registry.test/weft:0.0.1");
        assert!(
            kustomized.contains(
                "warning: image registry.test/weft:0.0.1 runs now and was not chosen with weft"
            ),
            "{kustomized}"
        );
        assert!(!told(&[], &[], DEFAULT_IMAGE).contains("warning"));
    }

    #[test]
    fn what_is_kept_is_what_was_not_said_anew() {
        let told = told(
            &["--set", "all.WEFT_LOG=warn", "--trust-domain", "b.test"],
            &[
                "--trust-domain",
                "a.test",
                "--set",
                "all.WEFT_LOG=debug",
                "--set",
                "ca.replicas=5",
                "--set",
                "ca.WEFT_X=a b",
            ],
            DEFAULT_IMAGE,
        );
        assert!(
            told.contains(
                "kept from the installation: --set ca.replicas=5 --set 'ca.WEFT_X=a b'\n"
            ),
            "{told}"
        );
        assert!(
            told.contains("said now: --trust-domain b.test --set all.WEFT_LOG=warn\n"),
            "{told}"
        );
    }
}
