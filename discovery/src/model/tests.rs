use std::collections::BTreeMap;

use weft_api::ads::DeltaDiscoveryRequest;
use weft_api::weft;
use weft_api::workload::{
    Address, AppProtocol, Service as ServiceMessage, TunnelProtocol, Workload, WorkloadStatus,
    address,
};

use super::*;
use crate::cluster::{Condition, ServicePort, SliceEndpoint};
use crate::subscriber::{Caller, Subscriber};
use prost::Message;

fn model() -> Model {
    Model::new(Names {
        cluster_domain: "cluster.local".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
    })
}

fn orders() -> Key {
    Key::new("shop", "orders")
}

fn service() -> Service {
    Service {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![
            ServicePort {
                name: "http".to_owned(),
                port: 80,
                protocol: AppProtocol::Http11,
            },
            ServicePort {
                name: "grpc".to_owned(),
                port: 90,
                protocol: AppProtocol::Grpc,
            },
        ],
        ..Service::default()
    }
}

fn slice(conditions: &[Condition]) -> Slice {
    let endpoint = |(number, condition): (usize, &Condition)| SliceEndpoint {
        addresses: vec![format!("10.0.0.{number}").parse().unwrap()],
        condition: *condition,
        pod: Some(Key::new("shop", &format!("orders-{number}"))),
        zone: Some("a".to_owned()),
        hints: Vec::new(),
    };
    Slice {
        service: orders(),
        ports: vec![("http".to_owned(), 8080), ("grpc".to_owned(), 9090)],
        endpoints: conditions.iter().enumerate().map(endpoint).collect(),
    }
}

fn pod(number: usize) -> (Key, Pod) {
    let pod = Pod {
        addresses: vec![format!("10.0.0.{number}").parse().unwrap()],
        account: "orders".to_owned(),
        meshed: true,
        owner: Some(owner("ReplicaSet", "orders-1")),
        ..Pod::default()
    };
    (Key::new("shop", &format!("orders-{number}")), pod)
}

fn owner(kind: &str, name: &str) -> OwnerRef {
    OwnerRef {
        kind: kind.into(),
        key: Key::new("shop", name),
    }
}

fn notes(annotations: &[(&str, &str)]) -> Notes {
    let annotations = annotations
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Notes {
        annotations: annotations.collect(),
        ..Notes::default()
    }
}

/// A model with the service, its slice and its pods.
fn shop(conditions: &[Condition]) -> (Model, Board) {
    let (mut model, mut board) = (model(), Board::default());
    model.apply(Change::Service(orders(), Some(service())));
    model.apply(Change::Slice(
        Key::new("shop", "orders-x"),
        Some(slice(conditions)),
    ));
    for number in 0..conditions.len() {
        let (key, pod) = pod(number);
        model.apply(Change::Pod(key, Some(pod)));
    }
    let replica_set = Owner {
        owner: Some(owner("Deployment", "orders")),
        ..Owner::default()
    };
    model.apply(Change::Owner(
        owner("ReplicaSet", "orders-1"),
        Some(replica_set),
    ));
    model.flush(&mut board);
    (model, board)
}

fn told_service(board: &Board, name: &str) -> Option<ServiceMessage> {
    match Address::decode(board.find(Kind::Address, name)?.body.clone())
        .unwrap()
        .r#type?
    {
        address::Type::Service(service) => Some(service),
        address::Type::Workload(_) => None,
    }
}

fn told_workload(board: &Board, name: &str) -> Option<Workload> {
    match Address::decode(board.find(Kind::Address, name)?.body.clone())
        .unwrap()
        .r#type?
    {
        address::Type::Workload(workload) => Some(workload),
        address::Type::Service(_) => None,
    }
}

fn calls(board: &Board, name: &str) -> Vec<(String, String)> {
    let entry = board.find(Kind::RoutePolicy, name).unwrap();
    let policy = weft::RoutePolicy::decode(entry.body.clone()).unwrap();
    policy
        .layers
        .into_iter()
        .map(|layer| (layer.kind, layer.document))
        .collect()
}

const NAME: &str = "shop/orders.shop.svc.cluster.local";

