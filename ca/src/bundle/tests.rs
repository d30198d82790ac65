//! Which namespaces are written to, and how often.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use weft_policy::spiffe::TrustDomain;

use super::*;
use crate::issuer::Issuer;

fn texts() -> Texts {
    let issuer = Issuer::generate(&TrustDomain::parse("cluster.local").unwrap()).unwrap();
    Texts::of(issuer.bundle(), Some(1))
}

fn namespace(name: &str) -> PartialObjectMeta<Namespace> {
    PartialObjectMeta {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..PartialObjectMeta::default()
    }
}

fn map(namespace: &str, texts: &Texts, by: &str) -> ConfigMap {
    let own = |key: &str, text: &str| (key.to_owned(), text.to_owned());
    let labels = [own("app.kubernetes.io/managed-by", by)];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some("weft-ca-root".to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        data: Some([own(PEM, &texts.pem), own(JSON, &texts.json)].into()),
        ..ConfigMap::default()
    }
}

#[test]
fn our_own_namespace_and_those_of_the_mesh_are_written_to() {
    let (texts, mut known) = (texts(), Known::default());
    assert_eq!(known.wrong("weft-system", &texts), ["weft-system"]);
    known.namespace(Event::Apply(namespace("shop")));
    assert_eq!(known.wrong("weft-system", &texts), ["shop", "weft-system"]);
    for name in ["shop", "weft-system"] {
        known.map(Event::Apply(map(name, &texts, US)));
    }
    assert_eq!(known.wrong("weft-system", &texts), [""; 0]);
}

#[test]
fn what_is_edited_or_deleted_is_put_back() {
    let (texts, mut known) = (texts(), Known::default());
    let mut foreign = map("shop", &texts, US);
    foreign
        .data
        .as_mut()
        .unwrap()
        .insert(PEM.to_owned(), "x".to_owned());
    known.map(Event::Apply(map("weft-system", &texts, US)));
    known.map(Event::Apply(foreign));
    assert_eq!(known.wrong("weft-system", &texts), ["shop"]);
    known.map(Event::Delete(map("weft-system", &texts, US)));
    assert_eq!(known.wrong("weft-system", &texts), ["shop", "weft-system"]);
}

#[test]
fn a_namespace_that_leaves_the_mesh_keeps_right_roots() {
    let (old, new, mut known) = (texts(), texts(), Known::default());
    known.namespace(Event::Apply(namespace("shop")));
    known.map(Event::Apply(map("shop", &old, US)));
    known.map(Event::Apply(map("others", &old, "somebody")));
    known.map(Event::Apply(map("weft-system", &new, US)));
    known.namespace(Event::Delete(namespace("shop")));
    assert_eq!(known.wrong("weft-system", &new), ["shop"]);
    known.map(Event::Delete(map("shop", &old, US)));
    assert_eq!(known.wrong("weft-system", &new), [""; 0]);
}

#[test]
fn a_namespace_that_is_about_to_go_is_left_alone() {
    let (texts, mut known) = (texts(), Known::default());
    let mut going = namespace("shop");
    going.metadata.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
    known.namespace(Event::Apply(going));
    known.map(Event::Apply(map("weft-system", &texts, US)));
    assert_eq!(known.wrong("weft-system", &texts), [""; 0]);
}

#[test]
fn a_namespace_that_is_about_to_go_is_so_while_it_is_listed_anew() {
    let (texts, mut known) = (texts(), Known::default());
    let mut going = namespace("shop");
    going.metadata.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
    known.namespace(Event::Apply(going));
    known.namespace(Event::Apply(namespace("bank")));
    known.map(Event::Apply(map("weft-system", &texts, US)));
    let mut old = map("shop", &texts, US);
    old.data = None;
    known.map(Event::Apply(old));
    known.namespace(Event::Init);
    assert_eq!(known.wrong("weft-system", &texts), ["bank"]);
    known.namespace(Event::InitApply(namespace("bank")));
    known.namespace(Event::InitDone);
    assert_eq!(known.wrong("weft-system", &texts), ["bank", "shop"]);
    known.namespace(Event::Init);
    known.namespace(Event::InitDone);
    known.map(Event::Delete(map("shop", &texts, US)));
    assert_eq!(known.wrong("weft-system", &texts), [""; 0]);
}

#[test]
fn what_is_not_in_a_new_list_is_gone() {
    let (texts, mut known) = (texts(), Known::default());
    known.map(Event::Apply(map("weft-system", &texts, US)));
    known.map(Event::Init);
    assert_eq!(known.wrong("weft-system", &texts), [""; 0]);
    known.map(Event::InitDone);
    assert_eq!(known.wrong("weft-system", &texts), ["weft-system"]);
}

#[test]
fn each_rewrite_comes_later_than_the_one_before() {
    let now = Instant::now();
    let mut pace = Pace::new(now);
    let mut waits = Vec::new();
    for _ in 0..9 {
        pace.written(now);
        waits.push((pace.due() - now).as_millis());
    }
    assert_eq!(
        waits,
        [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 32_000, 32_000]
    );
}
