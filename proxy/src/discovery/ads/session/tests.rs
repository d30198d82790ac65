use std::net::IpAddr;

use weft_api::ROUTE_POLICY;
use weft_api::workload::{NetworkAddress, Port, PortList, address};

use super::*;

const ORDERS: &str = "shop/orders.shop.svc.cluster.local";
const POD: &str = "Kubernetes//Pod/shop/orders-1";

fn octets(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn orders(ip: &str) -> Address {
    Address {
        r#type: Some(address::Type::Service(Service {
            name: "orders".to_owned(),
            namespace: "shop".to_owned(),
            hostname: "orders.shop.svc.cluster.local".to_owned(),
            addresses: vec![NetworkAddress {
                network: String::new(),
                address: octets(ip),
            }],
            ports: vec![Port {
                service_port: 80,
                ..Port::default()
            }],
            ..Service::default()
        })),
    }
}

fn pod(name: &str, ip: &str, account: &str) -> Address {
    Address {
        r#type: Some(address::Type::Workload(Workload {
            uid: name.to_owned(),
            namespace: "shop".to_owned(),
            addresses: vec![octets(ip)],
            service_account: account.to_owned(),
            services: BTreeMap::from([(ORDERS.to_owned(), PortList::default())]),
            ..Workload::default()
        })),
    }
}

fn response(kind: Kind, resources: &[(&str, Vec<u8>)], removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: "7".to_owned(),
        resources: resources
            .iter()
            .map(|(name, bytes)| resource(kind, name, "v1", bytes.clone()))
            .collect(),
        removed_resources: removed.iter().map(|&name| name.to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// A session that knows the service by its address, with one pod.
fn known() -> Session {
    let mut session = Session::new(None);
    session.want("/10.96.0.1").unwrap();
    session.connected();
    session.requests();
    let both = [
        (ORDERS, orders("10.96.0.1").encode_to_vec()),
        (POD, pod(POD, "10.0.0.1", "orders").encode_to_vec()),
    ];
    session.take(response(Kind::Address, &both, &[]));
    session
}

fn subscribed(requests: &[DeltaDiscoveryRequest]) -> Vec<&str> {
    let names = requests
        .iter()
        .flat_map(|request| &request.resource_names_subscribe);
    names.map(String::as_str).collect()
}

#[test]
fn a_service_is_settled_when_its_policy_is() {
    let mut session = known();
    assert!(!session.is_settled("/10.96.0.1"));
    let requests = session.requests();
    assert_eq!(subscribed(&requests), [ORDERS]);
    assert_eq!(requests[0].type_url, ROUTE_POLICY);
    let answer = session.take(response(Kind::RoutePolicy, &[], &[ORDERS]));
    assert_eq!(
        (answer.response_nonce.as_str(), answer.error_detail),
        ("7", None)
    );
    assert!(session.is_settled("/10.96.0.1"));
    assert!(session.requests().is_empty());
}

#[test]
fn what_is_nobodys_is_absent_until_it_is_somebodys() {
    let mut session = known();
    session.want("/10.96.0.2").unwrap();
    assert!(!session.is_settled("/10.96.0.2"));
    session.take(response(Kind::Address, &[], &["/10.96.0.2"]));
    assert_eq!(session.absent().collect::<Vec<_>>(), ["/10.96.0.2"]);
    session.take(response(
        Kind::Address,
        &[(ORDERS, orders("10.96.0.2").encode_to_vec())],
        &[],
    ));
    assert_eq!(session.find("/10.96.0.2").unwrap().0, ORDERS);
}

#[test]
fn an_address_belongs_to_its_newest_owner() {
    let mut session = known();
    session.take(response(
        Kind::Address,
        &[("other", pod("other", "10.0.0.1", "other").encode_to_vec())],
        &[],
    ));
    assert_eq!(session.find("/10.0.0.1").unwrap().0, "other");
    let accounts: Vec<&str> = session
        .workloads()
        .map(|one| one.service_account.as_str())
        .collect();
    assert_eq!(accounts, ["other"], "the former owner is nowhere any more");
}

#[test]
fn an_update_that_cannot_be_read_changes_nothing() {
    let mut session = known();
    let bad = [
        (ORDERS, orders("10.96.0.9").encode_to_vec()),
        (POD, vec![0xff; 9]),
    ];
    let answer = session.take(response(Kind::Address, &bad, &[]));
    assert!(answer.error_detail.unwrap().message.contains(POD));
    assert!(session.find("/10.96.0.1").is_some());
    assert!(session.find("/10.96.0.9").is_none());
}

#[test]
fn a_new_connection_begins_with_what_we_want_and_have() {
    let mut session = known();
    session.connected();
    let requests = session.requests();
    assert_eq!(subscribed(&requests), ["/10.96.0.1", ORDERS]);
    let versions = &requests[0].initial_resource_versions;
    assert_eq!(versions.keys().collect::<Vec<_>>(), [POD, ORDERS]);
}

#[test]
fn what_nobody_calls_is_given_up_and_forgotten() {
    let mut session = known();
    session.take(response(Kind::RoutePolicy, &[], &[ORDERS]));
    session.requests();
    for used in [true, false, false] {
        session.sweep(2, |_| used);
    }
    assert_eq!(session.services().count(), 0);
    assert_eq!(session.workloads().count(), 0);
    let requests = session.requests();
    let given_up: Vec<&str> = requests
        .iter()
        .flat_map(|request| &request.resource_names_unsubscribe)
        .map(String::as_str)
        .collect();
    assert_eq!(given_up, ["/10.96.0.1", ORDERS]);
}

#[test]
fn what_was_known_survives_a_restart() {
    let mut before = known();
    let policy = RoutePolicy {
        service: ORDERS.to_owned(),
        layers: vec![Layer::default()],
    };
    before.take(response(
        Kind::RoutePolicy,
        &[(ORDERS, policy.encode_to_vec())],
        &[],
    ));
    let mut after = Session::new(None);
    after.restore(&before.last_known()).unwrap();
    assert!(after.is_settled("/10.96.0.1"));
    assert_eq!(after.routes().count(), 1);
    assert_eq!(after.workloads().count(), 1);
    after.connected();
    assert_eq!(subscribed(&after.requests()), ["/10.96.0.1", ORDERS]);
}

#[test]
fn wants_have_a_bound() {
    let mut session = Session::new(None);
    for number in 0..MAX_WANTS {
        session.want(&format!("/{number}")).unwrap();
    }
    assert_eq!(session.want("/one more"), Err(TooMany));
    assert_eq!(session.want("/1"), Ok(()));
}