#[test]
fn a_service_is_found_by_name_and_by_address() {
    let (_, board) = shop(&[Condition::Ready]);
    for name in [NAME, "/10.96.0.1"] {
        let service = told_service(&board, name).unwrap();
        assert_eq!(service.hostname, "orders.shop.svc.cluster.local", "{name}");
        assert_eq!(service.ports.len(), 2, "{name}");
    }
    assert!(told_service(&board, "/10.96.0.2").is_none());
}

#[test]
fn a_pod_is_part_of_a_service_as_its_slice_says() {
    let rows = [
        (Condition::Ready, true, WorkloadStatus::Healthy),
        (Condition::Ending, true, WorkloadStatus::Unhealthy),
        (Condition::Unready, false, WorkloadStatus::Healthy),
    ];
    for (condition, part, status) in rows {
        let (_, board) = shop(&[condition]);
        let workload = told_workload(&board, "/10.0.0.0").unwrap();
        assert_eq!(workload.services.contains_key(NAME), part, "{condition:?}");
        assert_eq!(workload.status(), status, "{condition:?}");
        assert_eq!(workload.tunnel_protocol(), TunnelProtocol::LegacyIstioMtls);
        assert_eq!(workload.workload_name, "orders");
        if part {
            let ports: Vec<_> = workload.services[NAME]
                .ports
                .iter()
                .map(|port| (port.service_port, port.target_port))
                .collect();
            assert_eq!(ports, [(80, 8080), (90, 9090)]);
        }
    }
}

#[test]
fn an_address_is_that_of_its_newest_owner() {
    let (mut model, mut board) = shop(&[Condition::Ready]);
    let (_, mut other) = pod(0);
    other.account = "other".to_owned();
    model.apply(Change::Pod(Key::new("shop", "other"), Some(other)));
    model.flush(&mut board);
    assert_eq!(
        told_workload(&board, "/10.0.0.0").unwrap().service_account,
        "other"
    );
    // The old one's end takes nothing from the new one.
    model.apply(Change::Pod(Key::new("shop", "orders-0"), None));
    model.flush(&mut board);
    assert_eq!(
        told_workload(&board, "/10.0.0.0").unwrap().service_account,
        "other"
    );
}

#[test]
fn callers_learn_what_each_layer_says_weakest_first() {
    let (mut model, mut board) = shop(&[Condition::Ready]);
    model.apply(Change::Defaults(Some(notes(&[(
        "weft.dev/policy",
        "timeout: 9s\nmtls: strict",
    )]))));
    model.apply(Change::Namespace(
        "shop".into(),
        Some(notes(&[("weft.dev/timeout", "8s")])),
    ));
    let deployment = Owner {
        notes: notes(&[("weft.dev/retry", "3")]),
        ..Owner::default()
    };
    model.apply(Change::Owner(
        owner("Deployment", "orders"),
        Some(deployment),
    ));
    let mut annotated = service();
    annotated.notes = notes(&[("weft.dev/timeout", "1s")]);
    model.apply(Change::Service(orders(), Some(annotated)));
    model.flush(&mut board);
    let layers = calls(&board, NAME);
    let kinds: Vec<&str> = layers.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["mesh", "namespace", "workload", "service"]);
    assert!(
        !layers[0].1.contains("strict"),
        "what is not for callers stays: {}",
        layers[0].1
    );
    let own = board
        .find(Kind::InboundPolicy, "Kubernetes//Pod/shop/orders-0")
        .unwrap();
    assert_eq!(own.only_for.as_deref(), Some("ns/shop/sa/orders"));
    let own = weft::InboundPolicy::decode(own.body.clone()).unwrap();
    assert!(own.layers[0].document.contains("strict"));
    assert_eq!(own.layers.len(), 3);
}

#[test]
fn bad_annotations_are_told_once_and_the_last_good_ones_stay() {
    let (mut model, mut board) = shop(&[Condition::Ready]);
    for (value, problems) in [("8s", 0), ("soon", 1), ("soon", 0)] {
        model.apply(Change::Namespace(
            "shop".into(),
            Some(notes(&[("weft.dev/timeout", value)])),
        ));
        model.flush(&mut board);
        assert_eq!(model.take_problems().len(), problems, "{value}");
        assert!(calls(&board, NAME)[0].1.contains("8s"), "{value}");
    }
    assert_eq!(model.problems(), 1);
}

