//! Which layers act while the control plane is away, and when it is there.

use weft_api::weft;
use weft_policy::own::Mtls;
use weft_policy::spiffe::TrustDomain;

use super::*;

fn scope() -> Scope {
    Scope {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        namespace: "shop".to_owned(),
    }
}

fn layer(kind: LayerKind, text: &str) -> Layer {
    Layer::from_document(kind, kind.as_str(), text, &scope()).unwrap()
}

#[test]
fn what_was_left_with_the_pod_acts_until_the_control_plane_speaks() {
    let layers = Layers {
        own: vec![layer(LayerKind::Pod, "retry: 3")],
        lower: vec![layer(LayerKind::Namespace, "mtls: strict")],
    };
    let policies = Policies::new(scope(), layers).unwrap();
    let mtls = || policies.current().policy.inbound.mtls;
    assert_eq!(mtls(), Some(Mtls::Strict));
    policies.take_told(Told::default());
    assert_eq!(mtls(), Some(Mtls::Strict), "nobody has said anything");
    let told = |inbound| Told {
        inbound: Some(inbound),
        ..Told::default()
    };
    policies.take_told(told(vec![weft::Layer {
        kind: "namespace".to_owned(),
        object: "shop".to_owned(),
        document: "{\"mtls\": \"permissive\"}".to_owned(),
        ..weft::Layer::default()
    }]));
    assert_eq!(mtls(), Some(Mtls::Permissive));
    policies.take_told(told(Vec::new()));
    assert_eq!(mtls(), None, "the control plane knows of nothing");
    assert_eq!(policies.current().policy.calls.retry.attempts, 3);
}