fn subscriber(board: &Board) -> Subscriber {
    let caller = Caller {
        namespace: "web".into(),
        account: "web".into(),
    };
    Subscriber::new(caller, board)
}

fn ask(names: &[&str], versions: BTreeMap<String, String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: weft_api::ADDRESS.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        initial_resource_versions: versions,
        ..DeltaDiscoveryRequest::default()
    }
}

fn told(subscriber: &mut Subscriber, board: &Board) -> (Vec<String>, Vec<String>) {
    let (mut names, mut removed) = (Vec::new(), Vec::new());
    for response in subscriber.responses(board) {
        names.extend(response.resources.into_iter().map(|one| one.name));
        removed.extend(response.removed_resources);
    }
    (names, removed)
}

#[test]
fn a_service_brings_its_workloads_and_only_changes_follow() {
    let (mut model, mut board) = shop(&[Condition::Ready, Condition::Ready]);
    let mut subscriber = subscriber(&board);
    subscriber
        .request(&ask(&["/10.96.0.1", "/10.99.0.1"], BTreeMap::new()))
        .unwrap();
    let (names, removed) = told(&mut subscriber, &board);
    assert_eq!(
        names,
        [
            NAME,
            "Kubernetes//Pod/shop/orders-0",
            "Kubernetes//Pod/shop/orders-1"
        ]
    );
    assert_eq!(removed, ["/10.99.0.1"]);
    assert_eq!(told(&mut subscriber, &board), (vec![], vec![]));

    model.apply(Change::Slice(
        Key::new("shop", "orders-x"),
        Some(slice(&[Condition::Ready, Condition::Unready])),
    ));
    model.flush(&mut board);
    let (names, removed) = told(&mut subscriber, &board);
    assert_eq!(
        (names, removed),
        (vec![], vec!["Kubernetes//Pod/shop/orders-1".to_owned()])
    );

    model.apply(Change::Service(orders(), None));
    model.flush(&mut board);
    let (names, mut removed) = told(&mut subscriber, &board);
    removed.sort();
    assert_eq!(names, Vec::<String>::new());
    assert_eq!(
        removed,
        ["/10.96.0.1", "Kubernetes//Pod/shop/orders-0", NAME]
    );
}

#[test]
fn who_comes_back_is_told_only_what_is_new() {
    let (mut model, mut board) = shop(&[Condition::Ready, Condition::Ready]);
    let mut first = subscriber(&board);
    first
        .request(&ask(&["/10.96.0.1"], BTreeMap::new()))
        .unwrap();
    let responses = first.responses(&board);
    let resources = responses
        .into_iter()
        .flat_map(|response| response.resources);
    let versions: BTreeMap<String, String> = resources.map(|one| (one.name, one.version)).collect();
    model.apply(Change::Slice(
        Key::new("shop", "orders-x"),
        Some(slice(&[Condition::Ready, Condition::Ending])),
    ));
    model.apply(Change::Pod(Key::new("shop", "orders-0"), None));
    model.flush(&mut board);
    let mut second = subscriber(&board);
    second.request(&ask(&["/10.96.0.1"], versions)).unwrap();
    let changed = "Kubernetes//Pod/shop/orders-1".to_owned();
    let gone = "Kubernetes//Pod/shop/orders-0".to_owned();
    assert_eq!(told(&mut second, &board), (vec![changed], vec![gone]));
}

#[test]
fn who_is_too_far_behind_compares_everything() {
    let (mut model, mut board) = shop(&[Condition::Ready]);
    let mut subscriber = subscriber(&board);
    subscriber.request(&ask(&[NAME], BTreeMap::new())).unwrap();
    assert_eq!(told(&mut subscriber, &board).0.len(), 2);
    for round in 0..10_000_u32 {
        let (key, mut pod) = pod(0);
        pod.node = format!("node-{round}");
        model.apply(Change::Pod(key, Some(pod)));
        model.flush(&mut board);
    }
    assert_eq!(
        told(&mut subscriber, &board).0,
        ["Kubernetes//Pod/shop/orders-0"]
    );
}
